"""VHDX in layouts made by hand: tables anywhere, logs, parents; damaged and hostile ones."""

import contextlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageChanged, ImageDamaged, ImageType, ImageUnsafe
from agent.formats.extent import Fetch, ImageTooLarge, Write, Zero
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vhdx.header import crc32c
from agent.units import GiB, KiB, MiB, TiB
from tests.kit.blocks import (
    BAT_GUID,
    METADATA_GUID,
    PARAMETERS,
    PARENT,
    SECTOR_SIZE,
    VHDX_BLOCK,
    VIRTUAL_SIZE,
    Vhdx,
    block_of,
    decode,
)
from tests.kit.fuzz import examples

DISK = 64 * MiB
OTHER = "00000000-1111-2222-3333-444444444444"
STEPS = ["edges", 511, 4096, None]


def read(file, step=None, *, size=None, disk_size=DISK, can_fetch=False, fetched=None):
    data = file if isinstance(file, bytes) else file.build()
    return decode(VhdxDecoder(size, disk_size, can_fetch), data, step, fetched)


def disk_of(file):
    return b"".join(
        block_of(number, file.block_size) if place else bytes(file.block_size)
        for number, place in enumerate(file.places)
    )


HYPER_V = Vhdx([0, 4, 6, 0, 5])
QEMU = replace(HYPER_V, bat=2, metadata=3)


def test_the_checksum_is_the_one_of_the_standard():
    """RFC 3720, B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("file", [HYPER_V, QEMU], ids=["metadata first", "table first"])
def test_tables_in_front(file, step):
    data = file.build()
    for size in (None, len(data)):
        assert read(data, step, size=size) == (disk_of(file), 5 * MiB)


def test_larger_blocks_and_gaps():
    file = Vhdx([12, 0, 5], block_size=4 * MiB)
    assert read(file) == (disk_of(file), 12 * MiB)


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_disk_that_ends_within_its_last_block(sector):
    size = 4 * MiB + sector
    assert read(replace(HYPER_V, size=size, sector_size=sector)) == (disk_of(HYPER_V)[:size], size)


@pytest.mark.parametrize("state", [0, 1, 2, 3, 5])
def test_blocks_that_are_not_there_are_zeros(state):
    file = replace(HYPER_V, states={1: state})
    assert read(file)[0] == bytes(2 * MiB) + disk_of(file)[2 * MiB :]


@pytest.mark.parametrize("sector", [512, 4096])
def test_the_table_has_other_entries_between_those_of_blocks(sector):
    """After each 8 Mi sectors' worth of blocks one for a bitmap, which only a disk with a parent has."""
    chunk = 2**23 * sector // MiB
    last = 2 * chunk + 1
    places = [0] * chunk + [7] + [0] * chunk + [8]
    file = Vhdx(places, sector_size=sector, bat=3, bat_length=1)
    decoder = VhdxDecoder(None, 1 * TiB, can_fetch=False)
    extents = list(decoder.feed(memoryview(file.build())))
    assert [extent for extent in extents if isinstance(extent, Zero)] == [
        Zero(0, chunk * MiB),
        Zero((chunk + 1) * MiB, chunk * MiB),
    ]
    writes = [(extent.offset, bytes(extent.data)) for extent in extents if isinstance(extent, Write)]
    assert writes == [(number * MiB, block_of(number, MiB)) for number in (chunk, last)]


def test_a_log_that_is_empty_and_an_older_header_do_not_matter():
    assert read(replace(HYPER_V, sequences=(9, 8), log_guid=b"x" * 16))[1] == 5 * MiB
    assert read(replace(HYPER_V, sequences=(8, 8)))[1] == 5 * MiB


def test_regions_and_items_that_may_be_passed_over():
    file = replace(HYPER_V, regions=[(OTHER, 7, 1, 0)], items=[(OTHER, b"x", 0)])
    assert read(file)[0] == disk_of(HYPER_V)


@pytest.mark.parametrize("offset", [64 * KiB + 100, 128 * KiB + 100, 192 * KiB + 100, 256 * KiB + 100])
def test_one_copy_of_header_and_regions_may_be_damaged(offset):
    data = bytearray(HYPER_V.build())
    data[offset] ^= 1
    assert read(bytes(data))[0] == disk_of(HYPER_V)


def test_a_guest_that_is_too_large_is_refused_before_its_table():
    decoder = VhdxDecoder(None, 5 * MiB - 1, can_fetch=False)
    with pytest.raises(ImageTooLarge) as caught:
        list(decoder.feed(memoryview(HYPER_V.build()[: 3 * MiB])))
    assert caught.value.size == 5 * MiB


def test_every_cut_into_the_data_is_noticed():
    data = replace(HYPER_V, places=[0, 4, 6, 0, 5]).build()
    for length in [*range(0, len(data), 250_007), 320 * KiB - 1, 4 * MiB, len(data) - 1]:
        for size in (None, len(data)):
            with pytest.raises(ImageDamaged):
                read(data[:length], size=size)


# -- tables behind blocks ------------------------------------------------------------------------------------

LATE_TABLE = Vhdx([3, 0, 5], bat=4, metadata=2)
LATE_BOTH = Vhdx([2, 0, 4, 3], bat=5, metadata=6)
LATE_METADATA = Vhdx([3, 0, 4], bat=2, metadata=5)
VERY_LATE = Vhdx(list(range(3, 13)), bat=13, metadata=2)
LATE = {"table": LATE_TABLE, "both": LATE_BOTH, "metadata": LATE_METADATA, "very late": VERY_LATE}


@pytest.mark.parametrize("step", ["edges", 4096, None])
@pytest.mark.parametrize("name", LATE)
def test_tables_behind_blocks_are_fetched(name, step):
    data = LATE[name].build()
    for size in (None, len(data)):
        found = read(data, step, size=size, can_fetch=True, fetched=data)
        assert found == (disk_of(LATE[name]), len(LATE[name].places) * MiB)


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("can_fetch", [False, True])
def test_tables_behind_blocks_that_cannot_be_fetched_are_refused_with_a_way_out(name, can_fetch):
    data = LATE[name].build()
    decoder = VhdxDecoder(len(data), DISK, can_fetch=can_fetch)
    given = []
    with pytest.raises(ImageUnsafe, match="vhdx_tables") as caught:
        given.extend(decoder.feed(memoryview(data)))
    assert "qemu-img convert" in caught.value.hint
    assert not any(isinstance(extent, Write) for extent in given)


def test_tables_that_come_very_late_are_refused_at_once():
    decoder = VhdxDecoder(None, DISK, can_fetch=False)
    with pytest.raises(ImageUnsafe, match="vhdx_tables"):
        list(decoder.feed(memoryview(replace(VERY_LATE, metadata=14).build()[: 320 * KiB])))


def test_an_unused_space_in_front_of_the_table_needs_no_fetch():
    file = Vhdx([6, 0, 7], bat=5, metadata=3)
    assert read(file)[0] == disk_of(file)


@pytest.mark.parametrize("name", LATE)
def test_what_was_fetched_has_to_come_again(name):
    """Also where it makes no difference, as in the unused rest of the table of the metadata."""
    file = LATE[name]
    data = file.build()
    at = file.metadata * MiB + 31 * KiB if name == "metadata" else file.bat * MiB + 7
    changed = bytearray(data)
    changed[at] ^= 1
    with pytest.raises(ImageChanged):
        read(bytes(changed), can_fetch=True, fetched=data)


def test_a_table_that_changed_in_between_is_told():
    data = LATE_TABLE.build()
    changed = bytearray(data)
    struct.pack_into("<Q", changed, 4 * MiB + 8, 2)
    with pytest.raises(ImageChanged) as caught:
        read(bytes(changed), can_fetch=True, fetched=data)
    assert str(4 * MiB) in caught.value.detail


def test_a_table_that_ends_with_the_file_is_damage():
    data = LATE_TABLE.build()
    with pytest.raises(ImageDamaged, match="within its tables"):
        read(data, can_fetch=True, fetched=data[: 4 * MiB + 8])


def test_a_long_table_in_front_of_the_metadata_is_not_held():
    file = Vhdx([20, 21], bat=2, bat_length=17, metadata=19)
    data = file.build()
    requests = []
    decoder = VhdxDecoder(len(data), DISK, can_fetch=True)
    for extent in decoder.feed(memoryview(data)):
        if isinstance(extent, Fetch):
            requests.append(extent.offset)
            extent.data = data[extent.offset : extent.offset + extent.length]
    assert list(decoder.finish()) == []
    assert requests == [19 * MiB, 19 * MiB + 64 * KiB]
    with pytest.raises(ImageUnsafe, match="vhdx_tables"):
        read(data)


# -- damage and refusals -------------------------------------------------------------------------------------

NO_BLOCKS = Vhdx([0, 0])
FAR_AWAY = [(OTHER, bytes(3 * MiB), 0), (SECTOR_SIZE, struct.pack("<I", 512), 4)]


@pytest.mark.parametrize(
    ("error", "match", "file"),
    [
        (ImageType, "unknown data", b"vhdxfilf".ljust(MiB, b"\1")),
        (ImageUnsafe, "vhdx_log", replace(NO_BLOCKS, log_guid=b"x" * 16)),
        (ImageUnsafe, "backing_file", replace(NO_BLOCKS, flags=2)),
        (ImageUnsafe, "backing_file", replace(NO_BLOCKS, items=[(PARENT, b"x", 4)])),
        (ImageUnsafe, "backing_file", replace(NO_BLOCKS, states={1: 7})),
        (ImageUnsafe, "unknown_features", replace(NO_BLOCKS, regions=[(OTHER, 7, 1, 1)])),
        (ImageUnsafe, "unknown_features", replace(NO_BLOCKS, items=[(OTHER, b"x", 4)])),
        (
            ImageUnsafe,
            "vhdx_tables",
            replace(NO_BLOCKS, items=FAR_AWAY, without=[SECTOR_SIZE]),
        ),
        (ImageDamaged, "same number", replace(NO_BLOCKS, sequences=(8, 8), log_guid=b"x" * 16)),
        (ImageDamaged, "no table of its blocks", replace(NO_BLOCKS, without=[BAT_GUID])),
        (ImageDamaged, "no table of its blocks", replace(NO_BLOCKS, without=[METADATA_GUID])),
        (ImageDamaged, "there twice", replace(NO_BLOCKS, regions=[(BAT_GUID, 7, 1, 1)])),
        (ImageDamaged, "there twice", replace(NO_BLOCKS, items=[(PARAMETERS, bytes(8), 4)])),
        (ImageDamaged, "lies over", replace(NO_BLOCKS, regions=[(OTHER, 3, 1, 0)])),
        (ImageDamaged, "lies over", replace(NO_BLOCKS, regions=[(OTHER, 0, 1, 0)])),
        (ImageDamaged, "lies over", replace(NO_BLOCKS, log=2)),
        (ImageDamaged, "whole MiB", replace(NO_BLOCKS, regions=[(OTHER, 7, 0, 0)])),
        (ImageDamaged, "lacks", replace(NO_BLOCKS, without=[PARAMETERS])),
        (ImageDamaged, "lacks", replace(NO_BLOCKS, without=[VIRTUAL_SIZE])),
        (ImageDamaged, "lacks", replace(NO_BLOCKS, without=[SECTOR_SIZE])),
        (ImageDamaged, "blocks have", replace(NO_BLOCKS, size=MiB, block_size=512 * MiB)),
        (ImageDamaged, "blocks have", replace(NO_BLOCKS, size=MiB, block_size=3 * MiB)),
        (ImageDamaged, "sectors have", replace(NO_BLOCKS, size=MiB, sector_size=1024)),
        (ImageDamaged, "its disk has", replace(NO_BLOCKS, size=MiB + 1)),
        (ImageDamaged, "its disk has", replace(NO_BLOCKS, size=MiB + 512, sector_size=4096)),
        (ImageDamaged, "its disk has", replace(NO_BLOCKS, size=65 * TiB)),
        (ImageDamaged, "131072 entries|entries", replace(NO_BLOCKS, size=40 * TiB)),
        (ImageDamaged, "means nothing", replace(NO_BLOCKS, states={0: 4})),
        (ImageDamaged, "means nothing", replace(NO_BLOCKS, states={0: 8})),
        (ImageDamaged, "lies over", Vhdx([4, 4])),
        (ImageDamaged, "lies over", Vhdx([4, 6], block_size=4 * MiB)),
        (ImageDamaged, "ends at byte", Vhdx([4, 2000])),
        (ImageDamaged, "beyond any file", Vhdx([4, 2**44 - 1])),
        (ImageUnsafe, "vhdx_tables", Vhdx([4, 3])),
        (ImageUnsafe, "vhdx_tables", Vhdx([0], states={0: 6})),
    ],
)
def test_what_is_refused(error, match, file):
    data = file if isinstance(file, bytes) else file.build()
    for step in (64 * KiB, None):
        with pytest.raises(error, match=match):
            read(data, step, disk_size=64 * TiB)


def test_the_way_out_of_a_log_is_told():
    with pytest.raises(ImageUnsafe) as caught:
        read(replace(NO_BLOCKS, log_guid=b"x" * 16))
    assert "Hyper-V" in caught.value.hint
    assert "qemu-img check -r all" in caught.value.hint


@pytest.mark.parametrize("offsets", [(64 * KiB, 128 * KiB), (192 * KiB, 256 * KiB)])
def test_both_copies_damaged(offsets):
    data = bytearray(HYPER_V.build())
    for offset in offsets:
        data[offset + 100] ^= 1
    with pytest.raises(ImageDamaged, match="neither"):
        read(bytes(data))


def test_regions_beyond_the_file_are_damage_at_once():
    data = HYPER_V.build()[: 320 * KiB]
    with pytest.raises(ImageDamaged, match="last region ends at byte"):
        list(VhdxDecoder(2 * MiB, DISK, can_fetch=True).feed(memoryview(data)))


def test_a_block_beyond_the_file_is_told_before_the_first_write():
    data = Vhdx([4, 0, 2000]).build()
    given = []
    with pytest.raises(ImageDamaged, match="the file at byte"):
        given.extend(VhdxDecoder(len(data), DISK, can_fetch=False).feed(memoryview(data)))
    assert not any(isinstance(extent, Write) for extent in given)


# -- mutants -------------------------------------------------------------------------------------------------

GOOD = {"in order": Vhdx([0, 5, 4]).build(), "late": Vhdx([3, 0], bat=4, metadata=2).build()}
PLACES = (
    st.integers(64 * KiB, 64 * KiB + 80)
    | st.integers(192 * KiB, 192 * KiB + 80)
    | st.integers(2 * MiB, 2 * MiB + 160)
    | st.integers(2 * MiB + 64 * KiB, 2 * MiB + 64 * KiB + 20)
    | st.integers(3 * MiB, 3 * MiB + 32)
    | st.integers(4 * MiB, 4 * MiB + 32)
)


def sealed(data):
    """With checksums that are right again, so that what was changed is looked at."""
    for start, length in ((64 * KiB, 4 * KiB), (192 * KiB, 64 * KiB)):
        data[start + 4 : start + 8] = bytes(4)
        struct.pack_into("<I", data, start + 4, crc32c(bytes(data[start : start + length])))
    return bytes(data)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=3),
    st.booleans(),
)
def test_mutants_raise_the_known_errors_only(name, changes, can_fetch):
    data = bytearray(GOOD[name])
    # The second header would be taken instead of the first.
    data[128 * KiB : 132 * KiB] = bytes(4 * KiB)
    for at, value in changes:
        data[at] = value
    mutant = sealed(data)
    with contextlib.suppress(DeployError, ImageTooLarge):
        read(mutant, MiB, can_fetch=can_fetch, fetched=mutant)


def test_a_disk_of_which_nothing_is_there_is_one_extent():
    decoder = VhdxDecoder(None, GiB, can_fetch=False)
    assert list(decoder.feed(memoryview(Vhdx([0] * 1000).build()))) == [Zero(0, 1000 * VHDX_BLOCK)]
    assert list(decoder.finish()) == []
