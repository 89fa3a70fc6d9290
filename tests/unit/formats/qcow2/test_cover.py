"""Which bytes of a chunk have an owner: against the plain way, which keeps every range and looks at every byte."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ImageMemory
from agent.formats.qcow2.cover import MAX_RANGES, OwnedRanges
from tests.kit.fuzz import examples

START, END = 100, 160
_ranges = st.lists(
    st.tuples(st.integers(80, 170), st.integers(0, 30), st.integers(0, 30)).map(
        lambda drawn: (drawn[0], drawn[0] + drawn[1] + drawn[2], drawn[0] + drawn[1])
    ),
    max_size=12,
)


@given(ranges=_ranges, in_order=st.booleans())
@settings(max_examples=examples(300))
def test_every_byte_is_owned_as_it_was_said(ranges, in_order):
    cover = OwnedRanges(START)
    for start, end, sure in sorted(ranges) if in_order else ranges:
        cover.add(start, end, sure)
    given = list(cover.in_order())
    assert [start for start, _, _ in given] == sorted(start for start, _, _ in given)
    for byte in range(START, END):
        assert any(start <= byte < sure for start, sure, _ in given) == any(
            start <= byte < sure for start, _, sure in ranges
        )
        assert any(start <= byte < end for start, _, end in given) == any(
            start <= byte < end for start, end, _ in ranges
        )


def test_ranges_that_meet_are_one_and_the_others_are_bounded():
    cover = OwnedRanges(0)
    for _ in range(3 * MAX_RANGES):
        cover.add(10, 20, 20)
    assert list(cover.in_order()) == [(10, 20, 20)]
    for at in range(1, MAX_RANGES):
        cover.add(20 * at + 10, 20 * at + 20, 20 * at + 12)
    with pytest.raises(ImageMemory, match="qcow2"):
        cover.add(21 * MAX_RANGES, 21 * MAX_RANGES + 1, 21 * MAX_RANGES + 1)
