"""Reads the partition table that a disk has already: of a disk that is to be overwritten, so damage is lived with.

The bytes are read through a function that the caller gives. Images are read by `read_table` instead, which refuses what
is damaged.
"""

from dataclasses import dataclass

from agent.formats.tables.gpt import parse_backup
from agent.formats.tables.mbr import Logical, Mbr, ReadAt, parse_logicals
from agent.formats.tables.partition import HEAD_BYTES, Partition, TableError
from agent.formats.tables.read import Table, read_table

_SECTOR_SIZES = (512, 4096)
# The backup of a GPT of the usual 128 entries is in the last 33 sectors; of 8188 entries it is still within this.
_TAIL_BYTES = HEAD_BYTES


@dataclass(frozen=True, slots=True)
class ExistingTable:
    """The table of a disk, and the logical partitions of an MBR; `table` is None where neither copy can be read."""

    table: Table | None
    logicals: tuple[Logical, ...] = ()

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All partitions that can hold data: with the logical ones, without the extended one around them."""
        primary = () if self.table is None else self.table.partitions
        return (*(partition for partition in primary if not partition.is_extended), *self.logicals)


def read_existing(read: ReadAt, size: int, sector_size: int | None) -> ExistingTable:
    """The table of a disk.

    Args:
        read: `read(offset, length)`, called within the disk only.
        size: of the disk in bytes.
        sector_size: in bytes; None for a regular file, whose table may be of either.

    Raises:
        OSError: whatever `read` raises.
    """
    try:
        table = read_table(read(0, min(HEAD_BYTES, size)), sector_size)
    except TableError:
        return ExistingTable(_backup(read, size, sector_size))
    if isinstance(table, Mbr) and table.extended is not None:
        return ExistingTable(table, _logicals(read, size, table.extended, table.sector_size))
    return ExistingTable(table)


def _backup(read: ReadAt, size: int, sector_size: int | None) -> Table | None:
    """The backup GPT of a disk whose primary is damaged."""
    length = min(_TAIL_BYTES, size)
    tail = read(size - length, length)
    for candidate in _SECTOR_SIZES if sector_size is None else (sector_size,):
        try:
            return parse_backup(tail, candidate, size)
        except TableError:
            continue
    return None


def _logicals(read: ReadAt, size: int, extended: Partition, sector_size: int) -> tuple[Logical, ...]:
    def within(offset: int, length: int) -> bytes:
        return read(offset, length) if offset + length <= size else b""

    try:
        return parse_logicals(within, extended, sector_size)
    except TableError:
        return ()  # a kernel cannot follow the chain either: no array or volume in it comes back
