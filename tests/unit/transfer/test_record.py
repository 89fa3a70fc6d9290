"""What was written is known again: in any order, of any length, twice, zeroed; and whatever differs is found."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.apply import Applier
from agent.transfer.record import (
    MAX_REGIONS,
    NOTHING,
    Difference,
    Record,
    Recorder,
    combined,
    compare,
    contribution,
    merged,
    runs,
    without,
)
from agent.units import GiB, KiB, MiB
from tests.kit.sinks import OneByOne

REGION = 2048
SIZE = 5 * REGION + 700


class Disk(OneByOne):
    """A disk in memory, full of what was on it before, whose writes wait until `finish`."""

    def __init__(self, size=SIZE, lazy=False):
        self.size = size
        self.data = bytearray(random.Random(1).randbytes(size))
        self.lazy = lazy
        self.waiting = []

    def write(self, offset, data):
        self.data[offset : offset + len(data)] = data

    def start(self, writes):
        if self.lazy:
            self.finish()
            self.waiting = [(offset, bytes(data)) for offset, data in writes]
        else:
            super().start(writes)

    def finish(self):
        for offset, data in self.waiting:
            self.write(offset, data)
        self.waiting = []

    def zero(self, offset, length):
        self.data[offset : offset + length] = bytes(length)

    def read(self, offset, length):
        return bytes(self.data[offset : offset + length])


def make(disk, **bounds):
    record = Record(disk.size, region=REGION, **bounds)
    return record, Recorder(disk, record)


def check(record, disk, step=512):
    """Compare, and give the ranges that were read."""
    seen = []

    def read(offset, length):
        assert 0 < length <= step
        seen.append((offset, offset + length))
        return memoryview(disk.data)[offset : offset + length]

    compare(record, read, step, lambda _: None)
    return merged(seen)


@st.composite
def operations(draw):
    found = []
    for _ in range(draw(st.integers(1, 30))):
        offset = draw(st.integers(0, SIZE - 1))
        length = draw(st.one_of(st.integers(1, 40), st.integers(1, SIZE)))
        kind = draw(st.sampled_from(["write", "start", "zero", "empty"]))
        found.append((kind, offset, min(length, SIZE - offset), draw(st.integers(0, 2**32))))
    return found


def carry_out(steps, sink, written):
    for kind, offset, length, seed in steps:
        data = bytes(length) if kind == "empty" else random.Random(seed).randbytes(length)
        match kind:
            case "zero":
                sink.finish()
                sink.zero(offset, length)
            case "write":
                sink.finish()
                sink.write(offset, memoryview(data))
            case _:
                half = length // 2
                sink.start([(offset, memoryview(data)[:half]), (offset + half, memoryview(data)[half:])])
        written[offset : offset + length] = b"\1" * length
    sink.finish()


@settings(max_examples=60, deadline=None)
@given(operations(), st.booleans(), st.sampled_from([256, 2048]))
def test_what_was_written_in_any_manner_is_known_again_and_nothing_else_is_read(steps, lazy, step):
    disk, written = Disk(lazy=lazy), bytearray(SIZE)
    record, sink = make(disk)
    carry_out(steps, sink, written)
    read = check(record, disk, step)
    covered = bytearray(SIZE)
    for start, end in read:
        covered[start:end] = b"\1" * (end - start)
    assert covered == written
    assert record.total() == sum(written)


@settings(max_examples=60, deadline=None)
@given(operations(), st.integers(0, SIZE - 1), st.integers(1, 255))
def test_any_byte_that_was_written_and_changes_is_found_in_its_region(steps, at, change):
    disk, written = Disk(), bytearray(SIZE)
    record, sink = make(disk)
    carry_out(steps, sink, written)
    disk.data[at] ^= change
    if not written[at]:
        check(record, disk)
        return
    with pytest.raises(Difference) as found:
        check(record, disk)
    assert found.value.start <= at < found.value.end
    assert found.value.start // REGION == (found.value.end - 1) // REGION == at // REGION


@settings(max_examples=50, deadline=None)
@given(operations(), st.integers(0, 3), st.integers(0, 3))
def test_with_too_many_fragments_nothing_wrong_is_taken_and_what_is_written_once_is_known(
    steps, partial, split
):
    disk, written = Disk(), bytearray(SIZE)
    record, sink = make(disk, max_partial=partial, max_split=split)
    once = []
    for step in steps:
        _, offset, length, _ = step
        if not any(written[offset : offset + length]):
            once.append(step)
            written[offset : offset + length] = b"\1" * length
    carry_out(once, sink, written)
    gaps = [at for at in range(SIZE) if not written[at]]
    for at in gaps:  # as a decoder does with what it has no data for
        sink.zero(at, 1)
    record.settle(SIZE)
    check(record, disk)
    disk.data[len(steps) * 97 % SIZE] ^= 1
    with pytest.raises(Difference):
        check(record, disk)


def test_the_order_does_not_matter():
    data, order = random.Random(3).randbytes(SIZE), list(range(0, SIZE, 64))
    random.Random(4).shuffle(order)
    sums = []
    for places in (range(0, SIZE, 64), order):
        record, sink = make(Disk())
        for at in places:
            sink.write(at, memoryview(data)[at : at + 64])
        sums.append([record.sum_of(number) for number in range(len(record))])
    assert sums[0] == sums[1]


def test_two_blocks_that_changed_their_places_are_found():
    disk = Disk()
    record, sink = make(disk)
    sink.write(0, memoryview(random.Random(5).randbytes(REGION)))
    disk.data[0:512], disk.data[512:1024] = disk.data[512:1024], disk.data[0:512]
    with pytest.raises(Difference):
        check(record, disk)


@pytest.mark.parametrize("stale", [b"\0", b"\xff"])
def test_a_block_that_was_never_written_is_found(stale):
    disk = Disk()
    record, sink = make(disk)
    sink.write(0, memoryview(random.Random(6).randbytes(SIZE)))
    disk.data[4096:4608] = stale * 512
    with pytest.raises(Difference, match="bytes 4096 to 6144"):
        check(record, disk)


def test_zeros_are_expected_as_zeros():
    disk = Disk()
    record, sink = make(disk)
    sink.zero(0, SIZE)
    assert check(record, disk) == [(0, SIZE)]
    disk.data[SIZE - 1] = 1
    with pytest.raises(Difference):
        check(record, disk)


def test_scratch_that_is_zeroed_in_the_end_is_zeros_that_are_compared():
    """As a decoder does that has no memory for data that comes before its table."""
    disk = Disk()
    record, sink = make(disk)
    sink.write(0, memoryview(random.Random(7).randbytes(3000)))
    sink.write(7000, memoryview(random.Random(8).randbytes(2500)))
    assert sink.read(7000, 2500) == bytes(disk.data[7000:9500])
    sink.zero(6500, 3000)
    record.settle(3000)
    assert check(record, disk) == [(0, 3000), (6500, 9500)]
    disk.data[8000] = 1
    with pytest.raises(Difference):
        check(record, disk)


def test_a_transfer_that_begins_again_leaves_nothing_of_the_first_one():
    disk = Disk()
    record, sink = make(disk)
    sink.write(100, memoryview(b"x" * 3000))
    record.reset()
    sink.write(0, memoryview(b"y" * 2000))
    assert check(record, disk) == [(0, 2000)]


def test_an_old_byte_that_the_disk_does_not_give_back_is_found_though_it_is_written_over():
    disk = Disk()
    record, sink = make(disk)
    sink.write(0, memoryview(b"x" * 1000))
    disk.data[500] ^= 4
    sink.write(400, memoryview(b"y" * 200))
    with pytest.raises(Difference):
        check(record, disk)


def test_a_large_disk_has_larger_regions_and_no_more_of_them():
    for size in (GiB, 300 * GiB, 20 * 1024 * GiB):
        record = Record(size)
        assert len(record) <= MAX_REGIONS
        assert len(record) * record.region >= size
    assert Record(GiB).region == MiB


def test_a_record_of_a_large_fragmented_disk_stays_small():
    """The worst order there is: each region begun, none complete."""
    import tracemalloc

    tracemalloc.start()
    record = Record(1024 * GiB)
    before = 4 * MiB
    for at in range(60_000):
        start = (at * 7919 % len(record)) * record.region + at % 7 * 4096 + 1
        record.add(start, start + 8192, (1, 1, 1))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < before + 11 * MiB


def test_the_applier_writes_through_it_as_through_any_sink():
    from agent.formats.extent import Write, Zero

    disk = Disk(4 * MiB)
    record = Record(disk.size)
    data = random.Random(9).randbytes(3 * MiB)
    applier = Applier(Recorder(disk, record))
    feeds = [
        [Write(at, memoryview(data)[at : at + 4096]) for at in range(0, MiB, 4096)],
        [Write(MiB, memoryview(data)[MiB:]), Zero(3 * MiB, MiB)],
    ]
    applier.begin(iter(feed) for feed in feeds)
    assert applier.run() is None
    applier.close()
    assert bytes(disk.data) == data + bytes(MiB)
    assert check(record, disk, 256 * KiB) == [(0, 4 * MiB)]


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 10_000))
def test_a_sum_is_linear(one, other, after):
    length = max(len(one), len(other))
    one, other = one.ljust(length, b"\0"), other.ljust(length, b"\0")
    parts = combined(contribution(one, after + length), contribution(other, after))
    assert parts == contribution(one + other, after)
    assert without(parts, contribution(other, after)) == contribution(one, after + length)
    assert contribution(bytes(length), after) == NOTHING


@given(st.integers(0, 2**80), st.integers(0, 100))
def test_runs_of_bits(mask, base):
    found = list(runs(mask, base))
    assert sum(((1 << (end - start)) - 1) << (start - base) for start, end in found) == mask
    assert all(before[1] < after[0] for before, after in pairwise(found))
