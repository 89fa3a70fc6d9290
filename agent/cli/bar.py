"""Progress on a terminal: a line for each stage that is over, below them a bar, and below that the footer."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TextIO

from agent.cli.columns import cut, fold, width_of
from agent.cli.console import CONTROL_PLANE, DETAILS, ERROR, IRONIC
from agent.cli.display import Follower, Footer, Snapshot, no_footer
from agent.cli.screen import Line, Screen, Style
from agent.cli.words import amounts, stage_name, summary
from agent.cli.wrap import wrap
from agent.model.events import DeployEvent, Finished, Noted, StageEnded
from agent.model.stage import EVERY_STAGE, STAGES, State
from agent.model.status import Status
from agent.model.verification import READBACK
from agent.text import printable
from agent.units import format_duration

REFRESH_SECONDS = 0.2
WIDTH = 30
"""Of the bar, in columns, where the terminal has room for it."""
NAME_WIDTH = 10
"""Of the name of the stage, in columns."""
MIN_WORDS = 20
"""The columns beside the bar that are worth writing in; the words stand below it where there are fewer."""


@dataclass(frozen=True, slots=True)
class _Glyphs:
    done: str
    failed: str
    to_do: str
    full: str
    rest: str


# What is done and what remains differ by their signs: nobody has to see colours.
_GLYPHS = _Glyphs(done="✓", failed="✗", to_do="·", full="━", rest="-")
# The fonts of the Linux console have 256 or 512 glyphs; neither ticks nor heavy lines are among them.
_ASCII = _Glyphs(done="+", failed="!", to_do=".", full="#", rest="-")
# By how a line of the footer begins.
_STYLES = {
    ERROR: Style.BOLD_RED,
    CONTROL_PLANE: Style.YELLOW,
    IRONIC: Style.YELLOW,
    **dict.fromkeys(DETAILS, Style.PLAIN),
    "": Style.BOLD,
}
# A line of the footer takes a fifth of the terminal's lines at the most: the ones below it are to be seen too.
_SHARES = 5


class Bar(Follower):
    """The display for people at a terminal. A terminal that goes away fails nothing.

    Args:
        stream: the terminal.
        environ: its TERM says whether its font is that of the Linux console; NO_COLOR and COLUMNS are respected.
        clock: seconds since the epoch, for the time that a stage has taken so far.
    """

    interval_seconds = REFRESH_SECONDS

    def __init__(
        self, stream: TextIO, environ: Mapping[str, str], clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._screen = Screen(stream, environ)
        plain = environ.get("TERM") == "linux" or not (stream.encoding or "utf-8").lower().startswith("utf")
        self._glyphs = _ASCII if plain else _GLYPHS
        self._footer: Footer = no_footer

    def listen(self, event: DeployEvent) -> None:
        """Print the end of stages, notes and the end."""
        match event:
            case StageEnded(stage, seconds, failed):
                mark = (self._glyphs.failed, Style.RED) if failed else (self._glyphs.done, Style.GREEN)
                took = f" {stage.value:<{NAME_WIDTH}} {format_duration(seconds)}"
                self._screen.print((mark, (took, Style.PLAIN)))
            case Noted(text):
                self._print(f"  note: {text}", Style.YELLOW)
            case Finished(status) if status.error is None:
                self._print(summary(status), Style.BOLD)
            case _:
                pass

    def _print(self, text: str, style: Style) -> None:
        for line in wrap(printable(text), self._screen.size.columns, indent=2):
            self._screen.print(((line, style),))

    def keep_footer(self, footer: Footer) -> None:
        """Draw these lines below all others, from the next refresh on."""
        self._footer = footer

    def tick(self, snapshot: Snapshot) -> None:
        """Draw the bar and the footer. Outside of `following` nothing is drawn."""
        status, (width, height) = snapshot(), self._screen.size
        lines = [] if status is None or status.is_over else self._progress(status, width)
        for text in self._footer():
            style = next(style for begin, style in _STYLES.items() if text.startswith(begin))
            parts = wrap(text, width, indent=2, most=max(height // _SHARES, 2))
            lines += [((part, style),) for part in parts]
        self._screen.draw(lines)

    def _progress(self, status: Status, width: int) -> list[Line]:
        """The stage that runs, and those that remain."""
        lines = self._running(status, width)
        if status.state in EVERY_STAGE:
            rest = EVERY_STAGE[EVERY_STAGE.index(status.state) + 1 :]
            to_do = [f"{self._glyphs.to_do} {stage.value}" for stage in rest if stage in _planned(status)]
            if to_do:
                lines += [((line, Style.PLAIN),) for line in wrap("  ".join(to_do), width)]
        return lines

    def _running(self, status: Status, width: int) -> list[Line]:
        """Stage, bar, percentage, and words: in a column beside these, or below them on a narrow terminal."""
        name, percent = f"  {_padded(stage_name(status))} ", f" {status.percent:5.1f} % "
        words = amounts(status) if status.state is State.WRITE else self._elapsed(status)
        room = width - len(percent) - width_of(name)
        bar = self._bar(status.percent, max(min(WIDTH, room), 0))
        head = ((name, Style.PLAIN), *bar, (percent, Style.PLAIN))
        if room - WIDTH < MIN_WORDS:
            return [head, *((("  " + line, Style.PLAIN),) for line in fold(words, width - 2))]
        first, *others = fold(words, room - WIDTH)
        indent = " " * (width - room + WIDTH)
        return [(*head, (first, Style.PLAIN)), *(((indent + line, Style.PLAIN),) for line in others)]

    def _bar(self, percent: float, width: int) -> Line:
        done = min(round(width * percent / 100), width)
        return (self._glyphs.full * done, Style.GREEN), (self._glyphs.rest * (width - done), Style.GREY)

    def _elapsed(self, status: Status) -> str:
        return format_duration(max(self._clock() - status.stages[-1].started_at, 0)) if status.stages else ""

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        """Draw while the block runs; the bar is gone after it, the lines above it stay."""
        with self._screen.drawing():
            async with super().following(snapshot):
                yield


def _planned(status: Status) -> Sequence[State]:
    """The stages of a deployment: where the operator has everything read back, its status does not tell that."""
    return EVERY_STAGE if status.job.get("verify") == READBACK else STAGES


def _padded(name: str) -> str:
    shown = cut(name, NAME_WIDTH)
    return shown + " " * (NAME_WIDTH - width_of(shown))
