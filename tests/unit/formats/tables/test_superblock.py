import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.tables.read import read_table
from agent.formats.tables.superblock import (
    filesystem_sector_size,
    mbr_sector_size,
    sniff_filesystem,
    volume_label,
)
from agent.units import KiB, MiB


def xfs(sector_size):
    data = bytearray(4096)
    data[:4] = b"XFSB"
    struct.pack_into(">H", data, 102, sector_size)
    return bytes(data)


def signed(*pieces, size=256 * KiB):
    data = bytearray(size)
    for offset, piece in pieces:
        data[offset : offset + len(piece)] = piece
    return bytes(data)


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([(0, b"XFSB")], "xfs"),
        ([(64 * KiB + 64, b"_BHRfS_M")], "btrfs"),
        ([(3, b"NTFS    ")], "ntfs"),
        ([(3, b"EXFAT   ")], "exfat"),
        ([(0, b"LUKS\xba\xbe\x00\x02")], "crypto_LUKS"),
        ([(512, b"LABELONE"), (536, b"LVM2 001")], "LVM2_member"),
        ([(512, b"LABELONE")], None),
        ([(4096, b"\xfc\x4e\x2b\xa9")], "linux_raid_member"),
        ([(128 * KiB + 5 * KiB, struct.pack("<Q", 0xBAB10C))], "zfs_member"),
        ([(128 * KiB, struct.pack(">Q", 0xBAB10C))], "zfs_member"),
        ([(510, b"\x55\xaa")], None),
        ([], None),
    ],
)
def test_signatures_by_their_place(pieces, kind):
    assert sniff_filesystem(signed(*pieces)) == kind


def test_boot_code_of_an_mbr_is_no_fat():
    """GRUB's first stage begins with a jump as FAT's does, but has no parameter block."""
    assert sniff_filesystem(signed((0, b"\xeb\x63\x90"), (510, b"\x55\xaa"))) is None


@pytest.mark.parametrize("oem", [b"NTFS    ", b"EXFAT   "])
def test_boot_sector_is_no_mbr_though_its_entries_look_sane(oem):
    entry = struct.pack("<B3sB3sII", 0x80, b"abc", 0x07, b"def", 2048, 100)
    table = signed((446, entry), (510, b"\x55\xaa"), size=4096)
    assert read_table(table, None) is not None
    assert read_table(table[:3] + oem + table[11:], None) is None


def window(partitions, filesystems, size=10 * MiB):
    """The first bytes of an MBR disk: (start, count) entries in sectors, and what lies at which byte."""
    data = bytearray(size)
    data[510:512] = b"\x55\xaa"
    for index, (start, count) in enumerate(partitions):
        struct.pack_into("<B3sB3sII", data, 446 + 16 * index, 0, b"abc", 0x83, b"def", start, count)
    for offset, content in filesystems:
        data[offset : offset + len(content)] = content
    return bytes(data)


EXT4 = signed((1080, b"\x53\xef"), (1124, struct.pack("<I", 0x40)), size=4096)


@pytest.mark.parametrize(("sector_size", "start"), [(512, 2048), (512, 63), (4096, 256), (4096, 2048)])
@pytest.mark.parametrize("content", ["ext4", "xfs"])
def test_filesystem_at_its_place_tells_the_sector_size(sector_size, start, content):
    data = window([(start, 10)], [(start * sector_size, EXT4 if content == "ext4" else xfs(sector_size))])
    assert mbr_sector_size(data, data[:512], None) == sector_size
    assert mbr_sector_size(memoryview(data), data[:512], 100 * MiB) == sector_size


def test_one_partition_at_the_other_ones_scaled_place_does_not_mislead():
    data = window([(256, 10), (2048, 10)], [(256 * 512, EXT4), (2048 * 512, EXT4)])
    assert mbr_sector_size(data, data[:512], None) == 512
    data = window([(256, 10), (2048, 10)], [(256 * 4096, EXT4), (2048 * 4096, EXT4)])
    assert mbr_sector_size(data, data[:512], None) == 4096


def test_filesystem_of_small_sectors_cannot_be_on_a_disk_of_large_ones():
    """The only hit at start times 4096 is one that such a disk could not hold."""
    data = window([(256, 10)], [(256 * 4096, xfs(512))])
    assert mbr_sector_size(data, data[:512], None) is None


def test_end_beyond_the_image_decides_even_where_a_filesystem_seems_to_be():
    """Debian's grub-rescue-cdrom.iso: with 4096 its partition would begin at a signature and end beyond the file."""
    data = window([(1, 9923)], [(4096, EXT4)])
    assert mbr_sector_size(data, data[:512], 9924 * 512) == 512
    assert mbr_sector_size(data, data[:512], 9924 * 4096) == 4096


def test_end_beyond_the_image_decides_where_no_filesystem_does():
    data = window([(2048, 20480)], [])
    assert mbr_sector_size(data, data[:512], 11 * MiB) == 512
    assert mbr_sector_size(data, data[:512], 88 * MiB - 1) == 512
    assert mbr_sector_size(data, data[:512], 88 * MiB) is None
    assert mbr_sector_size(data, data[:512], None) is None


@given(
    st.binary(max_size=2048), st.sampled_from([b"", b"XFSB", b"\xeb\x3c\x90NTFS    ", b"\xebx\x90EXFAT   "])
)
def test_random_bytes_raise_nothing(noise, start):
    data = start + noise
    assert sniff_filesystem(data) is None or sniff_filesystem(memoryview(data)) is not None
    volume_label(data)
    filesystem_sector_size(data)
    sector0 = data.ljust(512, b"\0")[:510] + b"\x55\xaa"
    assert mbr_sector_size(data, sector0, 10 * MiB) in (512, 4096, None)
