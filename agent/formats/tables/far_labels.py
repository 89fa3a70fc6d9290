"""Labels that are not in a filesystem's first bytes: NTFS has it in the file $Volume, exFAT in the root directory.

The layouts are from Microsoft's exFAT specification (sections 3.1 and 7.3) and the documentation of the Linux-NTFS
project ($Boot, FILE record, fixup, $VOLUME_NAME). Every byte may be hostile: nothing is followed but what fits into
`FAR_BYTES`, and a name may hold characters that are not printable.
"""

import struct
from collections.abc import Iterator

from agent.units import KiB

FAR_BYTES = 4 * KiB
"""How many bytes `far_label` looks at: the largest NTFS record, and of an exFAT root directory its first entries."""

_VOLUME_RECORD = 3
_VOLUME_NAME = 0x60
_END_OF_ATTRIBUTES = 0xFFFFFFFF
_STRIDE = 512
_EXFAT_LABEL = 0x83
_EXFAT_LETTERS = 11


def far_label_place(head: bytes, kind: str) -> int | None:
    """Where in the filesystem the `FAR_BYTES` begin that hold its label, in bytes; None where there are none.

    Args:
        head: its first sector at least.
        kind: what `sniff_filesystem` says of it.
    """
    if len(head) < _STRIDE:
        return None
    if kind == "exfat":
        heap, root = struct.unpack_from("<I4xI", head, 88)
        sector, cluster = head[108], head[109]
        known = 9 <= sector <= 12 and sector + cluster <= 25 and root >= 2
        return (heap << sector) + ((root - 2) << (sector + cluster)) if known else None
    if kind == "ntfs":
        return _volume_place(head)
    return None


def _volume_place(head: bytes) -> int | None:
    """The record of $Volume, the fourth in the master file table."""
    sector, cluster = struct.unpack_from("<HB", head, 11)
    (table,) = struct.unpack_from("<Q", head, 48)
    record = head[64]
    # Both counts are negative powers of two where they pass what a byte holds.
    cluster_bytes = sector << (256 - cluster) if cluster > 0x80 else sector * cluster
    record_bytes = 1 << (256 - record) if record > 0x80 else cluster_bytes * record
    if not _STRIDE <= record_bytes <= FAR_BYTES or not cluster_bytes:
        return None
    return int(table * cluster_bytes + _VOLUME_RECORD * record_bytes)


def far_label(data: bytes, kind: str) -> str:
    """The label in the `FAR_BYTES` at `far_label_place`; empty: there is none."""
    return _exfat_label(data) if kind == "exfat" else _volume_name(data)


def _exfat_label(directory: bytes) -> str:
    for offset in range(0, len(directory) - 31, 32):
        kind, letters = directory[offset : offset + 2]
        if kind == 0:  # behind the last entry
            break
        if kind == _EXFAT_LABEL and letters <= _EXFAT_LETTERS:
            return _utf16(directory[offset + 2 : offset + 2 + 2 * letters])
    return ""


def _volume_name(data: bytes) -> str:
    record = _without_fixup(data)
    for kind, attribute in _attributes(record):
        resident = len(attribute) >= 24 and attribute[8] == 0
        if kind == _VOLUME_NAME and resident:
            length, start = struct.unpack_from("<IH", attribute, 16)
            return _utf16(attribute[start : start + length])
    return ""


def _attributes(record: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each attribute of a FILE record."""
    if record[:4] != b"FILE":
        return
    (offset,) = struct.unpack_from("<H", record, 20)
    while offset + 8 <= len(record):
        kind, length = struct.unpack_from("<II", record, offset)
        if kind == _END_OF_ATTRIBUTES or length < 8:
            return
        yield kind, record[offset : offset + length]
        offset += length


def _without_fixup(data: bytes) -> bytes:
    """The record as it was before the last two bytes of each 512 were put aside, to find torn writes by."""
    if len(data) < _STRIDE:
        return b""
    record = bytearray(data)
    array, count = struct.unpack_from("<HH", data, 4)
    for number in range(1, min(count, len(data) // _STRIDE + 1)):
        aside = data[array + 2 * number : array + 2 * number + 2]
        end = number * _STRIDE
        if len(aside) == 2:
            record[end - 2 : end] = aside
    return bytes(record)


def _utf16(field: bytes) -> str:
    return field.decode("utf-16-le", "replace").split("\0", 1)[0].strip()
