"""Manual pages in the man(7) macros, as man-db and mandoc both read them. Pure.

Sources: man(7) and roff(7) of mandoc, groff_man(7).
"""

import re
import textwrap
from collections.abc import Iterable

# Characters in a line before it is escaped, which makes it longer; mandoc's lint allows 80.
WIDTH = 70


def escape(text: str) -> str:
    """Text as it is to be shown: nothing in it is taken for a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^(?=\.)", r"\\&", text, flags=re.MULTILINE)


def bold(text: str) -> str:
    """What is typed literally, in bold."""
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    """A placeholder, in italics."""
    return f"\\fI{escape(text)}\\fR"


class Page:
    """A page, built from top to bottom. `raw` and the tag of `item` take roff; all other texts are plain."""

    def __init__(self, name: str, section: int, *, date: str, source: str) -> None:
        self._lines = [f'.TH {_word(name.upper())} {section} "{date}" {_word(source)} "byoi\\-agent"']

    def heading(self, text: str) -> None:
        """A section."""
        self._lines.append(f".SH {_word(text)}")

    def subheading(self, text: str) -> None:
        """A part of a section."""
        self._lines.append(f".SS {_word(text)}")

    def raw(self, text: str) -> None:
        """A line of roff."""
        self._lines.append(text)

    def paragraph(self, text: str) -> None:
        """Running text; its own line breaks mean nothing."""
        if not self._lines[-1].startswith((".SH", ".SS")):
            self._lines.append(".PP")
        self._running(text)

    def item(self, tag: str, text: str) -> None:
        """A term (roff) and what it means."""
        self._lines += [".TP", tag]
        self._running(text)

    def literal(self, lines: Iterable[str]) -> None:
        """Lines as they stand, in a fixed font."""
        self._lines += (
            [".PP", ".RS 4", ".EX"] if not self._lines[-1].startswith((".SH", ".SS")) else [".RS 4", ".EX"]
        )
        self._lines += [escape(line) or "\\&" for line in lines]
        self._lines += [".EE", ".RE"]

    def _running(self, text: str) -> None:
        words = " ".join(text.split())
        # One line a sentence, as roff wants it; long ones are folded to be read in a diff.
        for sentence in re.split(r"(?<=[.:;]) (?=[A-Z`])", words):
            self._lines += [escape(line) for line in textwrap.wrap(sentence, WIDTH, break_on_hyphens=False)]

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def _word(text: str) -> str:
    return '"' + escape(text).replace('"', "\\(dq") + '"'
