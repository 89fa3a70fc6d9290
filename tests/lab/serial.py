"""A machine's serial console: all that it said, and when, by the host's clock."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

# A console speaks in many small pieces; looking at each of them would cost more than the machine itself.
GATHER_SECONDS = 0.05
PANIC = b"Kernel panic - not syncing"
# For what a kernel says when it dies: registers and the call trace stand before the word, its last line behind it.
PANIC_SECONDS = 1.0
PANIC_LINES = 50
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?=!]*[A-Za-z]|\][0-9;]*\a|[()][A-Z0-9]|[=>c])|\r")


class SerialClosed(Exception):
    """The machine ended before it said what was waited for."""


class KernelPanic(Exception):
    """The machine's kernel has died, and nothing will come any more; with what the console said of it."""


class Serial(asyncio.Protocol):
    """Reads at all times, so the machine never waits for us. Control sequences are taken out of `text`."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._marks: list[tuple[int, float]] = []
        self._news = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._started = time.monotonic()
        self._patience: asyncio.Timeout | None = None
        self.closed = False

    @classmethod
    async def connect(cls, path: Path) -> "Serial":
        """Listen to the console behind a Unix socket."""
        _, protocol = await asyncio.get_running_loop().create_unix_connection(cls, str(path))
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._marks.append((len(self._bytes), time.monotonic() - self._started))
        self._bytes += data
        self._news.set()
        if PANIC in self._bytes[-len(data) - len(PANIC) :] and self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time() + PANIC_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._news.set()

    def write(self, text: str) -> None:
        """Type on the console."""
        assert self._transport is not None
        self._transport.write(text.encode())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def text(self) -> str:
        return ESCAPE.sub("", self._bytes.decode(errors="replace"))

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """End the block, whatever it waits for, once the console has told of a kernel panic.

        Raises:
            KernelPanic: it has.
        """
        try:
            async with asyncio.timeout(None) as self._patience:
                yield
        except TimeoutError:
            if not self._patience.expired():
                raise
            said = self.text.splitlines()[-PANIC_LINES:]
            raise KernelPanic("the machine's kernel has died:\n" + "\n".join(said)) from None
        finally:
            self._patience = None

    async def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait until the console has said something: the match of a regular expression, over lines.

        Raises:
            TimeoutError: it did not in so many seconds.
            SerialClosed: the machine ended first.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._wait_for(re.compile(pattern, re.MULTILINE))
        except TimeoutError:
            raise TimeoutError(f"the console did not say {pattern!r} in {seconds} s") from None

    async def _wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        while True:
            self._news.clear()
            closed = self.closed
            found = pattern.search(self.text)
            if found:
                return found
            if closed:
                raise SerialClosed(f"the machine ended before its console said {pattern.pattern!r}")
            await self._news.wait()
            await asyncio.sleep(GATHER_SECONDS)

    def timed(self) -> list[str]:
        """Every line with the second in which it began."""
        lines, offset = [], 0
        for line in bytes(self._bytes).split(b"\n"):
            at = next((seconds for start, seconds in reversed(self._marks) if start <= offset), 0.0)
            lines.append(f"{at:8.2f}  {ESCAPE.sub('', line.decode(errors='replace'))}")
            offset += len(line) + 1
        return lines
