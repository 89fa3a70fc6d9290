"""Small documents of a server, fetched whole into memory: what a registry and its token service say.

They come as an image does: by the same client, with its redirects, and as patiently.
"""

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from multidict import MultiMapping

from agent.transfer.http.body import take_body
from agent.transfer.http.client import HttpClient
from agent.transfer.http.faults import FatalFault, TransientFault
from agent.transfer.http.head import check_first
from agent.transfer.http.options import HttpOptions
from agent.units import KiB, format_duration, format_size

_PIECE = 64 * KiB


@dataclass(frozen=True, slots=True)
class Document:
    """A document, and what the server says of it."""

    data: bytes
    headers: MultiMapping[str]


async def fetch_document(
    client: HttpClient, extra: Mapping[str, str], limit: int, options: HttpOptions
) -> Document:
    """The document behind the client's URL, of at most `limit` bytes; closes the client.

    Args:
        client: for its URL.
        extra: headers of the request.
        limit: in bytes.
        options: how it is asked for; all attempts together take no more than its limits' `small_file_seconds`.

    Raises:
        FatalFault: it cannot be had, or is larger; `status` tells the answer's.
    """
    seconds = options.limits.small_file_seconds
    attempts = options.attempts()
    try:
        async with asyncio.timeout(seconds):
            while True:
                with attempts.asking():
                    try:
                        return await _read(client, extra, limit, options)
                    except TransientFault as fault:
                        await attempts.wait(fault, position=0, total=None)
    except TimeoutError:
        raise FatalFault(f"it did not come within {format_duration(seconds)}", retryable=True) from None
    finally:
        await client.close()


async def _read(client: HttpClient, extra: Mapping[str, str], limit: int, options: HttpOptions) -> Document:
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
            limits=options.limits,
            clock=options.clock,
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
