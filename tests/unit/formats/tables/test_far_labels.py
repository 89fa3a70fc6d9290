"""What NTFS and exFAT are called. What mkntfs and mkfs.exfat make was read the same way, and compared by hand."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.tables.far_labels import FAR_BYTES, far_label, far_label_place
from agent.formats.tables.superblock import sniff_filesystem
from agent.units import KiB


def exfat_boot(*, heap: int = 64, root: int = 5, sector: int = 9, cluster: int = 3) -> bytes:
    head = bytearray(512)
    head[3:11] = b"EXFAT   "
    struct.pack_into("<I4xI", head, 88, heap, root)
    head[108:110] = bytes((sector, cluster))
    return bytes(head)


def ntfs_boot(*, sector: int = 512, cluster: int = 8, table: int = 4, record: int = 246) -> bytes:
    head = bytearray(512)
    head[3:11] = b"NTFS    "
    struct.pack_into("<HB", head, 11, sector, cluster)
    struct.pack_into("<Q", head, 48, table)
    head[64] = record
    return bytes(head)


def attribute(kind: int, content: bytes, *, resident: bool = True) -> bytes:
    length = (24 + len(content) + 7) // 8 * 8
    head = struct.pack("<IIBBHHHIHH", kind, length, not resident, 0, 24, 0, 0, len(content), 24, 0)
    return (head + content).ljust(length, b"\0")


def volume_record(*attributes: bytes) -> bytes:
    """A record of 1 KiB whose 512s end with a mark, and what had been there is in the array at byte 48."""
    record = bytearray(b"FILE" + struct.pack("<HH", 48, 3)).ljust(FAR_BYTES, b"\0")
    struct.pack_into("<H", record, 20, 56)
    record[56:1024] = (b"".join(attributes) + b"\xff\xff\xff\xff").ljust(968, b"\0")
    record[48:54] = b"\7\7" + record[510:512] + record[1022:1024]
    record[510:512] = record[1022:1024] = b"\7\7"
    return bytes(record)


def root_directory(*entries: bytes) -> bytes:
    return b"".join(entry.ljust(32, b"\0") for entry in entries).ljust(FAR_BYTES, b"\0")


def exfat_entry(name: str, kind: int = 0x83) -> bytes:
    return bytes((kind, len(name))) + name.encode("utf-16-le")


LONG = "ü" * 128


@pytest.mark.parametrize(
    ("head", "place"),
    [
        (exfat_boot(), (64 + 3 * 8) * 512),
        (exfat_boot(heap=2, root=2, sector=12, cluster=0), 8 * KiB),
        (exfat_boot(root=1), None),
        (exfat_boot(sector=8), None),
        (exfat_boot(cluster=200), None),
        (ntfs_boot(), 16 * KiB + 3 * KiB),
        (ntfs_boot(cluster=248, table=1), 128 * KiB + 3 * KiB),
        (ntfs_boot(sector=4096, cluster=1, table=1, record=1), 4 * KiB + 12 * KiB),
        (ntfs_boot(record=8), None),
        (ntfs_boot(record=129), None),
        (ntfs_boot(cluster=0), None),
        (ntfs_boot()[:100], None),
    ],
)
def test_where_the_label_is(head, place):
    kind = sniff_filesystem(head)
    assert kind is not None
    assert far_label_place(head, kind) == place


@pytest.mark.parametrize(
    ("data", "kind", "label"),
    [
        (root_directory(exfat_entry("Größe 5")), "exfat", "Größe 5"),
        (root_directory(b"\x81", b"\x82", exfat_entry("behind", 0x83)), "exfat", "behind"),
        (root_directory(exfat_entry("not in use", 0x03)), "exfat", ""),
        (root_directory(b"\0", exfat_entry("after the end")), "exfat", ""),
        (root_directory(exfat_entry("too long a name")), "exfat", ""),
        (volume_record(attribute(0x10, bytes(48)), attribute(0x60, "Daten".encode("utf-16-le"))), "ntfs", "Daten"),
        (volume_record(attribute(0x50, bytes(360)), attribute(0x60, LONG.encode("utf-16-le"))), "ntfs", LONG),
        (volume_record(attribute(0x60, "away".encode("utf-16-le"), resident=False)), "ntfs", ""),
        (volume_record(), "ntfs", ""),
        (bytes(FAR_BYTES), "ntfs", ""),
    ],
)  # fmt: skip
def test_labels_by_their_place(data, kind, label):
    assert far_label(data, kind) == label


@given(st.binary(max_size=600), st.integers(0, FAR_BYTES), st.sampled_from(["ntfs", "exfat"]))
def test_no_bytes_are_too_strange(data, offset, kind):
    whole = bytearray(volume_record(attribute(0x60, LONG.encode("utf-16-le"))))
    whole[offset : offset + len(data)] = data
    for hostile in (bytes(whole), data, root_directory(data)):
        assert len(far_label(hostile, kind)) <= FAR_BYTES
    place = far_label_place(data.ljust(512, b"\xff"), kind)
    assert place is None or place >= 0
