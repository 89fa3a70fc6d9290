"""The MBR and its logical partitions: reading them, and adding one partition.

Pure: sectors go in, sectors and (offset, bytes) writes come out; the reader of the EBR chain is injected.
What is not meant to change (boot code, disk signature, other entries) comes out as it went in.

The layout is that of the classical MBR: four entries at byte 446, 0x55AA at 510; an extended partition holds
a chain of EBRs of the same layout, whose first entry is a logical partition (its start counts from that EBR)
and whose second is the link to the next EBR (its start counts from the extended partition).
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.formats.tables.partition import Partition, TableError, first_overlap

SIZE = 512
SIGNATURE = b"\x55\xaa"
PROTECTIVE = 0xEE
EXTENDED = (0x05, 0x0F, 0x85)
# Start plus count of an added partition stays below this: both are 32-bit fields.
MAX_LBA = 2**32 - 1
MAX_LINKS = 128

_ESP = 0xEF
_ENTRY = struct.Struct("<B3sB3sII")
_TABLE_OFFSET = 446
# The CHS address that says: only the LBA fields count.
_CHS_NONE = b"\xfe\xff\xff"

Writes = tuple[tuple[int, bytes], ...]
Read = Callable[[int, int], bytes]


class Entry(NamedTuple):
    """One of the four entries of an MBR or EBR, as it is on the disk."""

    flag: int = 0
    first_chs: bytes = _CHS_NONE
    kind: int = 0
    last_chs: bytes = _CHS_NONE
    start_lba: int = 0
    sectors: int = 0


@dataclass(frozen=True, slots=True)
class Mbr:
    """A plausible MBR. An MBR does not tell its sector size: `sector_size` is what it was read with.

    `sector0` is its 512 bytes.
    """

    sector_size: int
    sector0: bytes

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The primaries, an extended one included; logical ones need `parse_logicals`."""
        found = ((index + 1, entry) for index, entry in enumerate(entries(self.sector0)) if entry.kind)
        return tuple(_partition(number, entry, self.sector_size) for number, entry in found)

    @property
    def extended(self) -> Partition | None:
        """The extended partition, if there is exactly one."""
        found = [partition for partition in self.partitions if partition.is_extended]
        return found[0] if len(found) == 1 else None

    @property
    def free_slot(self) -> int | None:
        """The number of the first free primary entry, or None.

        One that is active is none, although it may have no type: ISOs for USB sticks mark themselves so, from sector 0.
        """
        free = [not entry.kind and not entry.flag for entry in entries(self.sector0)]
        return free.index(True) + 1 if True in free else None


@dataclass(frozen=True, slots=True)
class Logical(Partition):
    """A logical partition, with its EBR: where that is, and its whole sector."""

    ebr: int = 0
    ebr_sector: bytes = b""


def entries(sector: bytes) -> tuple[Entry, ...]:
    """The four entries of an MBR or EBR sector of at least 512 bytes."""
    return tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(sector[_TABLE_OFFSET : SIZE - 2]))


def put_entry(sector: bytes, index: int, entry: Entry) -> bytes:
    """The sector with entry `index` (from 0) replaced, and nothing else."""
    changed = bytearray(sector)
    _ENTRY.pack_into(changed, _TABLE_OFFSET + index * _ENTRY.size, *entry)
    return bytes(changed)


def parse(sector0: bytes, sector_size: int) -> Mbr | None:
    """Read the first sector as an MBR; None unless its entries are all sane and at least one is used.

    0x55AA alone proves nothing, boot sectors of filesystems have it too. So every boot flag must be 0x00 or
    0x80, and used entries must have a start and a length, must not wrap, and must not overlap.
    """
    if len(sector0) < SIZE or sector0[510:512] != SIGNATURE:
        return None
    table = entries(sector0)
    used = [entry for entry in table if entry.kind]
    if not used or any(entry.flag not in (0x00, 0x80) for entry in table):
        return None
    if any(
        not entry.start_lba or not entry.sectors or entry.start_lba + entry.sectors > 2**32 for entry in used
    ):
        return None
    if first_overlap((entry.start_lba, entry.start_lba + entry.sectors) for entry in used) is not None:
        return None
    return Mbr(sector_size, bytes(sector0[:SIZE]))


def parse_logicals(read: Read, extended: Partition, sector_size: int) -> tuple[Logical, ...]:
    """Follow the chain of EBRs in an extended partition.

    EBRs without a partition are passed over; where the first sector is no EBR, the extended partition is
    empty.

    Args:
        read: gives `length` bytes at `offset` of the disk; fewer where they cannot be read.
        extended: the extended partition.
        sector_size: bytes.

    Raises:
        TableError: the chain loops, leaves the extended partition, overlaps itself, is longer than 128 links,
            or cannot be read.
    """
    found: list[Logical] = []
    seen: list[int] = []
    offset: int | None = extended.start
    while offset is not None:
        if len(seen) == MAX_LINKS:
            raise TableError(f"the chain of logical partitions has more than {MAX_LINKS} links")
        if offset in seen:
            raise TableError(f"the chain of logical partitions loops back to byte {offset}")
        sector = read(offset, sector_size)
        if len(sector) != sector_size:
            raise TableError(f"the EBR at byte {offset} cannot be read")
        if sector[510:512] != SIGNATURE:
            if seen:
                raise TableError(f"the EBR at byte {offset} has no 0x55AA signature")
            return ()
        seen.append(offset)
        logical, offset = _parse_ebr(bytes(sector), offset, 5 + len(found), extended)
        found += [] if logical is None else [logical]
    ranges = [(ebr, ebr + sector_size) for ebr in seen]
    overlap = first_overlap(ranges + [(logical.start, logical.end) for logical in found])
    if overlap is not None:
        raise TableError(f"logical partitions overlap at byte {overlap}")
    return tuple(found)


def add_primary(mbr: Mbr, *, number: int, start: int, size: int, kind: int) -> Mbr:
    """Put a partition of type `kind` into the free entry `number` (1 to 4); `start` and `size` in bytes.

    Raises:
        TableError: the entry is taken, or the place overlaps a partition or is beyond what 32-bit sectors
            address.
    """
    if not 1 <= number <= 4 or entries(mbr.sector0)[number - 1].kind:
        raise TableError(f"primary slot {number} is not free")
    if first_overlap([(start, start + size), *((p.start, p.end) for p in mbr.partitions)]) is not None:
        raise TableError(f"a partition at byte {start} of {size} bytes would overlap another one")
    entry = _entry(kind, start, size, mbr.sector_size)
    return replace(mbr, sector0=put_entry(mbr.sector0, number - 1, entry))


def add_logical(
    mbr: Mbr, logicals: Sequence[Logical], *, start: int, size: int, kind: int, container_end: int
) -> tuple[Mbr, Writes]:
    """Append a logical partition; the extended one grows to `container_end` if it ends earlier. In bytes.

    In an empty extended partition its first sector becomes the EBR of the new one; otherwise that is the
    sector before `start`, and the last logical partition's EBR is linked to it.

    Returns:
        The changed MBR, and the EBR sectors to write: the new one before the link to it.

    Raises:
        TableError: there is not exactly one extended partition, something lies behind it, or the place is not
            free.
    """
    extended, sector_size = mbr.extended, mbr.sector_size
    if extended is None:
        raise TableError("the MBR does not have exactly one extended partition")
    if any(partition.start > extended.start for partition in mbr.partitions):
        raise TableError(f"a partition lies behind the extended partition {extended.number}")
    container_end = max(container_end, extended.end)
    ebr = start - sector_size if logicals else extended.start
    free = max((logical.end for logical in logicals), default=extended.start)
    if not free <= ebr <= start - sector_size or start + size > container_end:
        place = f"a logical partition at byte {start} of {size} bytes and its EBR do not fit"
        raise TableError(f"{place}: bytes {free} to {container_end} are free")
    writes = _ebr_writes(
        logicals, extended, ebr, _entry(kind, start, size, sector_size, base=ebr), sector_size
    )
    return _extend(mbr, extended, container_end), writes


def _extend(mbr: Mbr, extended: Partition, end: int) -> Mbr:
    if end == extended.end:
        return mbr
    _check_place(extended.start, end - extended.start, mbr.sector_size)
    index, sectors = extended.number - 1, (end - extended.start) // mbr.sector_size
    longer = entries(mbr.sector0)[index]._replace(last_chs=_CHS_NONE, sectors=sectors)
    return replace(mbr, sector0=put_entry(mbr.sector0, index, longer))


def _ebr_writes(
    logicals: Sequence[Logical], extended: Partition, ebr: int, entry: Entry, sector_size: int
) -> Writes:
    """The new EBR, and the link to it from the last one unless it is the first itself."""
    blank = bytes(SIZE - len(SIGNATURE)) + SIGNATURE + bytes(sector_size - SIZE)
    new = (ebr, put_entry(blank, 0, entry))
    if not logicals:
        return (new,)
    start = (ebr - extended.start) // sector_size
    link = Entry(kind=EXTENDED[0], start_lba=start, sectors=entry.start_lba + entry.sectors)
    last = max(logicals, key=lambda logical: logical.number)
    # The link is the second entry by custom, but some tools put the partition there and the link first. A
    # link that is there leads to EBRs without a partition only: it goes.
    second = entries(last.ebr_sector)[1]
    slot = 0 if second.sectors and second.kind not in (0, *EXTENDED) else 1
    return new, (last.ebr, put_entry(last.ebr_sector, slot, link))


def _parse_ebr(
    sector: bytes, offset: int, number: int, extended: Partition
) -> tuple[Logical | None, int | None]:
    """The partition that the EBR at `offset` describes, and the offset of the next EBR."""
    used = [entry for entry in entries(sector) if entry.kind and entry.sectors]
    links = [entry for entry in used if entry.kind in EXTENDED]
    data = [entry for entry in used if entry.kind not in EXTENDED]
    if len(links) > 1 or len(data) > 1:
        raise TableError(f"the EBR at byte {offset} has {len(data)} partitions and {len(links)} links")
    logical = _logical(sector, offset, number, data[0]) if data else None
    if logical is not None and not offset < logical.start < logical.end <= extended.end:
        raise TableError(f"logical partition {number} lies outside the extended partition")
    if not links:
        return logical, None
    following = extended.start + links[0].start_lba * len(sector)
    if following + len(sector) > extended.end:
        raise TableError(
            f"the EBR at byte {offset} links to byte {following}, outside the extended partition"
        )
    return logical, following


def _logical(sector: bytes, offset: int, number: int, entry: Entry) -> Logical:
    return Logical(
        number=number,
        start=offset + entry.start_lba * len(sector),
        size=entry.sectors * len(sector),
        type=f"{entry.kind:02X}",
        is_esp=entry.kind == _ESP,
        ebr=offset,
        ebr_sector=sector,
    )


def _partition(number: int, entry: Entry, sector_size: int) -> Partition:
    return Partition(
        number=number,
        start=entry.start_lba * sector_size,
        size=entry.sectors * sector_size,
        type=f"{entry.kind:02X}",
        is_esp=entry.kind == _ESP,
        is_extended=entry.kind in EXTENDED,
    )


def _entry(kind: int, start: int, size: int, sector_size: int, base: int = 0) -> Entry:
    """An entry whose start counts from `base`, with the absolute place checked against the 32-bit limit."""
    _check_place(start, size, sector_size)
    return Entry(kind=kind, start_lba=(start - base) // sector_size, sectors=size // sector_size)


def _check_place(start: int, size: int, sector_size: int) -> None:
    if start % sector_size or size % sector_size or start <= 0 or size <= 0:
        raise TableError(f"byte {start} and {size} bytes are no whole sectors of {sector_size} bytes")
    if (start + size) // sector_size > MAX_LBA:
        limit = MAX_LBA * sector_size
        raise TableError(
            f"an MBR addresses {limit} bytes, but the partition would end at byte {start + size}"
        )
