"""VHD, VHDX and VDI in every layout that qemu-img makes, against what qemu-img makes of them; cuts and mutants."""

import contextlib
import os
import random
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged
from agent.formats.extent import ImageTooLarge, Zero
from agent.formats.vdi import VdiDecoder
from agent.formats.vhd import VhdDecoder
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vhdx.header import crc32c
from agent.units import GiB, KiB, MiB
from tests.kit.blocks import FREE, VHD_BLOCK, Vhdx, decode, guest, vdi, vhd, vhd_footer
from tests.kit.fuzz import examples

DISK = 1 * GiB
BIG = guest(10 * MiB)


def qemu_img(*argv):
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True, timeout=60)


def by_qemu(path, kind):
    """What qemu-img makes of an image."""
    out = path.with_suffix(".out")
    qemu_img("convert", "-f", kind, "-O", "raw", path, out)
    try:
        return out.read_bytes()
    finally:
        out.unlink()


def convert(path, content, kind, *options):
    raw = path.with_suffix(".raw")
    raw.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", kind, "-o", ",".join(options), raw, path)
    raw.unlink()
    return path.read_bytes()


def new_decoder(kind, size=None, disk_size=DISK):
    if kind == "vpc":
        return VhdDecoder(size, disk_size)
    return VdiDecoder(disk_size) if kind == "vdi" else VhdxDecoder(size, disk_size, can_fetch=False)


def steps(data):
    """How a file is fed: in all the ways that its length allows in a test."""
    yield from (64 * KiB, None)
    if len(data) < 10 * MiB:
        yield from ("edges", 511, 4096)
    if len(data) < 1.5 * MiB:
        yield 7
    if len(data) < 256 * KiB:
        yield 1


# -- what qemu-img writes ------------------------------------------------------------------------------------

LAYOUTS = [
    *(
        ("vpc", f"subformat={sub}", f"force_size={force}")
        for sub in ("dynamic", "fixed")
        for force in ("on", "off")
    ),
    *(("vdi", f"static={static}") for static in ("on", "off")),
    ("vhdx", "subformat=dynamic"),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "subformat=dynamic", "block_size=1M"),
    ("vhdx", "subformat=fixed", "block_size=1M"),
    ("vhdx", "subformat=dynamic", "block_size=32M", "log_size=3M"),
    ("vhdx", "subformat=dynamic", "block_size=1M", "block_state_zero=off"),
]
SPARSE = [layout for layout in LAYOUTS if layout[1] not in ("static=on", "subformat=fixed")]
# One sector, and no multiple of anything; VHD rounds up to its geometry.
SIZES = [512, 3 * MiB + 512, 9 * MiB + 1024]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=",".join)
def test_what_qemu_img_wrote_comes_back_in_every_chunking(tmp_path, layout, size):
    kind, *options = layout
    path = tmp_path / "image"
    content = BIG[:size]
    data = convert(path, content, kind, *options)
    expected = by_qemu(path, kind)
    assert expected[:size] == content
    for step in steps(data):
        assert decode(new_decoder(kind, len(data)), data, step) == (expected, len(expected))
    assert decode(new_decoder(kind), data) == (expected, len(expected))


@pytest.mark.parametrize("layout", LAYOUTS, ids=",".join)
def test_a_full_disk_of_whole_blocks(tmp_path, layout):
    kind, *options = layout
    content = random.Random(4).randbytes(4 * MiB)
    data = convert(tmp_path / "image", content, kind, *options)
    assert decode(new_decoder(kind, len(data)), data, 64 * KiB)[0][: len(content)] == content


def test_blocks_of_256_mib(tmp_path):
    """The file has one, of which the disk has a part."""
    path = tmp_path / "image"
    convert(path, BIG[: 2 * MiB], "vhdx", "block_size=256M")
    size = path.stat().st_size
    decoder, out = new_decoder("vhdx", size), bytearray()
    with path.open("rb") as file:
        while piece := file.read(4 * MiB):
            out += b"".join(bytes(extent.data) for extent in decoder.feed(memoryview(piece)))
    assert list(decoder.finish()) == []
    assert out == BIG[: 2 * MiB]


@pytest.mark.parametrize("layout", SPARSE, ids=",".join)
def test_an_empty_disk_is_one_zero_extent(tmp_path, layout):
    kind, *options = layout
    path = tmp_path / "image"
    qemu_img("create", "-f", kind, "-o", ",".join(options), path, "200M")
    decoder = new_decoder(kind)
    extents = list(decoder.feed(memoryview(path.read_bytes())))
    assert extents == [Zero(0, decoder.virtual_size)]
    assert list(decoder.finish()) == []
    assert 0 <= decoder.virtual_size - 200 * MiB < MiB


@pytest.mark.parametrize("layout", SPARSE, ids=",".join)
def test_a_disk_that_was_written_in_random_order(tmp_path, layout):
    """So that the blocks are in another order than on the guest disk."""
    kind, *options = layout
    path = tmp_path / "image"
    qemu_img("create", "-f", kind, "-o", ",".join(options), path, "40000000")
    source = random.Random(5)
    commands = []
    for _ in range(30):
        at = source.randrange(0, 39_000_000) // 512 * 512
        verb = source.choice([f"write -P {source.randrange(1, 256)}", "write -P 7", "write -z"])
        commands += ["-c", f"{verb} {at} {source.randrange(1, 600) * 512}"]
    subprocess.run(["qemu-io", "-f", kind, *commands, path], check=True, capture_output=True, timeout=60)
    data = path.read_bytes()
    expected = by_qemu(path, kind)
    for step in (64 * KiB, None):
        assert decode(new_decoder(kind, len(data)), data, step) == (expected, len(expected))


# Before version 10 qemu takes the geometry of all others, as Azure's and VirtualBox', and may cut the end of the disk.
CREATORS = [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"CTXS", b"tap\0"]


@pytest.mark.parametrize("creator", CREATORS)
def test_the_size_of_a_vhd_is_the_one_that_qemu_takes(tmp_path, creator):
    path = tmp_path / "image"
    places = [4, FREE, 13]
    footer = vhd_footer(3 * VHD_BLOCK, 3, creator=creator, cylinders=1, heads=2, sectors=9)
    path.write_bytes(data := vhd(places, footer=footer))
    expected = by_qemu(path, "vpc")
    assert len(expected) in (18 * 512, 3 * VHD_BLOCK)
    assert decode(new_decoder("vpc"), data) == (expected, len(expected))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("vpc", vhd([31, FREE, 4, 22, 13])),
        ("vdi", vdi([2, FREE, 0, 0xFFFFFFFE, 1])),
        ("vhdx", Vhdx([6, 0, 4, 5]).build()),
        ("vhdx", Vhdx([6, 0, 4], bat=2, metadata=3, states={1: 3}).build()),
    ],
)
def test_files_made_by_hand_are_what_qemu_takes_them_for(tmp_path, kind, data):
    path = tmp_path / "image"
    path.write_bytes(data)
    expected = by_qemu(path, kind)
    assert decode(new_decoder(kind), data) == (expected, len(expected))


def test_tables_at_the_end_are_what_qemu_takes_them_for(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(data := Vhdx([2, 0, 4, 3], bat=5, metadata=6).build())
    expected = by_qemu(path, "vhdx")
    assert decode(VhdxDecoder(len(data), DISK, can_fetch=True), data, fetched=data)[0] == expected


# -- cuts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=",".join)
def test_every_cut_is_noticed(tmp_path, layout):
    kind, *options = layout
    data = convert(tmp_path / "image", os.urandom(1 * MiB + 512), kind, *options)
    whole = decode(new_decoder(kind), data)[0]
    for length in {*range(0, len(data), len(data) // 24), len(data) - 1, len(data) - 512}:
        # qemu-img makes a VHDX longer than its last block. What is missing there is no part of the disk.
        with contextlib.suppress(ImageDamaged):
            assert decode(new_decoder(kind), data[:length], MiB)[0] == whole
            assert kind == "vhdx"


# -- mutants -------------------------------------------------------------------------------------------------

GOOD = {
    "vpc": vhd([4, FREE, 22, 13]),
    "vdi": vdi([1, FREE, 0]),
    "vhdx": Vhdx([5, 0, 4]).build(),
}
PLACES = {
    # Not the creator: what qemu makes of an unknown one depends on its version.
    "vpc": st.integers(0, 27) | st.integers(32, 90) | st.integers(512, 560) | st.integers(1536, 1552),
    "vdi": st.integers(64, 84) | st.integers(340, 460) | st.integers(512, 524),
    "vhdx": st.integers(64 * KiB, 64 * KiB + 80)
    | st.integers(192 * KiB, 192 * KiB + 80)
    | st.integers(2 * MiB, 2 * MiB + 192)
    | st.integers(2 * MiB + 64 * KiB, 2 * MiB + 64 * KiB + 20)
    | st.integers(3 * MiB, 3 * MiB + 24),
}
BYTES = st.sampled_from([0, 1, 2, 3, 4, 6, 7, 0x10, 0x7F, 0x80, 0xFF])


def sealed(kind, data):
    """With checksums that are right again."""
    if kind == "vpc":
        for start, length, at in ((0, 512, 64), (512, 1024, 36)):
            data[start + at : start + at + 4] = bytes(4)
            struct.pack_into(">I", data, start + at, ~sum(data[start : start + length]) & 0xFFFFFFFF)
        data[-512:] = data[:512]
    if kind == "vhdx":
        data[128 * KiB : 132 * KiB] = bytes(4 * KiB)
        for start, length in ((64 * KiB, 4 * KiB), (192 * KiB, 64 * KiB)):
            data[start + 4 : start + 8] = bytes(4)
            struct.pack_into("<I", data, start + 4, crc32c(bytes(data[start : start + length])))
        data[256 * KiB : 320 * KiB] = data[192 * KiB : 256 * KiB]
    return bytes(data)


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_accepted_gives_the_same_bytes_as_qemu_img(kind):
    @settings(max_examples=examples(60), deadline=None)
    @given(st.lists(st.tuples(PLACES[kind], BYTES), min_size=1, max_size=2))
    def check(changes):
        data = bytearray(GOOD[kind])
        for at, value in changes:
            data[at] = value
        mutant = sealed(kind, data)
        try:
            ours = decode(new_decoder(kind, len(mutant), 64 * MiB), mutant, MiB)[0]
        except (DeployError, ImageTooLarge):
            return
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "image")
            path.write_bytes(mutant)
            assert ours == by_qemu(path, kind)

    check()
