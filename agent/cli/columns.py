"""Text by the columns that it takes on a terminal: cut, folded, and laid out as a table. Pure."""

import unicodedata
from collections.abc import Sequence

_GAP = "  "


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


def table(
    rows: Sequence[Sequence[str]], width: int, *, right: frozenset[int] = frozenset()
) -> list[list[str]]:
    """Rows of printable cells laid out as lines, those of each row together.

    Where the columns do not fit into `width`, the widest are made narrower and their cells folded.

    Args:
        rows: the cells, as many in each row; at least one row.
        width: in columns.
        right: the indexes of the columns whose cells stand at their right end.
    """
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    room = max(width - len(_GAP) * (len(widths) - 1), 2 * len(widths))
    while sum(widths) > room:
        widths[widths.index(max(widths))] -= 1
    return [_row(cells, widths, right) for cells in rows]


def _row(cells: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> list[str]:
    folded = [fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for number in range(max(map(len, folded))):
        parts = [lines_of[number] if number < len(lines_of) else "" for lines_of in folded]
        padded = [_pad(part, widths[index], right=index in right) for index, part in enumerate(parts)]
        lines.append(_GAP.join(padded).rstrip())
    return lines


def _pad(text: str, width: int, *, right: bool) -> str:
    spaces = " " * (width - width_of(text))
    return spaces + text if right else text + spaces
