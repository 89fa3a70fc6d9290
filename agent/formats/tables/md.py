"""What Linux's md keeps on a member of a mirror: the superblock (format 1.0) and the bitmap, as bytes.

Format 1.0 lies at the end of a member and its data at the start, so that a filesystem begins where it began without
an array. A member that is made here says that the first bytes of the array are alike on all members (they were
written from one stream), and that the rest has still to be copied: the kernel does that by itself when the array is
first started. All offsets and sizes are in bytes, relative to the partition, unless a name says sectors; those have
512 bytes on every disk.

Sources: `struct mdp_superblock_1` in Linux's include/uapi/linux/raid/md_p.h, `struct bitmap_super_s` in
drivers/md/md-bitmap.h, and `super_1_load` in drivers/md/md.c, which says where format 1.0 is looked for.
"""

import struct
import uuid
from dataclasses import dataclass

from agent.formats.tables.mbr import Writes
from agent.units import KiB, MiB, align_down, align_up, divide_up

ALIGNMENT = 4 * KiB
"""A member's length is a multiple of it: whole sectors on every disk."""
BITMAP_BYTES = 128 * KiB
MAX_MEMBERS = 128
"""For so many roles the superblock has room; the kernel takes more, no server has."""

_SECTOR = 512
_MAGIC = 0xA92B4EFC
_MAJOR = 1
_HAS_BITMAP = 1
_MIRROR = 1
_NO_ROLE = 0xFFFF
_ALL_IN_SYNC = 2**64 - 1
# magic, major, features, 0, set uuid, name, ctime, level, layout, size, chunk, members, bitmap's offset, no reshape
_ARRAY = struct.Struct("<IIII16s32sQIIQIIi28x")
# data's offset and size, superblock's offset, recovery's offset, number, corrected reads, device uuid, flags
_MEMBER = struct.Struct("<QQQQII16s8x")
# utime, events, resync's offset, checksum, roles that there is room for
_STATE = struct.Struct("<QQQII32x")
_CHECKSUM_AT = 216
_CTIME_MAX = 2**40 - 1  # the bits above are microseconds

_BITMAP_MAGIC = 0x6D746962
_BITMAP_VERSION = 4
# magic, version, set uuid, events, events cleared, size, state, chunk, seconds between flushes, write-behind, sectors
_BITMAP_HEAD = struct.Struct("<II16sQQQIIIII")
_BITMAP_HEAD_BYTES = 256
_FLUSH_SECONDS = 5
_LEAST_CHUNK = 64 * MiB
_SUPER_BYTES = 8 * KiB
_END_BYTES = 128 * KiB  # formats 0.90 and 1.0 have their superblocks within so much of a device's end
_SIZE_STEP = 64 * KiB
_MAX_BITS = (BITMAP_BYTES - _BITMAP_HEAD_BYTES) * 8
_EVENTS = 1


@dataclass(frozen=True, slots=True)
class MemberLayout:
    """Where things are on a member: data from 0 on, `data_bytes` of them at most, then the bitmap, the superblock."""

    data_bytes: int
    bitmap_offset: int
    super_offset: int


@dataclass(frozen=True, slots=True)
class Array:
    """A mirror, as all of its members tell of it.

    Attributes:
        uuid: of the array, by which it is assembled.
        name: up to 32 bytes; `any:` before it has no host think that the array is another's.
        ctime: when it was made, in seconds since the epoch.
        size: of the array; that of the smallest member (`MemberLayout.data_bytes`), the same on all.
        members: how many.
        resync: so many of the first bytes are alike on all members; what lies behind is copied from one of them.
    """

    uuid: uuid.UUID
    ctime: int
    size: int
    resync: int
    members: int = 2
    name: str = "any:root"

    def __post_init__(self) -> None:
        if not 0 <= self.resync <= self.size or not self.size or self.size % _SECTOR:
            raise ValueError(f"an array of {self.size} bytes, of which {self.resync} are alike")
        if not 1 <= self.members <= MAX_MEMBERS or not 0 <= self.ctime <= _CTIME_MAX:
            raise ValueError(f"an array of {self.members} members, made at {self.ctime}")
        if len(self.name.encode()) > 32:
            raise ValueError(f"the name {self.name!r} has more than 32 bytes")

    @property
    def chunk(self) -> int:
        """How many bytes a bit of the bitmap stands for: a power of two of which the bitmap has bits enough."""
        chunk = _LEAST_CHUNK
        while divide_up(self.size, chunk) > _MAX_BITS:
            chunk *= 2
        return chunk


def super_offset(member_bytes: int) -> int:
    """Where format 1.0 has its superblock: at least 8 KiB before the end, at a multiple of 4 KiB."""
    return align_down(member_bytes - _SUPER_BYTES, ALIGNMENT)


def member_layout(partition_bytes: int) -> MemberLayout:
    """The layout of a member of that size.

    Raises:
        ValueError: it has no room for data.
    """
    superblock = super_offset(partition_bytes)
    bitmap = superblock - BITMAP_BYTES
    data = align_down(bitmap, _SIZE_STEP)
    if data <= 0:
        raise ValueError(f"a partition of {partition_bytes} bytes has no room for a member of an array")
    return MemberLayout(data_bytes=data, bitmap_offset=bitmap, super_offset=superblock)


def least_member(data_bytes: int) -> int:
    """The size of the smallest partition whose member has room for so much data."""
    return align_up(data_bytes, _SIZE_STEP) + BITMAP_BYTES + _SUPER_BYTES


def uuid_text(array: uuid.UUID) -> str:
    """The array's UUID as mdadm, mdadm.conf and `rd.md.uuid=` have it: four groups of eight digits."""
    return ":".join(array.hex[start : start + 8] for start in range(0, 32, 8))


def member_gap(array: Array, partition_bytes: int) -> tuple[int, int]:
    """The range (offset, length) at the end of a member to be zeroed before `member_writes` are written.

    It begins behind the array's data, or a little before their end where the image does not reach that far: what an
    older array left at either end would be found, on the partition or on the new array itself.
    """
    start = max(align_up(array.resync, ALIGNMENT), array.size - _END_BYTES)
    return min(start, array.size), partition_bytes - min(start, array.size)


def member_writes(array: Array, role: int, partition_bytes: int, device_uuid: uuid.UUID) -> Writes:
    """The bitmap, then the superblock, which makes the partition a member: whole blocks of 4 KiB.

    Args:
        array: what it is a member of.
        role: its number, from 0 on.
        partition_bytes: its size, a multiple of `ALIGNMENT`.
        device_uuid: its own, another one on each member.

    Raises:
        ValueError: the array does not fit, there is no such member, or the size is not aligned.
    """
    layout = member_layout(partition_bytes)
    if partition_bytes % ALIGNMENT or array.size > layout.data_bytes or not 0 <= role < array.members:
        raise ValueError(
            f"member {role} of {partition_bytes} bytes, in an array of {array.members} members of {array.size}"
        )
    return (
        (layout.bitmap_offset, bitmap(array)),
        (layout.super_offset, superblock(array, role, layout, device_uuid).ljust(ALIGNMENT, b"\0")),
    )


def superblock(array: Array, role: int, layout: MemberLayout, device_uuid: uuid.UUID) -> bytes:
    """The superblock of a member, of 512 bytes, with its checksum."""
    whole = _whole_sectors(array)
    data = (
        _ARRAY.pack(
            _MAGIC,
            _MAJOR,
            _HAS_BITMAP,
            0,
            array.uuid.bytes,
            array.name.encode(),
            array.ctime,
            _MIRROR,
            0,
            array.size // _SECTOR,
            0,
            array.members,
            (layout.bitmap_offset - layout.super_offset) // _SECTOR,
        )
        + _MEMBER.pack(
            0,
            layout.bitmap_offset // _SECTOR,
            layout.super_offset // _SECTOR,
            0,
            role,
            0,
            device_uuid.bytes,
        )
        + _STATE.pack(
            array.ctime,
            _EVENTS,
            _ALL_IN_SYNC if whole * _SECTOR == array.size else whole,
            0,
            MAX_MEMBERS,
        )
        + struct.pack(f"<{MAX_MEMBERS}H", *(_role(array, number) for number in range(MAX_MEMBERS)))
    )
    return data[:_CHECKSUM_AT] + struct.pack("<I", _checksum(data)) + data[_CHECKSUM_AT + 4 :]


def bitmap(array: Array) -> bytes:
    """The bitmap, `BITMAP_BYTES` long: a bit is set for each chunk of which not all bytes are alike.

    The resync offset alone would have nothing copied: where there is a bitmap, the kernel asks it for every chunk.
    """
    head = _BITMAP_HEAD.pack(
        _BITMAP_MAGIC,
        _BITMAP_VERSION,
        array.uuid.bytes,
        _EVENTS,
        _EVENTS,
        array.size // _SECTOR,
        0,
        array.chunk,
        _FLUSH_SECONDS,
        0,
        BITMAP_BYTES // _SECTOR,
    )
    whole = _whole_sectors(array) * _SECTOR
    first = whole // array.chunk
    end = divide_up(array.size, array.chunk) if whole < array.size else first
    bits = ((1 << end) - (1 << first)).to_bytes(_MAX_BITS // 8, "little")
    return head.ljust(_BITMAP_HEAD_BYTES, b"\0") + bits


def _whole_sectors(array: Array) -> int:
    """How many sectors are alike on all members: whole blocks of 4 KiB, or all."""
    alike = array.resync if array.resync == array.size else align_down(array.resync, ALIGNMENT)
    return alike // _SECTOR


def _role(array: Array, number: int) -> int:
    return number if number < array.members else _NO_ROLE


def _checksum(data: bytes) -> int:
    """Of a superblock with a checksum of 0: the sum of all words of 32 bits, with the carry (`calc_sb_1_csum`)."""
    total: int = sum(struct.unpack(f"<{len(data) // 4}I", data))
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF
