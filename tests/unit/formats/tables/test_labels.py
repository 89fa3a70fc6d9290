"""What filesystems, arrays, volume groups and pools are called."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.tables.labels import END_BYTES, SUPERBLOCK_BYTES, label_of, md_at_end
from agent.formats.tables.superblock import sniff_filesystem
from agent.units import KiB, MiB

MD = b"\xfc\x4e\x2b\xa9"
MD_SUPERBLOCK = MD + b"\1\0\0\0" + bytes(24) + b"h1:root".ljust(32, b"\0")


def signed(*pieces: tuple[int, bytes], size: int = SUPERBLOCK_BYTES) -> bytes:
    data = bytearray(size)
    for offset, piece in pieces:
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def volume_group(text: bytes, *, offset: int = 512) -> bytes:
    area = bytes(4) + b" LVM2 x[5A%r0N*>" + struct.pack("<IQQQQ", 1, 4096, MiB, offset, len(text))
    return signed((512, b"LABELONE"), (536, b"LVM2 001"), (4096, area), (4096 + 512, text))


@pytest.mark.parametrize(
    ("data", "kind", "label"),
    [
        (signed((1080, b"\x53\xef"), (1144, b"my root\0")), "ext2", "my root"),
        (signed((1080, b"\x53\xef"), (1144, b"sixteen letters!more")), "ext2", "sixteen letters!"),
        (signed((0, b"XFSB"), (108, b"data")), "xfs", "data"),
        (signed((64 * KiB + 64, b"_BHRfS_M"), (64 * KiB + 0x12B, "pool-ü".encode())), "btrfs", "pool-ü"),
        (signed((4086, b"SWAPSPACE2"), (1052, b"sw")), "swap", "sw"),
        (signed((0, b"LUKS\xba\xbe\0\2"), (24, b"secret")), "crypto_LUKS", "secret"),
        (signed((0, b"LUKS\xba\xbe\0\1"), (24, b"aes\0")), "crypto_LUKS", ""),
        (signed((4096, MD_SUPERBLOCK)), "linux_raid_member", "h1:root"),
        (signed((0, MD_SUPERBLOCK)), "linux_raid_member", "h1:root"),
        (signed((4096, MD)), "linux_raid_member", ""),
        (volume_group(b'vg-x {\nid = "a"\n'), "LVM2_member", "vg-x"),
        (volume_group(b"\x1b[31m {\n"), "LVM2_member", ""),
        (volume_group(b"vg {", offset=2**63), "LVM2_member", ""),
        (
            signed(
                (16 * KiB, b"\0\0\0\x04name\0\0\0\x09\0\0\0\x01\0\0\0\x04tank"),
                (128 * KiB, struct.pack("<Q", 0xBAB10C)),
            ),
            "zfs_member",
            "tank",
        ),
        (signed((3, b"NTFS    ")), "ntfs", ""),
        (signed(), None, ""),
    ],
)
def test_names_by_their_place(data, kind, label):
    assert sniff_filesystem(data) == kind
    assert label_of(data) == label


@pytest.mark.parametrize("size", [64 * MiB, 64 * MiB + 512, 64 * MiB + 68 * KiB])
def test_an_array_whose_superblock_is_at_the_end_of_its_member(size):
    at = (size // 512 - 16) // 8 * 8 * 512
    disk = signed((at, MD_SUPERBLOCK), size=size)
    assert md_at_end(disk[-END_BYTES:], size) == "h1:root"
    assert md_at_end(disk[: -MiB - END_BYTES][-END_BYTES:], size) is None
    old = signed((size // (64 * KiB) * 64 * KiB - 64 * KiB, MD + struct.pack("<I", 0)), size=size)
    assert md_at_end(old[-END_BYTES:], size) == ""


@given(st.binary(max_size=600), st.integers(0, 5000), st.integers(0, 2 * END_BYTES))
def test_no_bytes_are_too_strange(data, offset, size):
    for signature in (b"LABELONE", MD, b"\x53\xef", b" LVM2 x[5A%r0N*>", b""):
        hostile = signed((offset, signature + data), size=offset + len(data) + 8)
        assert len(label_of(hostile)) <= 256
        for kind in ("LVM2_member", "linux_raid_member", "zfs_member", "crypto_LUKS", "ext4", "btrfs"):
            assert len(label_of(hostile, kind)) <= 256
    md_at_end(data, max(size, len(data)))
