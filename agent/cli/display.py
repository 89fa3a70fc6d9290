"""Progress on stderr: a bar on a terminal, plain lines elsewhere (a serial console, a pipe, a log)."""

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TextIO

from agent.aio import alongside
from agent.cli.words import amounts, summary
from agent.model.events import DeployEvent, Finished, Noted, StageBegan, StageEnded
from agent.model.stage import State
from agent.model.status import Status
from agent.text import printable
from agent.units import format_duration

LINE_SECONDS = 5.0
# Who looks at a serial console later sees what stands there, too.
REPEAT_SECONDS = 60.0

# Terminals that lack what a bar needs, or that stand for a line which is too slow for it.
_PLAIN_TERMS = re.compile(r"|dumb|unknown|vt[0-9]+.*|ansi")
_SERIAL_DEVICES = re.compile(r"/dev/(tty[A-Z]\w*|hvc\d+|hvsi\d+|ttysclp\d+|sclp_line\d+|xvc\d+|console)")

Snapshot = Callable[[], Status | None]
Standing = Callable[[], tuple[str, ...]]


class Display(Protocol):
    """Shows a deployment: stage events as they come, progress by pulling snapshots."""

    def listen(self, event: DeployEvent) -> None:
        """Take an event of the deployment."""

    def stand(self, standing: Standing) -> None:
        """Show these lines from now on, as long as there are any. They are asked for again and again."""

    def following(self, snapshot: Snapshot) -> contextlib.AbstractAsyncContextManager[None]:
        """Show progress while the block runs."""


def show_progress(*, quiet: bool) -> Display:
    """The display that fits stderr."""
    if quiet:
        return _Quiet()
    if is_plain(sys.stderr, os.environ):
        return Lines(sys.stderr)
    from agent.cli.bar import Bar  # noqa: PLC0415 - rich is not for those who do not look

    return Bar(sys.stderr, os.environ)


def is_plain(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is no terminal that a bar can be drawn on."""
    if not stream.isatty() or _PLAIN_TERMS.fullmatch(environ.get("TERM", "")):
        return True
    try:
        return is_serial(os.ttyname(stream.fileno()))
    except (OSError, ValueError):
        return False


def is_serial(device: str) -> bool:
    """Whether a terminal is a serial line, or one that somebody reads over such a line."""
    return _SERIAL_DEVICES.fullmatch(device) is not None


def nothing_stands() -> tuple[str, ...]:
    """No lines."""
    return ()


class _Quiet:
    def listen(self, event: DeployEvent) -> None:
        del event

    def stand(self, standing: Standing) -> None:
        del standing

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        del snapshot
        yield


class Follower:
    """Calls `tick` at a steady pace while a block runs."""

    seconds = LINE_SECONDS

    def tick(self, snapshot: Snapshot) -> None:
        """Show the progress now."""
        raise NotImplementedError

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        """Tick while the block runs."""

        async def follow() -> None:
            while True:
                await asyncio.sleep(self.seconds)
                self.tick(snapshot)

        async with alongside(follow()):
            yield


class Lines(Follower):
    """One line a stage, and one every few seconds while bytes flow."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._standing: Standing = nothing_stands
        self._stood: tuple[str, ...] = ()
        self._stood_at = 0.0

    def listen(self, event: DeployEvent) -> None:
        """Print stage changes, notes and the end."""
        match event:
            case StageBegan(stage):
                self._print(f"{stage.value}: begins")
            case StageEnded(stage, seconds, failed):
                self._print(f"{stage.value}: {'failed after ' if failed else ''}{format_duration(seconds)}")
            case Noted(text):
                self._print(f"note: {text}")
            case Finished(status):
                if status.error is None:
                    self._print(summary(status))

    def stand(self, standing: Standing) -> None:
        """Print these lines now, when they change, and once in a while."""
        self._standing = standing
        self._stand()

    def tick(self, snapshot: Snapshot) -> None:
        """Print the progress of the transfer, or what stands."""
        status = snapshot()
        if status is not None and status.state is State.WRITE:
            self._print(f"{status.percent:5.1f} % {amounts(status)}")
        self._stand()

    def _stand(self) -> None:
        lines, now = self._standing(), self._clock()
        if lines != self._stood or now - self._stood_at >= REPEAT_SECONDS:
            self._stood, self._stood_at = lines, now
            for line in lines:
                self._print(line)

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a gone terminal must not fail a deploy
            print(f"{time.strftime('%H:%M:%S')} {printable(text)}", file=self._stream, flush=True)
