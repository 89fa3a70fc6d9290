"""What somebody sees on a terminal: its cells after all that was written to it, and whether it had to fold a line."""

import re
from dataclasses import dataclass, field

from agent.cli.columns import columns_of

_PIECE = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|(.)", re.DOTALL)


@dataclass
class Glass:
    """A terminal that knows the sequences which the displays use, and fails on any other one.

    Like a real one it waits with the next line until a character follows the one in the last column.
    """

    columns: int
    rows: int = 25
    lines: list[str] = field(default_factory=lambda: [""])
    """What is on it, from its first line to the last one that was written to."""
    folded: list[str] = field(default_factory=list)
    """Lines that went on in the next one because it was at its right edge."""
    colours: set[str] = field(default_factory=set)
    """Parameters of the styles that were switched on."""
    _row: int = 0
    _column: int = 0

    @property
    def words(self) -> str:
        """All that is on it, without spaces and breaks: a text is found however it was broken."""
        return squeezed(" ".join(self.lines))

    def write(self, text: str) -> "Glass":
        for private, parameters, letter, character in _PIECE.findall(text):
            if letter:
                self._obey(private, parameters, letter)
            else:
                self._show(character)
        return self

    def _obey(self, private: str, parameters: str, letter: str) -> None:
        match private, letter:
            case "", "J":
                self.lines[self._row :] = [self._here()]
            case "", "A":
                up = int(parameters)
                assert up <= self._row, "what is drawn is taller than the terminal"
                self._row -= up
            case "", "m":
                self.colours |= {code for code in parameters.split(";") if code != "0"}
            case "?", "l" | "h":
                assert parameters == "25"
            case _:
                raise AssertionError(f"an unknown sequence: {private}{parameters}{letter}")

    def _here(self) -> str:
        """The line of the cursor, as far as that."""
        return self.lines[self._row][: self._column]

    def _show(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._next_line()
        else:
            if self._column + columns_of(character) > self.columns:
                self.folded.append(self.lines[self._row])
                self._next_line()
                self._column = 0
            self.lines[self._row] = self._here().ljust(self._column) + character
            self._column += columns_of(character)

    def _next_line(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")
        if self._row == self.rows:
            self.lines.pop(0)
            self._row -= 1


def squeezed(text: str) -> str:
    return "".join(text.split())
