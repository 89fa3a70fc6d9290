import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.columns import Column, cut, fold, shorten, table, width_of


@pytest.mark.parametrize(
    ("text", "width"),
    [("", 0), ("disk", 4), ("磁盘", 4), ("e\u0301", 1), ("é✓━", 3), ("ﾃﾞ", 2), ("🖴", 1), ("💾", 2)],
)
def test_the_columns_of_a_text(text, width):
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (-1, ""),
        (0, ""),
        (1, "a"),
        (2, "a"),
        (3, "a磁"),
        (4, "a磁e\u0301"),
        (5, "a磁e\u0301b"),
        (9, "a磁e\u0301b"),
    ],
)
def test_a_text_is_cut_between_characters(width, shown):
    assert cut("a磁e\u0301b", width) == shown
    assert cut("abc", width) == "abc"[: max(width, 0)]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one two", 7, ["one two"]),
        ("one two", 6, ["one", "two"]),
        ("one two", 3, ["one", "two"]),
        ("one  two", 4, ["one", "two"]),
        ("/dev/sda is gone", 6, ["/dev/s", "da is", "gone"]),
        ("  indented words", 10, ["  indented", "words"]),
        ("  indented", 6, ["  inde", "nted"]),
        ("磁盘磁", 5, ["磁盘", "磁"]),
        ("磁盘", 1, ["磁", "盘"]),
    ],
)
def test_a_text_is_folded_at_spaces_and_within_long_words(text, width, lines):
    assert fold(text, width) == lines


@given(st.text(alphabet="ab 磁é\u0301", max_size=60), st.integers(2, 20))
def test_folding_loses_nothing_but_spaces_and_exceeds_no_width(text, width):
    lines = fold(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(map(width_of, lines)) <= width


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("Samsung", 7, "Samsung"), ("Samsung", 6, "Sams.."), ("Samsung", 4, "Sams"), ("磁盘磁盘", 7, "磁盘..")],
)
def test_a_text_that_is_shortened_says_so_where_there_is_room(text, width, shown):
    assert shorten(text, width) == shown


COLUMNS = (Column("group", least=5), Column("size", least=8, right=True), Column("model", rank=1))
ROWS = [["1", "64.0 GiB", "磁盘 a 1234567"], ["2", "1 B", "b"]]


@pytest.mark.parametrize("width", [None, 80, 31])
def test_a_table_is_aligned_by_columns(width):
    assert table(COLUMNS, ROWS, width) == [
        "group      size  model",
        "1      64.0 GiB  磁盘 a 1234567",
        "2           1 B  b",
    ]


def test_the_widest_column_of_a_table_is_cut():
    assert table(COLUMNS, ROWS, 25)[1] == "1      64.0 GiB  磁盘 a.."


def test_a_column_that_would_be_too_narrow_is_left_out():
    assert table(COLUMNS, ROWS, 20) == ["group      size", "1      64.0 GiB", "2           1 B"]


@given(
    st.lists(
        st.lists(st.text(alphabet="ab 磁", max_size=30), min_size=3, max_size=3), min_size=0, max_size=4
    ),
    st.integers(1, 60),
)
def test_a_row_of_a_table_is_one_line_that_is_not_wider_than_the_terminal(rows, width):
    lines = table(COLUMNS, rows, width)
    assert len(lines) == 1 + len(rows)
    assert max(map(width_of, lines)) <= width
