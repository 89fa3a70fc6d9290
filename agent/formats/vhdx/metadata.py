"""Reads the metadata of a VHDX: the size of the guest disk, of its sectors and of its blocks.

Used by `agent.formats.vhdx.decoder`. Source: Microsoft, [MS-VHDX], section 2.6.
"""

import struct
from dataclasses import dataclass
from uuid import UUID

from agent.errors import ImageUnsafe
from agent.formats.vhdx.header import damaged
from agent.units import KiB, MiB, TiB, divide_up

TABLE_BYTES = 64 * KiB
"""Length of the table at the beginning of the metadata; the items lie behind it."""
MAX_BYTES = 2 * MiB
"""What is read of the metadata at most, table included."""

_TABLE = struct.Struct("<8s2xH20x")  # signature, entries
_ENTRY = struct.Struct("<16sIII4x")  # GUID of the item, its offset, its length, flags
_SIGNATURE = b"metadata"
_MAX_ITEMS = 2047
_IS_REQUIRED = 4

_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
_PHYSICAL_SECTOR_SIZE = UUID("cda348c7-445d-4471-9cc9-e9885251c556").bytes_le
_PAGE_83 = UUID("beca12ab-b2e6-4523-93ef-c309e000c746").bytes_le
_PARENT = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
_NEEDED = {
    _PARAMETERS: struct.Struct("<II"),  # size of a block, flags
    _DISK_SIZE: struct.Struct("<Q"),
    _SECTOR_SIZE: struct.Struct("<I"),
}
_KNOWN = {*_NEEDED, _PHYSICAL_SECTOR_SIZE, _PAGE_83, _PARENT}
_HAS_PARENT = 2

_MIN_BLOCK, _MAX_BLOCK = 1 * MiB, 256 * MiB
_MAX_DISK = 64 * TiB
# So many sectors have their bits in one block of the file, and their blocks stand together in the table.
_SECTORS_A_CHUNK = 2**23

Items = dict[bytes, int]
"""GUID of an item that is needed -> its offset in the metadata."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The guest disk. Sizes are in bytes."""

    size: int
    block_size: int
    sector_size: int
    """Logical: an image with sectors of 4096 bytes has a partition table that counts in these."""

    @property
    def blocks(self) -> int:
        """Number of its blocks."""
        return divide_up(self.size, self.block_size)

    @property
    def chunk(self) -> int:
        """After so many entries of blocks the table has one of another kind, for disks with a parent."""
        return _SECTORS_A_CHUNK * self.sector_size // self.block_size

    @property
    def entries(self) -> int:
        """Entries of the table."""
        return self.blocks + (self.blocks - 1) // self.chunk


def read_items(table: bytes) -> Items:
    """Read the table at the beginning of the metadata.

    Raises:
        ImageUnsafe: the disk has a parent (check `backing_file`), an item that has to be understood and is not (check
            `unknown_features`), or one that lies too far away (check `vhdx_tables`).
        ImageDamaged: it is no such table, or lacks an item.
    """
    signature, count = _TABLE.unpack_from(table)
    if signature != _SIGNATURE or count > _MAX_ITEMS:
        raise damaged("it has no metadata where its table of regions says")
    found: Items = {}
    for index in range(count):
        guid, offset, length, flags = _ENTRY.unpack_from(table, _TABLE.size + index * _ENTRY.size)
        if guid == _PARENT:
            raise _parent()
        if flags & _IS_REQUIRED and guid not in _KNOWN:
            raise ImageUnsafe(check="unknown_features", detail=f"a VHDX with the item {UUID(bytes_le=guid)}")
        if guid not in _NEEDED:
            continue
        if guid in found or length != _NEEDED[guid].size or offset < TABLE_BYTES:
            raise damaged(f"its item {UUID(bytes_le=guid)} is there twice, or at a wrong place")
        if offset + length > MAX_BYTES:
            raise ImageUnsafe(check="vhdx_tables", detail=f"an item at byte {offset} of the metadata")
        found[guid] = offset
    if len(found) < len(_NEEDED):
        raise damaged("its metadata lacks the size of the disk, of its sectors or of its blocks")
    return found


def items_end(items: Items) -> int:
    """How much of the metadata is needed, in bytes."""
    return max(offset + _NEEDED[guid].size for guid, offset in items.items())


def read_disk(items: Items, metadata: bytes) -> Disk:
    """Read the items, from the metadata's first `items_end` bytes.

    Raises:
        ImageUnsafe: the disk has a parent (check `backing_file`).
        ImageDamaged: it has a size that the format does not have.
    """
    values = {guid: _NEEDED[guid].unpack_from(metadata, offset) for guid, offset in items.items()}
    block_size, flags = values[_PARAMETERS]
    (size,), (sector_size,) = values[_DISK_SIZE], values[_SECTOR_SIZE]
    if flags & _HAS_PARENT:
        raise _parent()
    if not _MIN_BLOCK <= block_size <= _MAX_BLOCK or block_size & (block_size - 1):
        raise damaged(f"its blocks have {block_size} bytes")
    if sector_size not in (512, 4096):
        raise damaged(f"its sectors have {sector_size} bytes")
    if not 0 < size <= _MAX_DISK or size % sector_size:
        raise damaged(f"its disk has {size} bytes")
    return Disk(size, block_size, sector_size)


def _parent() -> ImageUnsafe:
    return ImageUnsafe(check="backing_file", detail="the VHDX is only the difference to another file")
