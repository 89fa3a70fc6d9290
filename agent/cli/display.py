"""Progress on stderr: a bar on a terminal, plain lines elsewhere (a serial console, a log)."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.model.events import DeployEvent, Finished, Noted, StageBegan, StageEnded
from agent.model.stage import State
from agent.model.status import Status
from agent.units import format_duration, format_size

LINE_SECONDS = 5.0
REFRESH_SECONDS = 0.2

Snapshot = Callable[[], Status]


class Display(Protocol):
    """Shows a deployment: stage events as they come, progress by pulling snapshots."""

    def listen(self, event: DeployEvent) -> None:
        """Take an event of the deployment."""

    def following(self, snapshot: Snapshot) -> contextlib.AbstractAsyncContextManager[None]:
        """Show progress while the block runs."""


def show_progress(*, quiet: bool) -> Display:
    """The display that fits stderr."""
    if quiet:
        return _Quiet()
    return _Bar() if sys.stderr.isatty() else Lines(sys.stderr)


def amounts(status: Status) -> str:
    """Bytes, rate, remaining time and what is waited for, in words."""
    progress = status.progress
    done = format_size(progress.bytes_downloaded)
    parts = [done if progress.bytes_total is None else f"{done} of {format_size(progress.bytes_total)}"]
    if progress.rate > 0:
        parts.append(f"{format_size(progress.rate)}/s")
    if progress.eta is not None:
        parts.append(f"{format_duration(progress.eta)} left")
    if progress.waiting_on is not None:
        parts.append(f"waiting on {progress.waiting_on}")
    return ", ".join(parts)


def summary(status: Status) -> str:
    """The last line of a deployment that is done."""
    seconds = (status.finished_at or status.updated_at) - status.started_at
    where = status.disk["path"] if status.disk else "the disk"
    size = format_size(status.progress.bytes_downloaded)
    return f"done: {size} deployed to {where} in {format_duration(seconds)} ({status.checksum})"


class _Quiet:
    def listen(self, event: DeployEvent) -> None:
        del event

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        del snapshot
        yield


class _Follower:
    """Calls `tick` at a steady pace while a block runs."""

    seconds = LINE_SECONDS

    def tick(self, snapshot: Snapshot) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        async def follow() -> None:
            while True:
                await asyncio.sleep(self.seconds)
                self.tick(snapshot)

        async with asyncio.TaskGroup() as tasks:
            follower = tasks.create_task(follow())
            try:
                yield
            finally:
                follower.cancel()


class Lines(_Follower):
    """One line a stage, and one every few seconds while bytes flow."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

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

    def tick(self, snapshot: Snapshot) -> None:
        """Print the progress of the transfer."""
        status = snapshot()
        if status.state is State.WRITE:
            self._print(f"{status.percent:5.1f} % {amounts(status)}")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a gone terminal must not fail a deploy
            print(f"{time.strftime('%H:%M:%S')} {text}", file=self._stream, flush=True)


class _Bar(_Follower):
    seconds = REFRESH_SECONDS

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None

    def listen(self, event: DeployEvent) -> None:
        match event:
            case StageEnded(stage, seconds, failed):
                mark = "[red]✗[/]" if failed else "[green]✓[/]"
                self._console.print(f"{mark} {stage.value:<10} {format_duration(seconds)}")
            case Noted(text):
                self._console.print(Text(f"  note: {text}", style="yellow"))
            case Finished(status) if status.error is None:
                self._console.print(Text(summary(status), style="bold"))
            case _:
                pass

    def tick(self, snapshot: Snapshot) -> None:
        if self._live is not None:
            self._live.update(self._render(snapshot()), refresh=True)

    @staticmethod
    def _render(status: Status) -> Table:
        table = Table.grid(padding=(0, 1))
        stage = status.stages[-1].name if status.stages else status.message
        table.add_row(
            f"  {stage:<10}",
            ProgressBar(total=100, completed=status.percent, width=30),
            f"{status.percent:5.1f} %",
            amounts(status) if status.state is State.WRITE else "",
        )
        return table

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            self._live = live
            try:
                async with super().following(snapshot):
                    yield
            finally:
                self._live = None
