import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stages.held_ends import HeldEnds
from tests.kit.sinks import OneByOne

SIZE, HEAD, TAIL = 4096, 512, 256


class MemorySink(OneByOne):
    def __init__(self, size):
        self.size = size
        self.content = bytearray(b"\xa5" * size)

    def write(self, offset, data):
        assert offset + len(data) <= self.size
        self.content[offset : offset + len(data)] = data

    def zero(self, offset, length):
        self.write(offset, bytes(length))


extents = st.integers(0, SIZE - 1).flatmap(
    lambda offset: st.tuples(
        st.just(offset), st.integers(0, SIZE - offset), st.one_of(st.none(), st.integers(1, 255))
    )
)


@given(st.lists(extents, max_size=12), st.booleans())
def test_the_ends_stay_in_memory_and_all_else_goes_through(writes, together):
    inner = MemorySink(SIZE)
    held = HeldEnds(inner, HEAD, TAIL)
    wanted = bytearray(HEAD) + b"\xa5" * (SIZE - HEAD - TAIL) + bytearray(TAIL)
    for offset, length, value in writes:
        if value is None:
            held.zero(offset, length)
        elif together:
            half = length // 2
            data = memoryview(bytes([value]) * length)
            held.start([(offset, data[:half]), (offset + half, data[half:])])
            held.finish()
        else:
            held.write(offset, memoryview(bytes([value]) * length))
        wanted[offset : offset + length] = bytes([value or 0]) * length
    assert inner.content[:HEAD] == b"\xa5" * HEAD
    assert inner.content[-TAIL:] == b"\xa5" * TAIL
    assert bytes(held.head) + bytes(inner.content[HEAD:-TAIL]) + bytes(held.tail) == bytes(wanted)


def test_a_reset_forgets_what_was_held():
    held = HeldEnds(MemorySink(SIZE), HEAD, TAIL)
    held.write(0, memoryview(b"x" * SIZE))
    held.reset()
    assert not any(held.head)
    assert not any(held.tail)


def test_a_disk_smaller_than_both_ends_is_refused():
    with pytest.raises(ValueError, match="too small"):
        HeldEnds(MemorySink(700), HEAD, TAIL)
