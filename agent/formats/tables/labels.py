"""Names: what the people who made a filesystem, an array, a volume group or a pool called it.

The layouts are from each format's own documentation. Every byte may be hostile: a name ends where its field ends,
and may hold characters that are not printable.
"""

import re
import struct

from agent.formats.tables.md import super_offset
from agent.formats.tables.superblock import sniff_filesystem, volume_label
from agent.units import KiB

SUPERBLOCK_BYTES = 256 * KiB
"""How many first bytes `label_of` needs."""
END_BYTES = 128 * KiB
"""How many last bytes `md_at_end` needs."""

_MD_MAGIC = b"\xfc\x4e\x2b\xa9"
_MD_NAME = (32, 32)
# Kind: offset and length of the field.
_FIELDS = {
    "ext2": (1024 + 120, 16),
    "ext3": (1024 + 120, 16),
    "ext4": (1024 + 120, 16),
    "xfs": (108, 12),
    "btrfs": (64 * KiB + 0x12B, 256),
    "swap": (1024 + 28, 16),
}
_LVM_AREA = b" LVM2 x[5A%r0N*>"
_VOLUME_GROUP = re.compile(rb"([A-Za-z0-9+_.-]{1,127}) \{")
# The key `name` in the XDR encoding of a ZFS label's list, its type (string), and one value.
_ZFS_NAME = b"\0\0\0\x04name\0\0\0\x09\0\0\0\x01"


def label_of(data: bytes, kind: str | None = None) -> str:
    """The label of a filesystem, or the name of what it is a member of: array, volume group, pool. Empty: none.

    Args:
        data: its first `SUPERBLOCK_BYTES`, or all where it is smaller.
        kind: what `sniff_filesystem` says of them, where the caller has asked.
    """
    kind = kind or sniff_filesystem(data)
    match kind:
        case "vfat" | "iso9660":
            return volume_label(data) or ""
        case "crypto_LUKS":
            return _text(data[24:72]) if data[6:8] == b"\0\x02" else ""  # version 1 has no label
        case "linux_raid_member":
            return _md_name(data, 0) or _md_name(data, 4096)
        case "LVM2_member":
            return _volume_group(data)
        case "zfs_member":
            return _zfs_pool(data)
        case _:
            offset, length = _FIELDS.get(kind or "", (0, 0))
            return _text(data[offset : offset + length])


def md_at_end(tail: bytes, size: int) -> str | None:
    """The name of the md array whose superblock is at the end of a member (formats 0.90 and 1.0); None: not a member.

    A member of such an array begins with what is in the array: its filesystem shows at the start.

    Args:
        tail: the last `END_BYTES` of the device, or all of a smaller one.
        size: of the device in bytes.
    """
    base = size - len(tail)
    for offset in (super_offset(size), (size & ~(64 * KiB - 1)) - 64 * KiB):
        if offset >= base and tail[offset - base : offset - base + 4] == _MD_MAGIC:
            return _md_name(tail, offset - base)
    return None


def _md_name(data: bytes, offset: int) -> str:
    """The name in a superblock of format 1 (`host:name`); 0.90 has none."""
    if data[offset : offset + 4] != _MD_MAGIC or data[offset + 4 : offset + 8] != b"\x01\0\0\0":
        return ""
    start, length = _MD_NAME
    return _text(data[offset + start : offset + start + length])


def _volume_group(data: bytes) -> str:
    """The volume group's name, with which the text in the metadata area begins; empty where it lies farther behind."""
    area = data.find(_LVM_AREA) - 4
    if area < 0 or len(data) < area + 48:
        return ""
    (text,) = struct.unpack_from("<Q", data, area + 40)
    found = _VOLUME_GROUP.match(data, area + text) if area + text < len(data) else None
    return "" if found is None else found[1].decode("ascii")


def _zfs_pool(data: bytes) -> str:
    at = data.find(_ZFS_NAME)
    if at < 0:
        return ""
    start = at + len(_ZFS_NAME)
    length = int.from_bytes(data[start : start + 4], "big")
    return _text(data[start + 4 : start + 4 + min(length, 256)])


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
