"""Reads a filesystem's kind, its label, and the sector size that it was made for, from its first bytes.

Signatures are from each format's own documentation; the names are those that blkid prints.
"""

import struct

from agent.formats.tables import mbr

# How many first bytes `volume_label` needs; a multiple of every sector size.
LABEL_BYTES = 36 * 1024

_BTRFS_OFFSET = 64 * 1024
_ISO_OFFSET = 32 * 1024
_ZFS_OFFSET = 128 * 1024
_ZFS_UBERBLOCKS = 128
_EXT_OFFSET = 1024

# (offset, signature, name). Containers of a filesystem (LUKS, md) come first.
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"LUKS\xba\xbe", "crypto_LUKS"),
    (0, b"\xfc\x4e\x2b\xa9", "linux_raid_member"),
    (4096, b"\xfc\x4e\x2b\xa9", "linux_raid_member"),
    (0, b"XFSB", "xfs"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (_BTRFS_OFFSET + 64, b"_BHRfS_M", "btrfs"),
    # The primary volume descriptor, type 1; the descriptors after it have the same signature.
    (_ISO_OFFSET, b"\x01CD001", "iso9660"),
)
_PAGE_SIZES = (4096, 8192, 16384, 65536)

# Feature bits that the ext2 and ext3 drivers know; with any other it is ext4.
_EXT_HAS_JOURNAL = 0x4
_EXT3_INCOMPAT = 0x2 | 0x4 | 0x10
_EXT3_RO_COMPAT = 0x1 | 0x2 | 0x4


def sniff_filesystem(data: bytes | memoryview) -> str | None:
    """Name the filesystem (or LUKS, LVM, RAID member, swap) that begins with these bytes, or None.

    Args:
        data: the first bytes, as many as there are: 256 KiB are enough for every kind, 512 for those whose
            signature is in the first sector.
    """
    for offset, magic, name in _MAGICS:
        if data[offset : offset + len(magic)] == magic:
            return name
    if _is_lvm(data):
        return "LVM2_member"
    if data[_EXT_OFFSET + 56 : _EXT_OFFSET + 58] == b"\x53\xef" and len(data) >= _EXT_OFFSET + 104:
        return _ext_version(data)
    if _is_swap(data):
        return "swap"
    if _is_fat(data):
        return "vfat"
    return "zfs_member" if _is_zfs(data) else None


def volume_label(data: bytes | memoryview) -> str | None:
    """The label in a FAT boot sector or an ISO 9660 volume descriptor, without its padding, or None.

    Args:
        data: the first `LABEL_BYTES` of the filesystem.
    """
    kind = sniff_filesystem(data)
    if kind == "iso9660":
        return _text(data[_ISO_OFFSET + 40 : _ISO_OFFSET + 72])
    if kind != "vfat":
        return None
    # In FAT32 the 16-bit number of sectors per FAT is 0, and the parameter block is longer.
    fat32 = data[22:24] == b"\0\0"
    extended = 66 if fat32 else 38
    if data[extended] != 0x29:
        return None
    label = _text(data[extended + 5 : extended + 16])
    return None if label == "NO NAME" else label


def filesystem_sector_size(data: bytes | memoryview) -> int | None:
    """The sector size in the superblock of FAT, NTFS, exFAT or XFS, in bytes; None for others."""
    kind = sniff_filesystem(data)
    if kind in ("vfat", "ntfs"):
        return int.from_bytes(data[11:13], "little")
    if kind == "exfat" and len(data) > 108 and data[108] in range(9, 13):
        return 1 << data[108]
    if kind == "xfs" and len(data) > 104:
        return int.from_bytes(data[102:104], "big")
    return None


def mbr_sector_size(window: bytes | memoryview, mbr_sector0: bytes, image_size: int | None) -> int | None:
    """The sector size in which an MBR's entries count, found by looking for the partitions' filesystems.

    If a partition would end beyond the image with 4096, it is 512. Otherwise each partition is looked for at its start
    times 512 and times 4096, and the sector size that finds more filesystems is taken. One match is not enough: the
    start of one partition times 4096 can be that of another times 512.

    Args:
        window: the first bytes of the disk.
        mbr_sector0: its first 512 bytes, known to be an MBR.
        image_size: size of the guest disk in bytes, or None.

    Returns:
        512, 4096, or None if neither finds more.
    """
    used = [entry for entry in mbr.entries(mbr_sector0) if entry.kind]
    reach = max((entry.start_lba + entry.sectors for entry in used), default=0)
    if image_size is not None and reach * 4096 > image_size:
        return 512
    view = memoryview(window)
    hits = {size: sum(_fits(view[e.start_lba * size :], size) for e in used) for size in (512, 4096)}
    return None if hits[512] == hits[4096] else max(hits, key=lambda size: hits[size])


def _fits(data: memoryview, sector_size: int) -> bool:
    """Whether a filesystem begins here whose own sector size is not below that of the disk."""
    if sniff_filesystem(data) is None:
        return False
    own = filesystem_sector_size(data)
    return own is None or own >= sector_size


def _is_fat(data: bytes | memoryview) -> bool:
    """Recognise a FAT boot sector by its parameter block; the type string ("FAT32") is informational only."""
    if len(data) < 512 or data[510:512] != b"\x55\xaa" or data[0] not in (0xEB, 0xE9):
        return False
    sector_size, cluster, reserved, fats = struct.unpack_from("<HBHB", data, 11)
    sectors = int.from_bytes(data[19:21], "little") or int.from_bytes(data[32:36], "little")
    return (
        sector_size in (512, 1024, 2048, 4096)
        and cluster.bit_count() == 1
        and reserved > 0
        and fats in (1, 2)
        and sectors > 0
        and (data[21] == 0xF0 or data[21] >= 0xF8)
    )


def _ext_version(data: bytes | memoryview) -> str:
    compat, incompat, ro_compat = struct.unpack_from("<III", data, _EXT_OFFSET + 92)
    if incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        return "ext4"
    return "ext3" if compat & _EXT_HAS_JOURNAL else "ext2"


def _is_lvm(data: bytes | memoryview) -> bool:
    """Recognise an LVM physical volume, whose label is in one of the first four sectors of 512 bytes."""
    offsets = range(0, 2048, 512)
    return any(data[o : o + 8] == b"LABELONE" and data[o + 24 : o + 32] == b"LVM2 001" for o in offsets)


def _is_swap(data: bytes | memoryview) -> bool:
    """Recognise swap space, whose signature ends the first memory page of the machine that made it."""
    return any(data[size - 10 : size] in (b"SWAPSPACE2", b"SWAP-SPACE") for size in _PAGE_SIZES)


def _is_zfs(data: bytes | memoryview) -> bool:
    """Recognise ZFS by the magic of an uberblock in the first label, in either byte order."""
    offsets = range(_ZFS_OFFSET, _ZFS_OFFSET + _ZFS_UBERBLOCKS * 1024, 1024)
    magics = (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c")
    return any(data[offset : offset + 8] in magics for offset in offsets)


def _text(field: bytes | memoryview) -> str | None:
    return bytes(field).decode("ascii", "replace").rstrip(" \0") or None
