"""One part of a deployment by itself, with the agent's own code.

    alone.py receive URL | download URL | hash SIZE | write SIZE PATH

Prints the bytes and the seconds of the part as JSON; imports and set-up are not in the seconds. The buffers are
those of the agent's pool, and they are used again and again as in a deployment.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator

from agent.formats.extent import Extent
from agent.host.disk import TargetDisk, make_sparse
from agent.transfer.digest import Digest
from agent.transfer.http.source import HttpSource
from agent.transfer.meter import Meter
from agent.transfer.pipeline import copy
from agent.transfer.pool import Buffer, BufferPool

# What a running deployment has on its way when nothing lags.
BUFFERS = 4


async def receive(url: str) -> tuple[int, float]:
    """From the first byte to the last, into buffers that nobody looks at."""
    source = HttpSource(url)
    buffers = await _buffers()
    await source.open()
    began = time.monotonic()
    total, at = 0, 0
    while count := await source.fill(buffers[at % len(buffers)].view):
        total += count
        at += 1
    seconds = time.monotonic() - began
    await source.close()
    return total, seconds


class Dropped:
    """A decoder that gives nothing: the file is received and hashed, and that is all."""

    virtual_size = 0
    held = 0

    def feed(self, data: memoryview) -> Iterator[Extent]:
        return iter(())

    def finish(self) -> Iterator[Extent]:
        return iter(())


class Nowhere:
    """The sink for it."""

    size = 0


async def download(url: str) -> tuple[int, float]:
    """Receive and hash side by side, as a deployment does, without any disk."""
    source, running = HttpSource(url), Digest("sha256")
    await source.open()
    began = time.monotonic()
    await copy(source, BufferPool(), [running], Dropped(), Nowhere(), Meter())
    running.hexdigest()
    seconds = time.monotonic() - began
    await source.close()
    return running.length, seconds


async def digest(size: int) -> tuple[int, float]:
    """SHA-256 over memory."""
    running = Digest("sha256")
    pieces = await _pieces(size)
    began = time.monotonic()
    for _, view in pieces:
        running.update(view)
    running.hexdigest()
    return running.length, time.monotonic() - began


async def write(size: int, path: str) -> tuple[int, float]:
    """Onto a new file, flushed at the end as a deployment does."""
    make_sparse(path, size)
    disk = TargetDisk(path)
    pieces = await _pieces(size)
    began = time.monotonic()
    for offset, view in pieces:
        disk.write(offset, view)
    disk.flush()
    seconds = time.monotonic() - began
    disk.close()
    return size, seconds


async def _buffers() -> list[Buffer]:
    pool = BufferPool()
    return [await pool.acquire() for _ in range(BUFFERS)]


async def _pieces(size: int) -> Iterator[tuple[int, memoryview]]:
    """The file's bytes as a deployment has them: buffer after buffer, with contents that cannot be compressed."""
    buffers = await _buffers()
    for buffer in buffers:
        buffer.view[:] = os.urandom(len(buffer.view))
    length = len(buffers[0].view)
    return ((at, buffers[at // length % len(buffers)].view[: size - at]) for at in range(0, size, length))


def main() -> None:
    match sys.argv[1:]:
        case ["receive", url]:
            total, seconds = asyncio.run(receive(url))
        case ["download", url]:
            total, seconds = asyncio.run(download(url))
        case ["hash", size]:
            total, seconds = asyncio.run(digest(int(size)))
        case ["write", size, path]:
            total, seconds = asyncio.run(write(int(size), path))
        case _:
            sys.exit(__doc__)
    print(json.dumps({"bytes": total, "seconds": seconds}))


if __name__ == "__main__":
    main()
