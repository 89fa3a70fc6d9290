"""Progress on a terminal: a line for each stage that is over, below them a bar, and below that the footer."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.cli.display import Follower, Footer, Snapshot, no_footer
from agent.cli.words import amounts, stage_name, summary
from agent.model.events import DeployEvent, Finished, Noted, StageEnded
from agent.model.stage import State
from agent.model.status import Status
from agent.text import printable
from agent.units import format_duration

REFRESH_SECONDS = 0.2
WIDTH = 30
"""Of the bar, in characters."""


@dataclass(frozen=True, slots=True)
class _Glyphs:
    done: str
    failed: str
    full: str
    rest: str


_GLYPHS = _Glyphs(done="✓", failed="✗", full="━", rest="━")
# The fonts of the Linux console have 256 or 512 glyphs; neither ticks nor heavy lines are among them.
_ASCII = _Glyphs(done="+", failed="!", full="#", rest="-")


class Bar(Follower):
    """The display for people at a terminal. A terminal that goes away fails nothing.

    Args:
        stream: the terminal.
        environ: its TERM says whether its font is that of the Linux console.
        clock: seconds since the epoch, for the time that a stage has taken so far.
    """

    interval_seconds = REFRESH_SECONDS

    def __init__(
        self, stream: TextIO, environ: Mapping[str, str], clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._console = Console(file=stream, highlight=False)
        plain = environ.get("TERM") == "linux" or not (stream.encoding or "utf-8").lower().startswith("utf")
        self._glyphs = _ASCII if plain else _GLYPHS
        self._live: Live | None = None
        self._footer: Footer = no_footer

    def listen(self, event: DeployEvent) -> None:
        """Print the end of stages, notes and the end."""
        match event:
            case StageEnded(stage, seconds, failed):
                line = Text(self._glyphs.failed, "red") if failed else Text(self._glyphs.done, "green")
                self._print(line.append(f" {stage.value:<10} {format_duration(seconds)}", "default"))
            case Noted(text):
                self._print(Text(f"  note: {printable(text)}", "yellow"))
            case Finished(status) if status.error is None:
                self._print(Text(summary(status), "bold"))
            case _:
                pass

    def keep_footer(self, footer: Footer) -> None:
        """Draw these lines below all others, from the next refresh on."""
        self._footer = footer

    def tick(self, snapshot: Snapshot) -> None:
        """Draw the bar and the footer. Outside of `following` nothing is drawn."""
        if self._live is None:
            return
        status = snapshot()
        parts: list[RenderableType] = [Text(line, _style(line)) for line in self._footer()]
        if status is not None and not status.is_over:
            parts.insert(0, self._render(status))
        with contextlib.suppress(OSError, ValueError):
            self._live.update(Group(*parts), refresh=True)

    def _render(self, status: Status) -> Table:
        table = Table.grid(padding=(0, 1))
        for width in (12, WIDTH, 7):  # the last column takes what is left, and more lines where it needs them
            table.add_column(no_wrap=True, min_width=width)
        table.add_column(overflow="fold")
        done = round(WIDTH * status.percent / 100)
        bar = Text(self._glyphs.full * done, "green").append(
            self._glyphs.rest * (WIDTH - done), "bright_black"
        )
        words = amounts(status) if status.state is State.WRITE else self._elapsed(status)
        table.add_row(Text(f"  {stage_name(status):<10}"), bar, f"{status.percent:5.1f} %", Text(words))
        return table

    def _elapsed(self, status: Status) -> str:
        return format_duration(max(self._clock() - status.stages[-1].started_at, 0)) if status.stages else ""

    def _print(self, text: Text) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._console.print(text)

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        """Draw while the block runs; the bar is gone after it, the lines above it stay."""
        # Only this class prints meanwhile, so stdout and stderr need not be redirected around the bar.
        live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with contextlib.suppress(OSError, ValueError):
            live.start()
        self._live = live
        try:
            async with super().following(snapshot):
                yield
        finally:
            self._live = None
            with contextlib.suppress(OSError, ValueError):
                live.stop()


def _style(line: str) -> str:
    return "bold red" if line.startswith("error:") else "bold"
