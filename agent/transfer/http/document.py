"""Small documents of a server, fetched whole into memory: what a registry and its token service say.

They come as an image does: by the same client, with its redirects, and its patience with what fails.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from multidict import MultiMapping

from agent.transfer.http.attempts import Attempts
from agent.transfer.http.body import take_body
from agent.transfer.http.client import HttpClient
from agent.transfer.http.faults import FatalFault, TransientFault
from agent.transfer.http.head import check_first
from agent.transfer.http.limits import HttpLimits
from agent.transfer.source import EventHook
from agent.units import KiB, format_duration, format_size

_PIECE = 64 * KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one tries, and with which clock and dice."""

    limits: HttpLimits
    on_event: EventHook
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    rng: random.Random

    def attempts(self) -> Attempts:
        """The attempts at one document."""
        return Attempts(self.limits, sleep=self.sleep, clock=self.clock, rng=self.rng, on_event=self.on_event)


@dataclass(frozen=True, slots=True)
class Document:
    """A document, and what the server says of it."""

    data: bytes
    headers: MultiMapping[str]


async def fetch_document(
    client: HttpClient, extra: Mapping[str, str], limit: int, patience: Patience
) -> Document:
    """The document behind the client's URL, of at most `limit` bytes; closes the client.

    Args:
        client: for its URL.
        extra: headers of the request.
        limit: in bytes.
        patience: of the attempts; all together take no more than its limits' `small_file_seconds`.

    Raises:
        FatalFault: it cannot be had, or is larger; `status` tells the answer's.
    """
    seconds = patience.limits.small_file_seconds
    attempts = patience.attempts()
    try:
        async with asyncio.timeout(seconds):
            while True:
                with attempts.asking():
                    try:
                        return await _read(client, extra, limit, patience)
                    except TransientFault as fault:
                        await attempts.wait(fault, position=0, total=None)
    except TimeoutError:
        raise FatalFault(f"it did not come within {format_duration(seconds)}", retryable=True) from None
    finally:
        await client.close()


async def _read(client: HttpClient, extra: Mapping[str, str], limit: int, patience: Patience) -> Document:
    answer = await client.get(dict(extra))
    with answer.closed_on_error():
        check_first(answer.head)
        length = answer.head.length
        if length is not None and length > limit:
            raise _too_large(limit)
        body = take_body(
            answer.response,
            length=length,
            chunked=answer.head.chunked,
            limits=patience.limits,
            clock=patience.clock,
        )
    data, piece = bytearray(), memoryview(bytearray(_PIECE))
    with closing(body):
        while True:
            count = await body.fill(piece)
            data += piece[:count]
            if len(data) > limit:
                raise _too_large(limit)
            if body.fault is not None:
                raise body.fault
            if count < len(piece) or len(data) == length:
                return Document(bytes(data), answer.response.headers)


def _too_large(limit: int) -> FatalFault:
    return FatalFault(f"the server's answer is larger than {format_size(limit)}")
