"""VHD, fixed and dynamic, in layouts made by hand; damaged and hostile ones."""

import contextlib
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.extent import Fetch, ImageTooLarge, Write, Zero
from agent.formats.vhd import VhdDecoder
from agent.units import GiB, KiB, MiB
from tests.kit.blocks import FREE, VHD_BLOCK, block_of, decode, vhd, vhd_footer, vhd_header
from tests.kit.fuzz import examples

STEPS = [1, 7, 511, 4096, None]
DISK = 64 * MiB


def read(data, step=None, *, size=None, disk_size=DISK):
    return decode(VhdDecoder(size, disk_size), data, step)


def disk_of(places):
    return b"".join(
        bytes(VHD_BLOCK) if place == FREE else block_of(number, VHD_BLOCK)
        for number, place in enumerate(places)
    )


# -- dynamic -------------------------------------------------------------------------------------------------

IN_ORDER = [FREE, 4, 13, FREE, 22]
LAYOUTS = {
    "in order": IN_ORDER,
    "backwards": [31, 22, 13, 4],
    "with gaps": [5, FREE, 40, 22],
    "all free": [FREE] * 5,
    "one block": [4],
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_anywhere_behind_the_table(name, step):
    places = LAYOUTS[name]
    data = vhd(places)
    expected = disk_of(places)
    for size in (None, len(data)):
        assert read(data, step, size=size) == (expected, len(expected))


@settings(max_examples=examples(60))
@given(
    st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
    st.integers(1, 20_000),
    st.integers(1, VHD_BLOCK // 512),
)
def test_any_blocks_in_any_order_with_any_gaps_in_any_pieces(gaps, source, step, sectors):
    """`gaps` is for each block how many sectors lie free before it in the file, or that it is not there."""
    order = [number for number, gap in enumerate(gaps) if gap is not None]
    source.shuffle(order)
    places, sector = [FREE] * len(gaps), 4
    for number in order:
        places[number] = sector + gaps[number]
        sector += gaps[number] + 1 + VHD_BLOCK // 512
    size = (len(places) - 1) * VHD_BLOCK + sectors * 512
    data = vhd(places, footer=vhd_footer(size, 3))
    assert read(data, step, size=len(data)) == (disk_of(places)[:size], size)


def test_a_disk_that_ends_within_its_last_block():
    size = 4 * VHD_BLOCK + 512
    assert read(vhd(IN_ORDER, footer=vhd_footer(size, 3))) == (disk_of(IN_ORDER)[:size], size)


def test_a_table_that_is_longer_than_the_disk():
    data = vhd([*IN_ORDER, 31], footer=vhd_footer(5 * VHD_BLOCK, 3))
    assert read(data) == (disk_of(IN_ORDER), 5 * VHD_BLOCK)


def test_zeros_come_first_and_merged():
    decoder = VhdDecoder(None, DISK)
    extents = list(decoder.feed(memoryview(vhd([FREE, FREE, 4, FREE]))))
    assert extents[:2] == [Zero(0, 2 * VHD_BLOCK), Zero(3 * VHD_BLOCK, VHD_BLOCK)]
    assert all(isinstance(extent, Write) for extent in extents[2:])


def test_header_and_table_further_behind():
    footer = vhd_footer(VHD_BLOCK, 3, header=2048)
    data = footer + bytes(1536) + vhd_header(1, table=4096) + bytes(1024)
    data += struct.pack(">I", 9).ljust(512, b"\xff") + b"\xff" * 512 + block_of(0, VHD_BLOCK) + footer
    assert read(data) == (block_of(0, VHD_BLOCK), VHD_BLOCK)


@pytest.mark.parametrize(
    "creator", [b"win ", b"qem2", b"d2v ", b"CTXS", b"tap\0", b"wa\0\0", b"vbox", b"vs  ", b"any "]
)
def test_the_size_counts(creator):
    data = vhd([4], footer=vhd_footer(VHD_BLOCK, 3, creator=creator, cylinders=1, heads=1, sectors=7))
    assert read(data)[1] == VHD_BLOCK


@pytest.mark.parametrize("creator", [b"vpc ", b"qemu"])
def test_the_geometry_counts_for_virtual_pc_and_qemu(creator):
    data = vhd([4], footer=vhd_footer(VHD_BLOCK, 3, creator=creator, cylinders=1, heads=1, sectors=7))
    assert read(data) == (block_of(0, VHD_BLOCK)[: 7 * 512], 7 * 512)


def test_the_largest_geometry_says_nothing():
    geometry = {"cylinders": 65535, "heads": 16, "sectors": 255}
    assert read(vhd([4], footer=vhd_footer(VHD_BLOCK, 3, creator=b"vpc ", **geometry)))[1] == VHD_BLOCK


def test_a_guest_that_is_too_large_is_refused_before_its_table():
    data = vhd([4, FREE], footer=vhd_footer(2 * VHD_BLOCK, 3))
    decoder = VhdDecoder(None, VHD_BLOCK)
    with pytest.raises(ImageTooLarge) as caught:
        list(decoder.feed(memoryview(data[:1536])))
    assert caught.value.size == decoder.virtual_size == 2 * VHD_BLOCK


def test_every_cut_of_a_dynamic_disk_is_noticed():
    data = vhd(IN_ORDER)
    for length in [*range(0, len(data), 97), *range(len(data) - 513, len(data))]:
        for size in (None, len(data)):
            with pytest.raises(ImageDamaged):
                read(data[:length], size=size)


# -- fixed ---------------------------------------------------------------------------------------------------


def fixed(content, **changes):
    return content + vhd_footer(len(content), 2, **changes)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("sectors", [1, 7, 8, 9, 17, 40])
def test_a_fixed_disk_is_what_stands_before_the_footer(sectors, step):
    content = block_of(3, sectors * 512)
    data = fixed(content)
    for size in (None, len(data)):
        assert read(data, step, size=size) == (content, len(content))


def test_a_fixed_disk_is_written_in_large_pieces():
    """What is held back for the footer cuts nothing that a disk with sectors of 4096 bytes would have to read first."""
    data = fixed(block_of(1, 3 * MiB))
    decoder = VhdDecoder(None, DISK)
    extents = [
        extent for at in range(0, len(data), MiB) for extent in decoder.feed(memoryview(data)[at : at + MiB])
    ]
    extents += decoder.finish()
    assert all(extent.offset % 4096 == 0 for extent in extents)
    assert len(extents) <= 7


def test_a_fixed_disk_whose_geometry_is_smaller():
    content = block_of(1, 12 * 512)
    data = fixed(content, creator=b"vpc ", cylinders=1, heads=1, sectors=10)
    decoder = VhdDecoder(len(data), DISK)
    out = list(decoder.feed(memoryview(data))) + list(decoder.finish())
    assert decoder.virtual_size == 10 * 512
    assert b"".join(bytes(extent.data) for extent in out) == content


@pytest.mark.parametrize("size", [None, 12 * 512 + 512])
def test_a_fixed_disk_that_is_too_large(size):
    data = fixed(block_of(1, 12 * 512))
    decoder = VhdDecoder(size, 11 * 512)
    given = []
    with pytest.raises(ImageTooLarge) as caught:
        given.extend(itertools.chain(decoder.feed(memoryview(data)), decoder.finish()))
    assert caught.value.size == 12 * 512
    # Where the size is not known, it shows in the end.
    assert [extent.offset for extent in given] == ([0] if size is None else [])


def test_every_cut_of_a_fixed_disk_is_noticed():
    data = fixed(block_of(1, 20 * 512))
    for length in [*range(0, len(data), 97), *range(len(data) - 513, len(data))]:
        with pytest.raises(ImageDamaged):
            read(data[:length])


def test_a_fixed_disk_of_which_the_middle_is_missing():
    data = fixed(block_of(1, 20 * 512))
    with pytest.raises(ImageDamaged, match="10240 bytes, of which the file has 9728"):
        read(data[:5120] + data[5632:])


# -- damage and refusals -------------------------------------------------------------------------------------

GOOD = vhd(IN_ORDER)


@pytest.mark.parametrize(
    ("error", "match", "data"),
    [
        (ImageDamaged, "checksum of the copy", vhd([4], footer=vhd_footer(VHD_BLOCK, 3, checksum=1))),
        (ImageDamaged, "checksum of its footer", vhd([4], last=vhd_footer(VHD_BLOCK, 3, checksum=1))),
        (ImageDamaged, "checksum of its header", vhd([4], checksum=1)),
        (ImageDamaged, "checksum of its footer", fixed(bytes(512), checksum=1)),
        (ImageDamaged, "contradicts", vhd([4], last=vhd_footer(VHD_BLOCK - 512, 3))),
        (ImageDamaged, "contradicts", vhd([4], last=vhd_footer(VHD_BLOCK, 2))),
        (ImageDamaged, "no header", vhd([4], cookie=b"cxsparsf")),
        (ImageDamaged, "footer of a fixed disk", vhd_footer(0, 2)),
        (ImageDamaged, "footer of a fixed disk", vhd([4], footer=vhd_footer(VHD_BLOCK, 2))),
        (ImageDamaged, "does not begin with one", bytes(512) + vhd_footer(512, 3)),
        (ImageDamaged, "is not there", vhd([4]) + b"x"),
        (ImageDamaged, "is not there", bytes(4096)),
        (ImageDamaged, "is not there", b"conectix"),
        (
            ImageDamaged,
            "table has 5 entries, the disk 6",
            vhd(IN_ORDER, footer=vhd_footer(5 * VHD_BLOCK + 512, 3)),
        ),
        (ImageDamaged, "lies over", vhd([4, 4])),
        (ImageDamaged, "lies over", vhd([4, 12])),
        (ImageDamaged, "ends at byte", vhd([4, 0x7FFFFFFF])),
        (ImageUnsafe, "vhd_tables", vhd([0])),
        (ImageUnsafe, "vhd_tables", vhd([3])),
        (ImageUnsafe, "vhd_tables", vhd([4], block_size=0)),
        (ImageUnsafe, "vhd_tables", vhd([4], block_size=256)),
        (ImageUnsafe, "vhd_tables", vhd([4], block_size=5000)),
        (ImageUnsafe, "vhd_tables", vhd([4], table=512)),
        (ImageUnsafe, "vhd_tables", vhd([4], table=2**64 - 1)),
        (ImageUnsafe, "vhd_tables", vhd([4], footer=vhd_footer(VHD_BLOCK, 3, header=0))),
        (ImageUnsafe, "vhd_tables", vhd([4], footer=vhd_footer(VHD_BLOCK, 3, header=2**64 - 1))),
        (ImageUnsafe, "backing_file", vhd([4], footer=vhd_footer(VHD_BLOCK, 4))),
        (ImageUnsafe, "backing_file", bytes(512) + vhd_footer(512, 4)),
        (ImageUnsafe, "unknown_features", vhd([4], footer=vhd_footer(VHD_BLOCK, 5))),
        (ImageUnsafe, "unknown_features", vhd([4], footer=vhd_footer(VHD_BLOCK, 3, version=0x20000))),
        (ImageUnsafe, "unknown_features", vhd([4], version=0x20000)),
        (ImageUnsafe, "virtual_size", vhd([4], footer=vhd_footer(2041 * GiB, 3))),
    ],
)
def test_what_is_refused(error, match, data):
    for step in (511, None):
        with pytest.raises(error, match=match):
            read(data, step)


def test_a_block_beyond_the_file_is_told_before_the_first_write():
    data = vhd([4, FREE, 0x7FFFFFFF])
    decoder = VhdDecoder(len(data), DISK)
    given = []
    with pytest.raises(ImageDamaged, match="the file at byte"):
        given.extend(decoder.feed(memoryview(data)))
    assert not any(isinstance(extent, Write) for extent in given)


def test_many_tiny_blocks_are_refused_before_their_table():
    footer = vhd_footer(1024 * GiB, 3)
    data = footer + vhd_header(2**31, block_size=512)
    with pytest.raises(ImageUnsafe, match="vhd_tables") as caught:
        read(data, disk_size=1024 * GiB)
    assert str(2**31) in caught.value.detail


# -- mutants -------------------------------------------------------------------------------------------------


def sealed(data):
    """With checksums that are right again, so that what was changed in footers and header is looked at."""
    data = bytearray(data)
    for start, length, at in ((0, 512, 64), (512, 1024, 36), (len(data) - 512, 512, 64)):
        data[start + at : start + at + 4] = bytes(4)
        checksum = ~sum(data[start : start + length]) & 0xFFFFFFFF
        struct.pack_into(">I", data, start + at, checksum)
    return bytes(data)


@settings(max_examples=examples(300))
@given(
    st.lists(
        st.tuples(st.integers(0, 1600) | st.integers(-512, -440), st.integers(0, 255)), min_size=1, max_size=4
    ),
    st.booleans(),
    st.sampled_from([7 * KiB, None]),
)
def test_mutants_raise_the_known_errors_only(changes, seal, step):
    data = bytearray(GOOD)
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(DeployError, ImageTooLarge):
        assert not isinstance(read(sealed(data) if seal else bytes(data), step), Fetch)
