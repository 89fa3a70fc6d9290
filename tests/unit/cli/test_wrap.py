"""Texts in lines: nothing is lost, nothing is wider than it may be, words stay whole where a line can hold them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.columns import width_of
from agent.cli.wrap import wrap

CASES = [
    ("", 10, 0, [""]),
    ("one two", 7, 0, ["one two"]),
    ("one two", 6, 0, ["one", "two"]),
    ("one two three", 8, 2, ["one two", "  three"]),
    # A URL that no line holds begins where there is room.
    ("image: https://h/a/b/c", 12, 2, ["image: https", "  ://h/a/b/c"]),
    ("  detail of it", 10, 2, ["  detail", "  of it"]),
    ("磁盘磁盘", 5, 0, ["磁盘", "磁盘"]),
]


@pytest.mark.parametrize(("text", "width", "indent", "lines"), CASES)
def test_lines_are_broken_at_words(text, width, indent, lines):
    assert wrap(text, width, indent=indent) == lines


def test_what_does_not_fit_is_cut_and_says_so():
    assert wrap("one two three four", 6, most=2) == ["one", "two..."]
    assert wrap("one two", 6, most=2) == ["one", "two"]
    assert wrap("abcdefghijkl", 6, most=1) == ["abc..."]


@given(st.text("ab磁 \u0301", max_size=200), st.integers(2, 40), st.integers(0, 12))
def test_nothing_is_lost_and_nothing_is_too_wide(text, width, indent):
    lines = wrap(text, width, indent=indent)
    assert all(width_of(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
