"""VDI, dynamic and static, in layouts made by hand; damaged and hostile ones."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageType, ImageUnsafe
from agent.formats.extent import ImageTooLarge, Write
from agent.formats.vdi import VdiDecoder
from agent.units import MiB, TiB
from tests.kit.blocks import FREE, VDI_BLOCK, block_of, decode, vdi
from tests.kit.fuzz import examples

ZERO = 0xFFFFFFFE
DISK = 64 * MiB


def read(data, step=None, *, disk_size=DISK):
    return decode(VdiDecoder(disk_size), data, step)


def disk_of(places):
    return b"".join(
        bytes(VDI_BLOCK) if place >= ZERO else block_of(number, VDI_BLOCK)
        for number, place in enumerate(places)
    )


@pytest.mark.parametrize("step", ["edges", 511, 4096, None])
@pytest.mark.parametrize("places", [[FREE, 0, ZERO, 1], [2, 1, 0], [3, FREE, 1], [FREE, ZERO], [0]], ids=str)
def test_blocks_anywhere_behind_the_table(places, step):
    expected = disk_of(places)
    assert read(vdi(places), step) == (expected, len(expected))


def test_a_static_disk():
    assert read(vdi([0, 1, 2], kind=2))[0] == disk_of([0, 1, 2])


def test_a_disk_that_ends_within_its_last_block():
    assert read(vdi([1, 0], size=MiB + 512)) == (disk_of([1, 0])[: MiB + 512], MiB + 512)


def test_a_size_of_no_whole_sectors_is_rounded_up():
    assert read(vdi([1, 0], size=MiB + 7))[1] == MiB + 512


def test_a_table_that_is_longer_than_the_disk():
    assert read(vdi([0, 1, 5], size=2 * MiB))[0] == disk_of([0, 1])


def test_bytes_behind_the_last_block_do_not_matter():
    assert read(vdi([0]) + bytes(MiB))[0] == disk_of([0])


def test_a_guest_that_is_too_large_is_refused_before_its_table():
    with pytest.raises(ImageTooLarge) as caught:
        list(VdiDecoder(2 * MiB - 1).feed(memoryview(vdi([0, 1])[:512])))
    assert caught.value.size == 2 * MiB


def test_every_cut_into_the_data_is_noticed():
    data = vdi([1, 0])
    for length in [*range(0, 2048, 97), *range(2048, len(data), 100_003), len(data) - 1]:
        with pytest.raises(ImageDamaged):
            read(data[:length])


@pytest.mark.parametrize(
    ("error", "match", "data"),
    [
        (ImageType, "unknown data", vdi([0], signature=b"\x7f\x10\xda\xbf")),
        (ImageUnsafe, "unknown_features", vdi([0], version=0x00010002)),
        (ImageUnsafe, "unknown_features", vdi([0], version=1)),
        (ImageUnsafe, "unknown_features", vdi([0], kind=0)),
        (ImageUnsafe, "unknown_features", vdi([0], kind=9)),
        (ImageUnsafe, "backing_file", vdi([0], kind=3)),
        (ImageUnsafe, "backing_file", vdi([0], kind=4)),
        (ImageUnsafe, "backing_file", vdi([0], link=bytes(15) + b"x")),
        (ImageUnsafe, "backing_file", vdi([0], parent=bytes(15) + b"x")),
        (ImageUnsafe, "vdi_tables", vdi([0], sector=4096)),
        (ImageUnsafe, "vdi_tables", vdi([0], block=2 * MiB)),
        (ImageUnsafe, "vdi_tables", vdi([0], block=0)),
        (ImageUnsafe, "vdi_tables", vdi([0], extra=512)),
        (ImageUnsafe, "vdi_tables", vdi([0], table=513)),
        (ImageUnsafe, "vdi_tables", vdi([0], data=1025)),
        (ImageUnsafe, "vdi_tables", vdi([0], blocks=0)),
        (ImageUnsafe, "vdi_tables", vdi([0], size=MiB + 1)),
        (ImageDamaged, "does not fit between", vdi([0], table=0)),
        (ImageDamaged, "does not fit between", vdi([0], table=1024)),
        (ImageDamaged, "does not fit between", vdi([0], data=512)),
        (ImageDamaged, "lies over", vdi([0, 0])),
        (ImageDamaged, "ends at byte", vdi([0, 0x7FFFFF])),
        (ImageDamaged, "beyond any file", vdi([0, 0x7FFFFFFF])),
    ],
)
def test_what_is_refused(error, match, data):
    for step in (511, None):
        with pytest.raises(error, match=match):
            read(data, step)


def test_a_huge_disk_is_refused_before_its_table():
    head = vdi([], size=128 * TiB, blocks=128 * 2**20, data=2**30)[:1024]
    with pytest.raises(ImageUnsafe, match="vdi_tables"):
        read(head, disk_size=128 * TiB)


GOOD = vdi([1, FREE, 0])


@settings(max_examples=examples(150))
@given(
    st.lists(
        st.tuples(st.integers(64, 84) | st.integers(340, 460) | st.integers(512, 524), st.integers(0, 255)),
        min_size=1,
        max_size=3,
    )
)
def test_mutants_raise_the_known_errors_only(changes):
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(DeployError, ImageTooLarge):
        read(bytes(data), 64 * 1024)


def test_writes_are_as_long_as_what_was_fed():
    data = vdi([0])
    extents = list(VdiDecoder(DISK).feed(memoryview(data)))
    assert [type(extent) for extent in extents] == [Write]
