"""Text by the columns that it takes on a terminal: cut, folded, and laid out as a table. Pure."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "  "
_DOTS = ".."
# A cell that is longer keeps no extra column away.
_ENOUGH = 40


def columns_of(character: str) -> int:
    """How many columns a printable character takes: 0 where it combines with the one before, else 1 or 2."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def width_of(text: str) -> int:
    """The columns that a printable text takes."""
    return len(text) if text.isascii() else sum(map(columns_of, text))


def cut(text: str, width: int) -> str:
    """As much of the beginning of a printable text as `width` columns hold."""
    if text.isascii():
        return text[: max(width, 0)]
    for index, character in enumerate(text):
        width -= columns_of(character)
        if width < 0:
            return text[:index]
    return text


def fold(text: str, width: int) -> list[str]:
    """A printable text in lines of at most `width` columns: broken at spaces, and within words that are longer.

    There is a line for an empty text too. A width of less than 2 is taken as 2, which any character fits.
    """
    lines = []
    while len(head := cut(text, max(width, 2))) < len(text):
        space = text.rfind(" ", 0, len(head) + 1)
        # Spaces at the beginning are an indentation, and no place for a break.
        end = space if text[: max(space, 0)].strip() else len(head)
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*lines, text]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, and what becomes of it where the terminal is narrow.

    Attributes:
        heading: in the first line.
        least: to how many columns of the terminal its cells may be cut.
        rank: of the columns that do not fit, those with the highest rank are left out.
        extra: whether it is left out before a cell of another column is cut.
        right: whether its cells stand at their right end.
    """

    heading: str
    least: int = 4
    rank: int = 0
    extra: bool = False
    right: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Rows of printable cells as aligned lines: the headings, then one line for each row.

    Args:
        columns: from the left.
        rows: as many cells in each as there are columns.
        width: of the terminal. Columns are left out until the rest fits, and the widest cells are cut. None: all is
            shown whole.
    """
    cells = [[column.heading for column in columns], *rows]
    widths = [max(map(width_of, texts)) for texts in zip(*cells, strict=True)]
    shown = list(range(len(columns)))
    if width is not None:
        shown = _fitting(columns, widths, width)
        room = width - len(_GAP) * (len(shown) - 1)
        while sum(widths[index] for index in shown) > room:
            givers = [index for index in shown if widths[index] > columns[index].least]
            if not givers:
                break
            widest = max(givers, key=lambda index: widths[index])
            widths[widest] -= 1
    lines = []
    for row in cells:
        parts = [_fit(row[index], widths[index], right=columns[index].right) for index in shown]
        line = _GAP.join(parts).rstrip()
        lines.append(line if width is None else cut(line, width))
    return lines


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """The indexes of the columns that are shown beside one another in `width` columns of a terminal."""
    shown = list(range(len(columns)))

    def drop(droppable: list[int], least: Sequence[int]) -> None:
        while droppable and sum(least[index] for index in shown) + len(_GAP) * (len(shown) - 1) > width:
            dropped = max(droppable, key=lambda index: columns[index].rank)
            droppable.remove(dropped)
            shown.remove(dropped)

    drop([index for index in shown if columns[index].extra], [min(taken, _ENOUGH) for taken in widths])
    least = [min(taken, column.least) for taken, column in zip(widths, columns, strict=True)]
    drop(shown[1:], least)
    return shown


def shorten(text: str, width: int) -> str:
    """A printable text in at most `width` columns; one that is cut ends with dots, where there is room for them."""
    if width_of(text) <= width:
        return text
    dots = _DOTS if width > 2 * len(_DOTS) else ""
    return cut(text, width - len(dots)) + dots


def _fit(text: str, width: int, *, right: bool) -> str:
    text = shorten(text, width)
    spaces = " " * (width - width_of(text))
    return spaces + text if right else text + spaces
