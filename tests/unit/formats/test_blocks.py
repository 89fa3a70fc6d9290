"""The map of the blocks that VHD, VHDX and VDI share: their order, their places, what is fetched, the memory."""

import random
import struct
import tracemalloc

import pytest

from agent.errors import ImageChanged, ImageDamaged, ImageUnsafe
from agent.formats.blocks import MAX_BLOCKS, MAX_STORED, BlockMap, Fetched, Layout, digest_of
from agent.formats.extent import Write, Zero
from agent.formats.intake import Intake, Parser
from agent.units import MiB


def walk(block_map, intake, data, fetched=()):
    """What the map gives for the file's bytes, as (kind, offset, content or length)."""
    parser = Parser(intake, block_map.steps(fetched))
    out = [(extent.offset, bytes(extent.data)) for extent in parser.feed(memoryview(data))]
    out += [(extent.offset, bytes(extent.data)) for extent in parser.finish()]
    return out


def new_map(places, capacity=None, file_size=None, fetched=(), max_stored=MAX_STORED, **layout):
    """A map of blocks of 4 bytes, at `places` in a file of which nothing has passed."""
    intake = Intake("vhd")
    block_map = BlockMap(intake, Layout(capacity or 4 * len(places), 4, 1, **layout), max_stored)
    for block, place in enumerate(places):
        if place is None:
            assert list(block_map.note_zeros(block)) == []
        else:
            block_map.note(block, place)
    return block_map, intake, list(block_map.check(file_size, fetched))


def test_blocks_come_in_the_order_of_the_file():
    block_map, intake, _ = new_map([8, 0, 4])
    assert walk(block_map, intake, b"aaaabbbbcccc") == [(4, b"aaaa"), (8, b"bbbb"), (0, b"cccc")]


def test_what_lies_between_and_in_front_of_blocks_is_passed_over():
    block_map, intake, _ = new_map([9, 1], lead=2)
    assert walk(block_map, intake, b".--aaaa..--bbbb") == [(4, b"aaaa"), (0, b"bbbb")]


def test_the_last_block_ends_with_the_disk():
    block_map, intake, zeros = new_map([0, None, 4], capacity=9)
    assert zeros == [Zero(4, 4)]
    assert walk(block_map, intake, b"aaaabbbb") == [(0, b"aaaa"), (8, b"b")]


def test_zeros_are_merged_and_end_with_the_disk():
    assert new_map([None, None, None], capacity=10)[2] == [Zero(0, 10)]


def test_many_blocks_in_any_order():
    """More than are sorted at once."""
    count = 70_000
    places = [4 * place for place in range(count)]
    random.Random(1).shuffle(places)
    block_map, intake, _ = new_map(places)
    data = struct.pack(f"<{count}I", *range(count))
    assert sorted(walk(block_map, intake, data)) == [
        (4 * block, data[place : place + 4]) for block, place in enumerate(places)
    ]


@pytest.mark.parametrize("places", [[0, 0], [0, 3], [4, 1], [8, 2, 0]])
def test_blocks_that_lie_over_each_other_are_damage(places):
    with pytest.raises(ImageDamaged, match="lies over"):
        new_map(places)


def test_a_block_in_what_has_passed_is_refused():
    intake = Intake("vhd")
    intake.offset = 100
    block_map = BlockMap(intake, Layout(4, 4, 1))
    block_map.note(0, 99)
    with pytest.raises(ImageUnsafe, match="vhd_tables") as caught:
        list(block_map.check(None))
    assert "byte 99" in caught.value.detail
    assert "100" in caught.value.detail


def test_a_block_beyond_the_file_is_damage():
    new_map([0, 4], file_size=8)
    with pytest.raises(ImageDamaged, match="ends at byte 8, the file at byte 7"):
        new_map([0, 4], file_size=7)


def test_a_place_beyond_any_file_is_damage():
    with pytest.raises(ImageDamaged, match="beyond any file"):
        new_map([2**38])


def test_a_file_that_ends_within_a_block_is_damage():
    block_map, intake, _ = new_map([0, 4])
    with pytest.raises(ImageDamaged, match="ends at byte 7"):
        walk(block_map, intake, b"aaaabbb")


def fetched_at(offset, data):
    return Fetched(offset, len(data), digest_of(data).digest())


@pytest.mark.parametrize("offset", [0, 6, 12])
def test_what_was_fetched_has_to_come_again(offset):
    data = b"??aaaa??bbbb??"[: max(offset + 2, 12)]
    table = fetched_at(offset, data[offset : offset + 2])
    block_map, intake, _ = new_map([2, 8], fetched=[table])
    assert walk(block_map, intake, data, [table]) == [(0, b"aaaa"), (4, b"bbbb")]
    block_map, intake, _ = new_map([2, 8], fetched=[table])
    changed = data[:offset] + b"!" + data[offset + 1 :]
    with pytest.raises(ImageChanged, match="image changed") as caught:
        walk(block_map, intake, changed, [table])
    assert f"bytes {offset} to {offset + 1}" in caught.value.detail


@pytest.mark.parametrize("offset", [0, 2, 4, 5])
def test_a_block_over_what_was_fetched_is_damage(offset):
    with pytest.raises(ImageDamaged, match="lies over"):
        new_map([2], fetched=[fetched_at(offset, b"???")])


def test_the_number_of_blocks_is_bounded():
    with pytest.raises(ImageUnsafe, match="vhd_tables"):
        BlockMap(Intake("vhd"), Layout(4 * MAX_BLOCKS + 1, 4, 1))
    new_map([0, 4, None], max_stored=2)
    with pytest.raises(ImageUnsafe, match="vhd_tables"):
        new_map([0, 4, 8], max_stored=2)


def test_a_million_blocks_in_the_worst_order_take_little_memory():
    """Backwards, so that nothing of it is in order."""
    count = MAX_STORED // 32
    tracemalloc.start()
    try:
        block_map = BlockMap(Intake("vhd"), Layout(4 * count, 4, 1))
        for block in range(count):
            block_map.note(block, 4 * (count - block))
        assert list(block_map.check(None)) == []
        assert block_map.held == 8 * count
        assert tracemalloc.get_traced_memory()[1] < 8 * count * 1.2 + 7 * MiB
    finally:
        tracemalloc.stop()


def test_a_write_is_not_copied():
    block_map, intake, _ = new_map([0])
    buffer = bytearray(b"aaaa")
    (extent,) = Parser(intake, block_map.steps()).feed(memoryview(buffer))
    assert isinstance(extent, Write)
    assert extent.data.obj is buffer
