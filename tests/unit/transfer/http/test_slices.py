"""Slices: handed out ahead, delivered in order, in memory that is borrowed."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.http.slices import SLICE, Cells, Line, Slice
from agent.transfer.pool import KEPT_COUNT, BufferPool
from agent.units import KiB, MiB

DATA = random.Random(9).randbytes(9 * MiB + 123)


def receive(line: Line, one: Slice, count: int | None = None) -> bool:
    """Bytes of a slice come, all that are missing or so many; False where there is no memory for them."""
    if not line.give_cell(one):
        return False
    start, stop = one.missing
    stop = stop if count is None else min(stop, start + count)
    one.cell[one.filled : one.filled + stop - start] = DATA[start:stop]
    one.filled += stop - start
    return True


def deliver(line: Line, size: int) -> bytes:
    view = memoryview(bytearray(size))
    return bytes(view[: line.deliver(view)])


def new_line(pool: BufferPool, start: int = 0, stop: int = len(DATA)) -> Line:
    cells = Cells(pool)
    assert cells.reserve()
    return Line(start, stop, cells)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), start=st.integers(0, 5 * MiB))
def test_bytes_come_out_in_order_however_they_come_in(seed, start):
    dice = random.Random(seed)
    pool = BufferPool()
    line = new_line(pool, start)
    taken: list[Slice] = []
    out = bytearray()
    while not line.at_end:
        match dice.randrange(4):
            case 0 if len(taken) < 6 and (one := line.take()) is not None:
                taken.append(one)
            case 1 if taken:  # a connection is lost, with whatever it had
                one = taken.pop(dice.randrange(len(taken)))
                one.taken = False
            case 2 if taken:
                one = dice.choice(taken)
                receive(line, one, dice.choice([None, 1, 70_001]))
                if one.complete:
                    taken.remove(one)
            case _:
                out += deliver(line, dice.choice([1, 4 * MiB, 300_000]))
    assert out == DATA[start:]
    assert line.received == len(DATA) - start
    line.close()
    assert (pool.lent, pool.in_use) == (0, 0)


def test_what_was_put_back_comes_before_what_is_new():
    line = new_line(BufferPool())
    first, second, third = line.take(), line.take(), line.take()
    second.taken = False
    assert line.put_back() is second
    assert line.take() is second
    assert line.put_back() is None
    assert [one.start for one in (first, second, third, line.take())] == [0, SLICE, 2 * SLICE, 3 * SLICE]
    assert line.take(new=False) is None


def test_the_last_memory_is_for_the_front():
    pool = BufferPool(count=KEPT_COUNT + 1)
    line = new_line(pool)
    front, *others = [line.take() for _ in range(5)]
    assert [receive(line, one) for one in others] == [True, True, True, False]
    assert receive(line, front)
    assert not receive(line, others[3])
    assert deliver(line, MiB) == DATA[:MiB]
    assert receive(line, others[3])  # the new front has its own


def test_the_copy_keeps_some_buffers_and_the_rest_is_lent_and_comes_back():
    pool = BufferPool()
    line = new_line(pool)
    slices = [line.take() for _ in range(10)]
    for one in reversed(slices):
        assert receive(line, one)
    assert pool.lent == 3
    assert deliver(line, 20 * MiB) == DATA
    assert pool.lent == 1  # the last one is kept for what is to come
    line.close()
    assert pool.lent == 0


def test_no_more_is_lent_than_leaves_enough():
    pool = BufferPool()
    lent = [pool.lend() for _ in range(pool.count)]
    assert [one is not None for one in lent] == [True] * 5 + [False] * 3
    own = [pool.take() for _ in range(pool.count)]
    assert [one is not None for one in own] == [True] * KEPT_COUNT + [False] * 5


def test_what_is_lent_survives_a_reclaim():
    pool = BufferPool()
    lent = pool.lend()
    held = pool.take()
    pool.reclaim()
    assert pool.in_use == 0
    others = [pool.take() for _ in range(pool.count)]
    assert held in others
    assert lent not in others
    pool.take_back(lent)
    assert pool.take() is lent


def test_a_pool_that_has_shrunk_takes_less_back():
    pool = BufferPool()
    lent = [pool.lend() for _ in range(5)]
    pool.make_room(60 * MiB)
    assert pool.count == 4
    assert pool.lend() is None
    assert pool.take() is not None  # or nobody could use up what came early
    for one in lent:
        pool.take_back(one)
    sizes = [len(one.view) for _ in range(8) if (one := pool.take()) is not None]
    assert sizes == [512 * KiB] * 3


@pytest.mark.parametrize("size", [512 * KiB, 64 * KiB])
def test_small_buffers_are_not_borrowed(size):
    pool = BufferPool(size=size)
    assert not Cells(pool).reserve()
    assert pool.lent == 0


async def test_whoever_waits_for_a_buffer_gets_one_that_comes_back():
    pool = BufferPool(count=KEPT_COUNT + 1)
    lent = pool.lend()
    for _ in range(KEPT_COUNT):
        assert pool.take() is not None
    assert pool.take() is None
    pool.take_back(lent)
    assert await pool.acquire() is lent
