"""The bodies of requests, read within bounds that hold for the whole server.

A body is read at most once a request, is at most MAX_JOB_BYTES long, and has to be here within a time. Small ones are
read as they come. Of the large ones at most two are held at once, from the byte that makes them large to the end of
their request: callers who have not authenticated yet cannot fill the memory with more.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from agent.model.job_text import MAX_JOB_BYTES
from agent.service.http.errors import ApiError
from agent.service.http.request_head import check_media_type
from agent.units import KiB, format_size

SMALL_BODY = 64 * KiB
"""Bytes up to which a body is not counted among the large ones. Jobs without large user-data are smaller."""
LARGE_BODIES = 2
BODY_SECONDS = 30.0
_BODY = web.RequestKey("body", bytes)
_LARGE = web.RequestKey("large_body", str)
"""Whether a request waits until its large body may be read, or holds one; absent while its body is small."""
_WAITS, _HOLDS = "waits", "holds"


class BodyReader:
    """Reads the bodies of all requests to one server."""

    def __init__(
        self,
        *,
        limit: int = MAX_JOB_BYTES,
        small: int = SMALL_BODY,
        large_at_once: int = LARGE_BODIES,
        seconds: float = BODY_SECONDS,
    ) -> None:
        """Args:
        limit: bytes that a body may have.
        small: bytes up to which it is not counted among the large ones.
        large_at_once: how many large ones are held at once.
        seconds: in which a body has to be here, the wait for other large ones included.
        """
        self._limit = limit
        self._small = small
        self._seconds = seconds
        self._large = asyncio.Semaphore(large_at_once)

    @asynccontextmanager
    async def reading(self, request: web.Request) -> AsyncIterator[None]:
        """The span in which `read` may be called for this request; its body is not counted any more after it."""
        try:
            yield
        finally:
            if request.get(_LARGE) == _HOLDS:
                self._large.release()

    async def read(self, request: web.Request) -> bytes:
        """The whole body; a second call gives the same bytes. Only inside of `reading(request)`.

        Raises:
            ApiError: see `receive`.
        """
        if _BODY not in request:
            parts: list[bytes] = []
            await self.receive(request, parts.append)
            request[_BODY] = b"".join(parts)
        return request[_BODY]

    async def receive(self, request: web.Request, take: Callable[[bytes], object]) -> None:
        """Hand the body on as it comes, and keep nothing of it. Once, and only inside of `reading(request)`.

        Args:
            request: its head has been read.
            take: is given each piece.

        Raises:
            ApiError: 413 larger than the limit, 415 not said to be JSON (see `check_media_type`) or compressed (a
                signature is of the bytes as sent, and a small body may unpack to a huge one), 408 not here in time,
                503 too many large ones at once.
        """
        self._check_head(request)
        try:
            async with asyncio.timeout(self._seconds):
                await self._receive(request, take)
        except TimeoutError:
            raise self._late(request) from None

    def _check_head(self, request: web.Request) -> None:
        if request.content_length is not None and request.content_length > self._limit:
            raise self._too_large()
        check_media_type(request)
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise ApiError(415, "The body must be sent as it is, without Content-Encoding.")

    async def _receive(self, request: web.Request, take: Callable[[bytes], object]) -> None:
        if (request.content_length or 0) > self._small:
            await self._count_as_large(request)
        length = 0
        while part := await request.content.readany():
            length += len(part)
            if length > self._limit:
                raise self._too_large()
            if length > self._small:
                await self._count_as_large(request)
            take(part)

    async def _count_as_large(self, request: web.Request) -> None:
        if _LARGE not in request:
            request[_LARGE] = _WAITS
            await self._large.acquire()
            request[_LARGE] = _HOLDS

    def _late(self, request: web.Request) -> ApiError:
        if request.get(_LARGE) == _WAITS:
            return ApiError(503, "Too many large requests at once; try again.", headers={"Retry-After": "5"})
        return ApiError(408, f"The body of the request did not arrive within {self._seconds:g} seconds.")

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body of the request may have at most {format_size(self._limit)}.")
