import subprocess

import pytest

from agent.formats.tables.read import read_table
from agent.formats.tables.superblock import (
    LABEL_BYTES,
    filesystem_sector_size,
    sniff_filesystem,
    volume_label,
)
from agent.units import KiB, MiB
from tests.unit.formats.tables.test_superblock import signed, xfs


def make(tmp_path, *argv, size=16 * MiB):
    """A file of its own, made a filesystem by a real tool."""
    path = tmp_path / "fs.img"
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run([*argv, path], check=True, capture_output=True, timeout=60)
    return path.read_bytes()


def iso(tmp_path, volume_id):
    (tmp_path / "tree").mkdir()
    path = tmp_path / "fs.iso"
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-V", volume_id, "-o", path, tmp_path / "tree"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("argv", "kind"),
    [
        (["mkfs.ext2", "-q", "-F"], "ext2"),
        (["mkfs.ext3", "-q", "-F"], "ext3"),
        (["mkfs.ext4", "-q", "-F"], "ext4"),
        (["mkfs.vfat", "-F", "12"], "vfat"),
        (["mkfs.vfat", "-F", "16"], "vfat"),
        (["mkfs.vfat", "-F", "32", "-S", "4096"], "vfat"),
        (["mkswap"], "swap"),
        (["mkswap", "-p", "65536"], "swap"),
    ],
)
def test_real_filesystems_are_named_and_are_no_partition_table(tmp_path, argv, kind):
    data = make(tmp_path, *argv, size=300 * MiB if "32" in argv else 16 * MiB)
    assert sniff_filesystem(data[: 256 * KiB]) == kind
    assert sniff_filesystem(memoryview(data)[: 256 * KiB]) == kind
    assert read_table(data[:MiB], None) is None


def test_real_iso_and_squashfs(tmp_path):
    assert sniff_filesystem(iso(tmp_path, "x")) == "iso9660"
    path = tmp_path / "sq.img"
    argv = ["mksquashfs", tmp_path / "tree", path, "-quiet", "-no-progress"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    assert sniff_filesystem(path.read_bytes()) == "squashfs"


@pytest.mark.parametrize("bits", ["12", "16", "32"])
@pytest.mark.parametrize("label", ["config-2", "CONFIG-2", None])
def test_fat_label(tmp_path, bits, label):
    argv = ["mkfs.vfat", "-F", bits, *(["-n", label] if label else [])]
    data = make(tmp_path, *argv, size=40 * MiB if bits == "32" else 16 * MiB)
    assert volume_label(data[:LABEL_BYTES]) == label


@pytest.mark.parametrize("label", ["config-2", "CONFIG-2"])
def test_iso_label(tmp_path, label):
    assert volume_label(iso(tmp_path, label)[:LABEL_BYTES]) == label


def test_other_filesystems_give_no_label(tmp_path):
    data = make(tmp_path, "mkfs.ext4", "-q", "-F", "-L", "config-2")
    assert volume_label(data[:LABEL_BYTES]) is None
    assert volume_label(b"") is None


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_sector_size_that_a_filesystem_was_made_for(tmp_path, sector_size):
    data = make(tmp_path, "mkfs.vfat", "-S", str(sector_size), size=64 * MiB)
    assert filesystem_sector_size(data[:4096]) == sector_size
    assert filesystem_sector_size(xfs(sector_size)) == sector_size
    exfat = signed((3, b"EXFAT   "), (108, bytes([sector_size.bit_length() - 1])), size=4096)
    assert filesystem_sector_size(exfat) == sector_size
    assert filesystem_sector_size(signed((3, b"EXFAT   "), (108, b"\xff"), size=4096)) is None
    assert filesystem_sector_size(bytes(4096)) is None


def test_only_the_primary_descriptor_begins_an_iso(tmp_path):
    data = iso(tmp_path, "T")
    assert sniff_filesystem(data) == "iso9660"
    assert sniff_filesystem(data[2048:]) is None  # the descriptor behind it
