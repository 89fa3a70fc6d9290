"""The agent's own path without its disk: `no_disk.py URL` receives and hashes, and prints the bytes and the seconds
of that as JSON."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator

from agent.formats.extent import Extent
from agent.transfer.digest import Digest
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.source import HttpSource
from agent.transfer.meter import Meter
from agent.transfer.pipeline import copy
from agent.transfer.pool import BufferPool


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

    def finish(self) -> None:
        """Nothing is under way."""


async def download(url: str) -> tuple[int, float]:
    """Receive and hash side by side, as a deployment does, without any disk."""
    options = HttpOptions(ca_file=os.environ["CERTIFICATE"]) if url.startswith("https:") else None
    source, running = HttpSource(url, options), Digest("sha256")
    await source.open()
    began = time.monotonic()
    await copy(source, BufferPool(), [running], Dropped(), Nowhere(), Meter())
    running.hexdigest()
    seconds = time.monotonic() - began
    await source.close()
    return running.length, seconds


def main() -> None:
    total, seconds = asyncio.run(download(sys.argv[1]))
    print(json.dumps({"bytes": total, "seconds": seconds}))


if __name__ == "__main__":
    main()
