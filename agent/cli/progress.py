"""Which display of progress fits stderr: none, plain lines, or a bar. For the commands that follow a deployment."""

import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TextIO

from agent.cli.bar import Bar
from agent.cli.display import Display, Footer, Snapshot
from agent.cli.lines import Lines
from agent.model.events import DeployEvent

# Terminals that lack what a bar needs, or that stand for a line which is too slow for it.
_PLAIN_TERMS = re.compile(r"|dumb|unknown|vt[0-9]+.*|ansi")
_SERIAL_DEVICES = re.compile(r"/dev/(tty[A-Z]\w*|hvc\d+|hvsi\d+|ttysclp\d+|sclp_line\d+|xvc\d+|console)")


def show_progress(*, quiet: bool) -> Display:
    """The display for stderr: one that shows nothing (`quiet`), lines where no bar can be drawn, else a bar."""
    if quiet:
        return _Quiet()
    if is_plain(sys.stderr, os.environ):
        return Lines(sys.stderr)
    return Bar(sys.stderr, os.environ)


def is_plain(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream gets plain lines: it is no terminal, or one that draws no bar, or a serial line."""
    if not stream.isatty() or _PLAIN_TERMS.fullmatch(environ.get("TERM", "")):
        return True
    try:
        return is_serial(os.ttyname(stream.fileno()))
    except (OSError, ValueError):
        return False


def is_serial(device: str) -> bool:
    """Whether a terminal is a serial line, or one that somebody reads over such a line."""
    return _SERIAL_DEVICES.fullmatch(device) is not None


class _Quiet:
    """Shows nothing."""

    def listen(self, event: DeployEvent) -> None:
        del event

    def keep_footer(self, footer: Footer) -> None:
        del footer

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        del snapshot
        yield
