"""Printable texts in lines that no terminal folds: wrapped at words, indented, and no more of them than wanted."""

from agent.cli.columns import cut, width_of

_MORE = "..."


def wrap(text: str, width: int, *, indent: int = 0, most: int | None = None) -> list[str]:
    """A printable text in lines of at most `width` columns; one line for an empty text.

    Lines are broken at spaces, and within words that no line holds (a URL, a digest).

    Args:
        text: in one line.
        width: in columns.
        indent: columns by which every line but the first is indented.
        most: so many lines at the most; the last one ends with `...` where the text does not fit into them.
    """
    indent = min(indent, width // 2, max(width - 2, 0))
    lines: list[str] = []
    room = width
    while True:
        head = _head(text, max(room, 2), max(width - indent, 2))
        lines.append((" " * indent if lines else "") + head.rstrip())
        text = text[len(head) :].lstrip()
        room = width - indent
        if not text:
            return lines
        if len(lines) == most:
            lines[-1] = cut(lines[-1], width - len(_MORE)) + _MORE
            return lines


def _head(text: str, room: int, next_room: int) -> str:
    """What of a text stands in its first line."""
    head = cut(text, room)
    if len(head) == len(text):
        return head
    space = text.rfind(" ", 0, len(head) + 1)
    # Spaces at the beginning are an indentation, and no place for a break.
    if not text[: max(space, 0)].strip():
        return head
    word = text[space + 1 :].partition(" ")[0]
    return text[:space] if width_of(word) <= next_room else head
