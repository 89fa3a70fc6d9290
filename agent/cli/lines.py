"""Progress as plain lines: for a pipe, a log, a serial console or a terminal that draws no bar."""

import contextlib
import os
import re
import time
from collections.abc import Callable
from typing import TextIO

from agent.cli.display import Follower, Footer, Snapshot, no_footer
from agent.cli.screen import line_width
from agent.cli.words import amounts, summary
from agent.cli.wrap import wrap
from agent.model.events import DeployEvent, Finished, Noted, StageBegan, StageEnded
from agent.model.stage import State
from agent.text import printable
from agent.units import format_duration

LINE_SECONDS = 5.0
# The footer is printed again after so long: who looks at a serial console later sees it too.
REPEAT_SECONDS = 60.0
# What goes on by itself and is no news: a duration as `agent.units` words it, or the end of one.
_DURATION = re.compile(r"(?:in )?(?:\b\d[\d.]* (?:s|min|h)\b ?)+|\bnow\b")


class Lines(Follower):
    """One line for the begin and one for the end of a stage, and one every LINE_SECONDS while bytes are written.

    Args:
        stream: where to; one that is closed or full fails nothing.
        clock: monotonic seconds.
    """

    interval_seconds = LINE_SECONDS

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._footer: Footer = no_footer
        self._printed_footer: tuple[str, ...] = ()
        self._printed_at = 0.0

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

    def keep_footer(self, footer: Footer) -> None:
        """Print these lines now, whenever they change, and every REPEAT_SECONDS."""
        self._footer = footer
        self._print_footer()

    def tick(self, snapshot: Snapshot) -> None:
        """Print the progress of the write stage, and the footer where it is due."""
        status = snapshot()
        if status is not None and status.state is State.WRITE:
            self._print(f"{status.percent:5.1f} % {amounts(status)}")
        self._print_footer()

    def _print_footer(self) -> None:
        lines, now = self._footer(), self._clock()
        news = tuple(_DURATION.sub("", line) for line in lines)
        if news != self._printed_footer or now - self._printed_at >= REPEAT_SECONDS:
            self._printed_footer, self._printed_at = news, now
            for line in lines:
                self._print(line)

    def _print(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {printable(text)}"
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone fails no deployment
            width = line_width(self._stream, os.environ)
            parts = [line] if width is None else wrap(line, width, indent=len("00:00:00 "))
            print("\n".join(parts), file=self._stream, flush=True)
