"""The screen on a terminal that keeps what it is told to show: cells, a cursor, folding at its right edge."""

import io
import re

import pytest

from agent.cli.columns import columns_of
from agent.cli.screen import Screen, Style, styled, terminal_size

HEIGHT = 25  # what is assumed of a stream without a size


class Terminal(io.StringIO):
    """Obeys what `Screen` sends, and fails on any other sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width
        self._lines = [""]
        self._row = 0
        self._column = 0
        self.has_cursor = True

    @property
    def shown(self) -> list[str]:
        return self._lines

    def write(self, text: str) -> int:
        for sequence, character in re.findall(r"(\x1b\[[?\d;]*[a-zA-Z])|(.)", text, re.DOTALL):
            if sequence:
                self._obey(sequence)
            else:
                self._show(character)
        return super().write(text)

    def _obey(self, sequence: str) -> None:
        if sequence == "\x1b[J":
            self._lines[self._row :] = [self._lines[self._row][: self._column]]
        elif up := re.fullmatch(r"\x1b\[(\d+)A", sequence):
            assert 0 < int(up[1]) < HEIGHT
            self._row -= int(up[1])
            assert self._row >= 0
        elif sequence in ("\x1b[?25l", "\x1b[?25h"):
            self.has_cursor = sequence.endswith("h")
        else:
            assert sequence.endswith("m")

    def _show(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n" or self._column + columns_of(character) > self._width:
            self._lines.append("")
            self._row += 1
            self._column = 0
        if character not in "\r\n":
            self._lines[self._row] += character
            self._column += columns_of(character)


def plain(*texts: str) -> list[list[tuple[str, Style]]]:
    return [[(text, Style.PLAIN)] for text in texts]


def screen_on(terminal: Terminal, width: int, **environ: str) -> Screen:
    return Screen(terminal, {"COLUMNS": str(width)} | environ)


def test_lines_are_drawn_in_place_and_others_above_them():
    terminal = Terminal(20)
    screen = screen_on(terminal, 20)
    screen.print(plain("first")[0])
    with screen.drawing():
        assert not terminal.has_cursor
        screen.draw(plain("bar 1", "footer"))
        screen.draw(plain("bar 2", "footer", "hint"))
        assert terminal.shown == ["first", "bar 2", "footer", "hint"]
        screen.print(plain("second")[0])
        assert terminal.shown == ["first", "second", "bar 2", "footer", "hint"]
        screen.draw(plain("bar 3"))
        assert terminal.shown == ["first", "second", "bar 3"]
        screen.draw([])
        screen.print(plain("third")[0])
        screen.draw(plain("bar 4"))
    screen.draw(plain("too late"))
    assert terminal.shown == ["first", "second", "third", ""]
    assert terminal.has_cursor


@pytest.mark.parametrize("width", [1, 2, 7, 20])
def test_what_is_drawn_folds_on_no_terminal(width):
    terminal = Terminal(width)
    screen = screen_on(terminal, width)
    line = [("磁盘 is", Style.BOLD), (" being written", Style.GREEN)]
    with screen.drawing():
        for _ in range(3):
            screen.draw([line, line])
        assert len(terminal.shown) == 2
    assert terminal.shown == [""]


def test_a_printed_line_is_whole_whatever_the_width():
    terminal = Terminal(10)
    screen = screen_on(terminal, 10)
    with screen.drawing():
        screen.draw(plain("bar"))
        screen.print(plain("as long as it is")[0])
        screen.draw(plain("bar"))
        assert terminal.shown == ["as long as", " it is", "bar"]


def test_more_lines_than_the_terminal_has_are_cut():
    terminal = Terminal(10)
    screen = screen_on(terminal, 10)
    with screen.drawing():
        for _ in range(2):
            screen.draw(plain(*map(str, range(HEIGHT + 1))))
        assert terminal.shown == [*map(str, range(HEIGHT - 1)), "..."]
        screen.draw(plain(*map(str, range(HEIGHT))))
        assert terminal.shown == [*map(str, range(HEIGHT))]


def test_the_cursor_comes_back_after_an_exception():
    terminal = Terminal(10)
    screen = screen_on(terminal, 10)

    def draw_and_fail() -> None:
        with screen.drawing():
            screen.draw(plain("bar"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_and_fail()
    assert terminal.has_cursor
    assert terminal.shown == [""]


def test_foreign_text_steers_nothing():
    terminal = Terminal(80)
    screen = screen_on(terminal, 80)
    screen.print([("\x1b]0;x\x07", Style.RED), ("a\nb\rc\x9b2J", Style.PLAIN)])
    with screen.drawing():
        screen.draw(plain("\x1b[2Jx"))
        assert terminal.shown == ["?]0;x?a?b?c?2J", "?[2Jx"]


def test_a_terminal_that_went_away_fails_nothing():
    terminal = Terminal(10)
    screen = screen_on(terminal, 10)
    with screen.drawing():
        terminal.close()
        screen.draw(plain("bar"))
        screen.print(plain("line")[0])


def test_styles_and_who_wants_no_colours():
    assert styled("x", Style.BOLD_RED) == "\x1b[1;31mx\x1b[0m"
    assert styled("x", Style.BOLD_RED, colours=False) == "\x1b[1mx\x1b[0m"
    assert styled("x", Style.GREEN, colours=False) == styled("x", Style.PLAIN) == "x"
    terminal = Terminal(10)
    screen_on(terminal, 10, NO_COLOR="1").print([("x", Style.GREEN), ("y", Style.BOLD)])
    assert terminal.getvalue() == "x\x1b[1my\x1b[0m\n"


@pytest.mark.parametrize("columns", ["", "0", "wide", "-1"])
def test_columns_without_sense_and_streams_without_a_size(columns):
    assert terminal_size({"COLUMNS": columns}, None, io.StringIO()) == (80, HEIGHT)
