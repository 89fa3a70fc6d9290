"""The superblock and the bitmap of a mirror's member, byte by byte; mdadm judges them in tests/integration."""

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.tables.labels import END_BYTES, md_at_end
from agent.formats.tables.md import (
    Array,
    least_member,
    member_gap,
    member_layout,
    member_writes,
    uuid_text,
)
from agent.units import GiB, KiB, MiB, TiB

SET = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
OWN = uuid.UUID("ffeeddcc-bbaa-9988-7766-554433221100")
MADE = 1_764_450_000


def array_for(partition_bytes, resync, **options):
    size = member_layout(partition_bytes).data_bytes
    return Array(uuid=SET, ctime=MADE, size=size, resync=resync, **options)


def parts(array, role, partition_bytes):
    """The bitmap and the superblock, without their places."""
    (_, bits), (_, block) = member_writes(array, role, partition_bytes, OWN)
    return bits, block


def set_bits(bits):
    number = int.from_bytes(bits[256:], "little")
    return [index for index in range(number.bit_length()) if number >> index & 1]


def test_superblock_has_every_field_of_md_p_h():
    size = GiB + 4 * KiB
    _, block = parts(array_for(size, 300 * MiB + 5 * KiB), 1, size)
    sectors = size // 512
    assert struct.unpack_from("<IIII", block) == (0xA92B4EFC, 1, 1, 0)
    assert block[16:32] == SET.bytes
    assert block[32:64] == b"any:root".ljust(32, b"\0")
    assert struct.unpack_from("<QII", block, 64) == (MADE, 1, 0)
    assert struct.unpack_from("<QIIi", block, 80) == ((sectors - 272) // 128 * 128, 0, 2, -256)
    assert block[100:128] == bytes(28)
    assert struct.unpack_from("<QQQQ", block, 128) == (0, sectors - 272, sectors - 16, 0)
    assert struct.unpack_from("<II", block, 160) == (1, 0)
    assert block[168:184] == OWN.bytes
    assert block[184:192] == bytes(8)
    resync = (300 * MiB + 4 * KiB) // 512  # whole blocks of 4 KiB: the rest of one is copied
    assert struct.unpack_from("<QQQ", block, 192) == (MADE, 1, resync)
    assert struct.unpack_from("<I", block, 220) == (128,)
    assert block[224:256] == bytes(32)
    assert struct.unpack_from("<128H", block, 256) == (0, 1, *[0xFFFF] * 126)
    assert block[512:] == bytes(4096 - 512)


@given(role=st.integers(0, 3), resync=st.integers(0, 64 * MiB), name=st.text("abc", max_size=32))
def test_checksum_is_the_sum_of_the_words_with_the_carry(role, resync, name):
    size = 100 * MiB
    _, block = parts(array_for(size, resync, members=4, name=name), role, size)
    words = list(struct.unpack_from("<128I", block))
    found, words[54] = words[54], 0
    total = sum(words)
    assert found == (total % 2**32 + total // 2**32) % 2**32


def test_bitmap_has_every_field_of_md_bitmap_h():
    size = 10 * GiB
    array = array_for(size, 2 * GiB)
    bits, _ = parts(array, 0, size)
    assert len(bits) == 128 * KiB
    assert struct.unpack_from("<II", bits) == (0x6D746962, 4)
    assert bits[8:24] == SET.bytes
    assert struct.unpack_from("<QQQ", bits, 24) == (1, 1, array.size // 512)
    assert struct.unpack_from("<IIIII", bits, 48) == (0, 64 * MiB, 5, 0, 256)
    assert bits[68:256] == bytes(188)
    assert set_bits(bits) == list(range(32, 160))


@given(size=st.integers(2**18, 10**14), alike=st.floats(0, 1))
def test_every_byte_that_may_differ_is_in_a_chunk_whose_bit_is_set(size, alike):
    size -= size % (4 * KiB)
    array = array_for(size, int(member_layout(size).data_bytes * alike))
    bits, block = parts(array, 0, size)
    assert len(bits) == 128 * KiB
    chunk = struct.unpack_from("<I", bits, 52)[0]
    resync = struct.unpack_from("<Q", block, 208)[0] * 512
    number = int.from_bytes(bits[256:], "little")
    if resync > array.size:
        assert (number, array.resync) == (0, array.size)
        return
    assert array.resync - 4 * KiB < resync <= array.resync
    last = -(-array.size // chunk)
    assert last <= (128 * KiB - 256) * 8
    # One run of bits, from the chunk with the first byte that may differ to the last chunk of the array.
    assert number.bit_length() == last
    assert number & -number == 1 << resync // chunk
    assert (number + (number & -number)).bit_count() == 1


@pytest.mark.parametrize(
    ("size", "chunk"), [(GiB, 64 * MiB), (63 * TiB, 64 * MiB), (64 * TiB, 128 * MiB), (500 * TiB, 512 * MiB)]
)
def test_a_bit_stands_for_more_where_the_bitmap_would_have_too_few(size, chunk):
    assert array_for(size, 0).chunk == chunk


@given(size=st.integers(0, 2**50))
def test_layout_keeps_data_bitmap_and_superblock_apart(size):
    try:
        layout = member_layout(size)
    except ValueError:
        assert size < least_member(1)
        return
    assert 0 < layout.data_bytes <= layout.bitmap_offset
    assert layout.bitmap_offset + 128 * KiB == layout.super_offset
    assert size - 12 * KiB < layout.super_offset <= size - 8 * KiB
    assert {layout.data_bytes % (64 * KiB), layout.bitmap_offset % 4096, layout.super_offset % 4096} == {0}


@given(data=st.integers(1, 2**50))
def test_the_least_member_has_room_and_the_next_smaller_one_has_not(data):
    least = least_member(data)
    assert member_layout(least).data_bytes >= data
    smaller = least - 4 * KiB
    if data > 64 * KiB:
        assert member_layout(smaller).data_bytes < data
    else:
        with pytest.raises(ValueError, match="no room"):
            member_layout(smaller)


def test_unequal_members_tell_of_the_same_array():
    small, large = GiB, 3 * GiB + 20 * KiB
    array = array_for(small, 100 * MiB)
    for role, size in ((0, small), (1, large)):
        (bitmap_at, bits), (super_at, block) = member_writes(array, role, size, OWN)
        start, length = member_gap(array, size)
        assert start == array.size - 128 * KiB
        assert start + length == size
        assert start <= bitmap_at < bitmap_at + len(bits) == super_at < super_at + len(block) <= size
        assert struct.unpack_from("<Q", block, 80) == (array.size // 512,)
        assert struct.unpack_from("<QQ", block, 136) == (bitmap_at // 512, super_at // 512)


@given(size=st.integers(2**18, 2**40), spare=st.integers(0, 2**20))
def test_no_byte_of_the_image_is_in_the_gap_and_every_end_is(size, spare):
    size -= size % (4 * KiB)
    data = member_layout(size).data_bytes
    array = array_for(size, max(0, data - spare))
    start, length = member_gap(array, size)
    assert start + length == size
    assert start % (4 * KiB) == 0
    assert array.resync <= start <= data
    assert start <= max(array.resync + 4 * KiB - 1, data - 128 * KiB)


def test_an_old_array_can_be_found_where_a_new_one_is_written():
    size = GiB
    (_, _), (at, block) = member_writes(array_for(size, 0), 0, size, OWN)
    tail = bytearray(END_BYTES)
    place = at - (size - END_BYTES)
    tail[place : place + len(block)] = block
    assert md_at_end(bytes(tail), size) == "any:root"


def test_uuid_as_mdadm_has_it():
    assert uuid_text(SET) == "00112233:44556677:8899aabb:ccddeeff"


@pytest.mark.parametrize(
    "wrong",
    [
        {"resync": 101 * MiB},
        {"resync": -1},
        {"size": 0, "resync": 0},
        {"size": 1000, "resync": 0},
        {"members": 0},
        {"members": 129},
        {"ctime": -1},
        {"ctime": 2**40},
        {"name": "ü" * 17},
    ],
)
def test_an_impossible_array_is_none(wrong):
    fields = {"uuid": SET, "ctime": MADE, "size": 100 * MiB, "resync": 0}
    with pytest.raises(ValueError):
        Array(**fields | wrong)


@pytest.mark.parametrize(("role", "size"), [(2, GiB), (-1, GiB), (0, GiB - 64 * KiB), (0, GiB + 512)])
def test_a_member_that_does_not_fit_its_array_is_refused(role, size):
    with pytest.raises(ValueError, match="member"):
        member_writes(array_for(GiB, 0), role, size, OWN)
