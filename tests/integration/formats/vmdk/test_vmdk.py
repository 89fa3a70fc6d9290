"""VMDK by qemu-img and by a writer of VMware's layout, against qemu-img convert; damaged and hostile ones."""

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

from agent.errors import DeployError, ImageDamaged, ImageType, ImageUnsafe
from agent.formats.extent import ImageTooLarge, Zero
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.units import GiB, MiB
from tests.kit.fuzz import examples
from tests.unit.formats.vmdk.test_vmdk import (
    BIG,
    DESCRIPTOR,
    GRAIN,
    HEADER_CHANGES,
    MUTATED,
    Writer,
    decode,
    guest,
    header,
    marker,
    mutant,
)

STEPS = [511, 4096, 65536, None]


def qemu_img(*argv):
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True, timeout=60)


def convert(path, content, *options):
    raw = path.with_suffix(".raw")
    raw.write_bytes(content)
    qemu_img("convert", "-O", "vmdk", "-o", ",".join(options), str(raw), str(path))
    return path.read_bytes()


def by_qemu(path, data):
    """What qemu-img makes of a VMDK."""
    path.write_bytes(data)
    qemu_img("convert", "-O", "raw", "-f", "vmdk", str(path), str(path.with_suffix(".out")))
    return path.with_suffix(".out").read_bytes()


# -- what qemu-img writes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
@pytest.mark.parametrize("size", [512, GRAIN, 3 * MiB + 512, 40 * MiB - 512])
@pytest.mark.parametrize(
    "extra", [(), ("zeroed_grain=on",), ("adapter_type=lsilogic", "hwversion=13"), ("compat6=on",)]
)
def test_what_qemu_img_wrote_comes_back_in_every_chunking(tmp_path, subformat, size, extra):
    content = guest(size)
    data = convert(tmp_path / "d.vmdk", content, f"subformat={subformat}", *extra)
    for step in STEPS if size < 10 * MiB else [65536, None]:
        assert decode(data, step) == (content, size)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_byte_by_byte(tmp_path, subformat):
    content = guest(GRAIN + 1024)
    data = convert(tmp_path / "d.vmdk", content, f"subformat={subformat}")
    for step in (1, 7):
        assert decode(data, step) == (content, len(content))


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_an_empty_disk_is_one_zero_extent(tmp_path, subformat):
    path = tmp_path / "d.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", f"subformat={subformat}", str(path), "20G")
    decoder = VmdkDecoder(20 * GiB)
    assert list(decoder.feed(memoryview(path.read_bytes()))) == [Zero(0, 20 * GiB)]
    assert list(decoder.finish()) == []


def test_a_sparse_disk_that_was_written_in_random_order(tmp_path):
    path = tmp_path / "d.vmdk"
    qemu_img(
        "create", "-f", "vmdk", "-o", "subformat=monolithicSparse,zeroed_grain=on", str(path), "40000000"
    )
    source = random.Random(5)
    commands = []
    for _ in range(60):
        at = source.randrange(0, 39_000_000) // 512 * 512
        verb = source.choice([f"write -P {source.randrange(1, 256)}", "write -P 7", "write -z"])
        commands += ["-c", f"{verb} {at} {source.randrange(1, 600) * 512}"]
    subprocess.run(
        ["qemu-io", "-f", "vmdk", *commands, str(path)], check=True, capture_output=True, timeout=60
    )
    data = path.read_bytes()
    expected = by_qemu(path, data)
    for step in (4096, None):
        assert decode(data, step) == (expected, len(expected))


def test_stream_optimized_grains_that_qemu_wrote_in_any_order(tmp_path):
    path = tmp_path / "d.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", "subformat=streamOptimized", str(path), "64M")
    commands = []
    for grain in random.Random(2).sample(range(1000), 40):
        commands += ["-c", f"write -c -P {grain % 255 + 1} {grain * GRAIN} {GRAIN}"]
    subprocess.run(
        ["qemu-io", "-f", "vmdk", *commands, str(path)], check=True, capture_output=True, timeout=60
    )
    data = path.read_bytes()
    expected = by_qemu(path, data)
    for step in (4096, None):
        # Its tables come first, so nothing is given twice.
        assert decode(data, step) == (expected, 64 * MiB)


def test_zeros_and_writes_are_large(tmp_path):
    content = bytes(20 * MiB) + random.Random(1).randbytes(8 * MiB) + bytes(20 * MiB)
    data = convert(tmp_path / "d.vmdk", content, "subformat=monolithicSparse")
    decoder = VmdkDecoder(64 * MiB)
    extents = [
        extent for at in range(0, len(data), MiB) for extent in decoder.feed(memoryview(data)[at : at + MiB])
    ]
    extents += decoder.finish()
    assert [extent for extent in extents if isinstance(extent, Zero)] == [
        Zero(0, 20 * MiB),
        Zero(28 * MiB, 20 * MiB),
    ]
    assert len(extents) <= 2 + 10


# -- VMware's own layout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [512, GRAIN, 2 * MiB + 512, 50 * MiB + 512])
def test_vmwares_layout_in_every_chunking(tmp_path, size):
    content = BIG[:size]
    data = Writer(content).write()
    assert by_qemu(tmp_path / "d.vmdk", data)[:size] == content
    for step in STEPS if size < 10 * MiB else [65536, None]:
        assert decode(data, step) == (content, size)


@pytest.mark.parametrize("spare", [512, 1024])
def test_a_directory_with_an_empty_table_too_many(tmp_path, spare):
    """As vmdktool ends a disk of whole grain directories: one sector more is fine."""
    content = BIG[: 2 * MiB]
    writer = Writer(content)
    for number in writer.order:
        writer.grain(number)
    data = writer.finish([writer.table(0)], bytes(spare))
    assert by_qemu(tmp_path / "d.vmdk", data) == content
    if spare > 512:
        with pytest.raises(ImageDamaged, match="2 and 3 sectors"):
            decode(data)
        return
    for step in (511, 4096, None):
        assert decode(data, step) == (content, len(content))


# Without sectors of its own, with some that look like a marker or a grain, and with a value that is no length.
PROGRESS = [
    marker(4),
    marker(4, 1) + b"\xff" * 512,
    marker(4, 2) + marker(0) + struct.pack("<QI", 0, 9).ljust(512, b"x"),
    marker(4, 2**40),
]


@pytest.mark.parametrize("progress", PROGRESS, ids=["alone", "one", "two", "no length"])
def test_marks_of_progress_are_passed_over_with_their_sectors(tmp_path, progress):
    """As ESXi and vCenter write them: anywhere between grains, tables and directory."""
    content = BIG[: 3 * GRAIN + 512]
    writer = Writer(content)
    writer.data += progress
    for number in writer.order:
        writer.grain(number)
        writer.data += progress * 2
    table = writer.table(0)
    writer.data += progress
    data = writer.finish([table])
    assert by_qemu(tmp_path / "d.vmdk", data) == content
    for step in (7, *STEPS):
        assert decode(data, step) == (content, len(content))


def test_vmwares_layout_with_grains_in_any_order(tmp_path):
    order = list(range(-(-len(BIG) // GRAIN)))
    random.Random(4).shuffle(order)
    data = Writer(BIG, order).write()
    assert by_qemu(tmp_path / "d.vmdk", data) == BIG
    for step in (4096, None):
        assert decode(data, step)[0] == BIG


def test_a_header_that_was_patched_to_name_the_directory_behind_the_grains(tmp_path):
    content = BIG[: 2 * MiB]
    data = Writer(content).write()
    at = struct.unpack_from("<Q", data, len(data) - 1024 + 56)[0]
    patched = header(len(content), gd=at) + data[512:]
    assert by_qemu(tmp_path / "d.vmdk", patched) == content
    assert decode(patched) == (content, len(content))


# -- cuts and damage -----------------------------------------------------------------------------------------


def layouts(tmp_path):
    content = BIG[: 2 * MiB + 512]
    yield Writer(content).write()
    for subformat in ("monolithicSparse", "streamOptimized"):
        yield convert(tmp_path / f"{subformat}.vmdk", content, f"subformat={subformat}")


def test_every_cut_is_noticed(tmp_path):
    for data in layouts(tmp_path):
        whole = decode(data)[0]
        lengths = {*range(0, len(data), 10_007), *range(0, 4096, 512), len(data) - 512, len(data) - 1024}
        for length in sorted(lengths - {len(data)}):
            # Only padding may be missing at the end of a file whose tables have come first.
            with contextlib.suppress(ImageDamaged):
                assert decode(data[:length])[0] == whole
                assert len(data) - length <= GRAIN


def test_a_grain_that_qemus_tables_name_and_the_file_lacks_is_damage(tmp_path):
    data = convert(tmp_path / "d.vmdk", os.urandom(4 * GRAIN), "subformat=streamOptimized")
    grain = len(data) - (len(data) - GRAIN * 2) // 4 // 512 * 512
    with pytest.raises(ImageDamaged):
        decode(data[:grain])


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        DESCRIPTOR.replace("# Disk DescriptorFile", "# Disk Descriptor File"),
        DESCRIPTOR.replace("box-disk001.vmdk", "my..disk (1).vmdk"),
        DESCRIPTOR.replace("box-disk001.vmdk", 'we"ird".vmdk'),
    ],
    ids=["three words", "dots", "quotes"],
)
def test_a_descriptor_that_other_tools_write(monkeypatch, tmp_path, text):
    monkeypatch.setattr(f"{__name__}.DESCRIPTOR", text)
    data = Writer(BIG[:MiB]).write()
    assert by_qemu(tmp_path / "d.vmdk", data) == BIG[:MiB]
    assert decode(data)[0] == BIG[:MiB]


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_disks_in_several_files_are_refused(tmp_path, subformat):
    convert(tmp_path / "d.vmdk", guest(MiB), f"subformat={subformat}")
    for path in tmp_path.glob("*.vmdk"):
        with pytest.raises((ImageUnsafe, ImageType, ImageDamaged)):
            decode(path.read_bytes().ljust(2048, b"\0"))


# -- mutants -------------------------------------------------------------------------------------------------


@settings(max_examples=examples(80))
@given(st.sampled_from(sorted(MUTATED)), HEADER_CHANGES)
def test_what_qemu_img_accepts_as_well_gives_the_same_bytes(name, changes):
    data = mutant(name, changes)
    try:
        ours = decode(data)[0]
    except (DeployError, ImageTooLarge):
        return
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(subprocess.CalledProcessError):
        assert by_qemu(Path(directory) / "d.vmdk", data) == ours
