"""A terminal: its size, styles as ANSI sequences, and a few last lines that are drawn again in place."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TextIO

from agent.cli.columns import cut, width_of
from agent.text import printable

_FALLBACK = os.terminal_size((80, 25))
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_ERASE_BELOW = "\x1b[J"


class Style(StrEnum):
    """The parameters of the sequence that switches a style on."""

    PLAIN = ""
    BOLD = "1"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    GREY = "90"
    BOLD_RED = "1;31"


Piece = tuple[str, Style]
Line = Sequence[Piece]


def terminal_size(environ: Mapping[str, str], *streams: TextIO | None) -> os.terminal_size:
    """Columns and lines, as they are now, of the first stream that is a terminal; 80 by 25 where none is.

    COLUMNS in the environment goes before all of them.
    """
    size = next(filter(None, map(_size_of, streams)), _FALLBACK)
    columns = environ.get("COLUMNS", "")
    return os.terminal_size((int(columns), size.lines)) if columns.isdecimal() and int(columns) else size


def _size_of(stream: TextIO | None) -> os.terminal_size | None:
    """The size of a terminal; None for anything else, and for a terminal that does not know (a serial line)."""
    if stream is None:
        return None
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return None
    return size if size.columns and size.lines else None


def line_width(stream: TextIO | None, environ: Mapping[str, str]) -> int | None:
    """The columns that lines on a stream may take; None where it is no terminal: nothing is broken there."""
    try:
        is_terminal = stream is not None and stream.isatty()
    except ValueError:  # it is closed
        is_terminal = False
    return terminal_size(environ, stream).columns if is_terminal else None


def styled(text: str, style: Style, *, colours: bool = True) -> str:
    """The text between the sequences that switch its style on and off; what is not printable is replaced."""
    codes = ";".join(code for code in style.split(";") if colours or code == Style.BOLD)
    return f"\x1b[{codes}m{printable(text)}\x1b[0m" if codes and text else printable(text)


def has_colours(environ: Mapping[str, str]) -> bool:
    """Whether the user has not asked for none."""
    return not environ.get("NO_COLOR")


class Screen:
    """A terminal whose last few lines are drawn again in place. One that goes away fails nothing.

    Args:
        stream: the terminal. Nobody else writes to it inside `drawing`.
        environ: its NO_COLOR and COLUMNS are respected.
    """

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._environ = environ
        self._drawn: list[str] | None = None

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines, as they are now."""
        return terminal_size(self._environ, self._stream)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Hide the cursor while the block runs. After it the cursor is back, and what `draw` drew is gone."""
        self._drawn = []
        self._write(_HIDE_CURSOR)
        try:
            yield
        finally:
            self._write(self._erase() + _SHOW_CURSOR)
            self._drawn = None

    def draw(self, lines: Sequence[Line]) -> None:
        """Replace the last few lines by these. What does not fit is cut. Outside of `drawing` nothing is drawn."""
        if self._drawn is None:
            return
        columns, rows = terminal_size(self._environ, self._stream)
        shown = [self._styled(_cut_line(line, columns)) for line in lines]
        if len(shown) > rows:  # the first line could not be reached again
            shown[rows - 1 :] = ["..."]
        self._write(self._erase() + "\n".join(shown))
        self._drawn = shown

    def print(self, line: Line) -> None:
        """Print a line above those that are drawn. One that is too long is folded by the terminal."""
        self._write(f"{self._erase()}{self._styled(line)}\n" + "\n".join(self._drawn or ()))

    def _styled(self, line: Line) -> str:
        return "".join(styled(text, style, colours=has_colours(self._environ)) for text, style in line)

    def _erase(self) -> str:
        """The sequence that takes the cursor to where the first drawn line begins, and erases all of them."""
        if not self._drawn:
            return ""
        up = len(self._drawn) - 1
        return (f"\r\x1b[{up}A" if up else "\r") + _ERASE_BELOW

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def _cut_line(line: Line, width: int) -> Line:
    """As much of the line as `width` columns hold: a drawn line that the terminal folds would not be erased whole."""
    pieces = []
    for text, style in line:
        shown = cut(text, width)
        width -= width_of(shown)
        pieces.append((shown, style))
    return pieces
