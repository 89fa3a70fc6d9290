"""The MBR and its logical partitions: parses them, and adds one partition.

Sectors go in; sectors and (offset, bytes) writes come out. Boot code, disk signature and other entries are kept. The
EBR chain is read through a function that the caller gives.

An MBR has four entries at byte 446 and 0x55AA at byte 510. An extended partition holds a chain of EBRs of the same
layout: the first entry of an EBR is a logical partition (its start counts from that EBR), the second one is the link to
the next EBR (its start counts from the extended partition).
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
# An added partition ends at this LBA at the latest: start and count are 32-bit fields.
MAX_LBA = 2**32 - 1
MAX_LINKS = 128  # EBRs in a chain

_ESP = 0xEF
_ENTRY = struct.Struct("<B3sB3sII")
_SIGNATURE_OFFSET = 440
_TABLE_OFFSET = 446
# The CHS address that stands for "use the LBA fields".
_CHS_NONE = b"\xfe\xff\xff"

Writes = tuple[tuple[int, bytes], ...]
ReadAt = Callable[[int, int], bytes]


class MbrEntry(NamedTuple):
    """One of the four entries of an MBR or EBR, with its fields as on the disk."""

    flag: int = 0
    first_chs: bytes = _CHS_NONE
    kind: int = 0
    last_chs: bytes = _CHS_NONE
    start_lba: int = 0
    sectors: int = 0


@dataclass(frozen=True, slots=True)
class Mbr:
    """A plausible MBR: its 512 bytes (`sector0`), and the sector size with which it was read.

    An MBR does not say its sector size.
    """

    sector_size: int
    sector0: bytes

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The primary partitions, including an extended one; `parse_logicals` gives the logical ones."""
        found = ((index + 1, entry) for index, entry in enumerate(entries(self.sector0)) if entry.kind)
        return tuple(_partition(number, entry, self.sector_size) for number, entry in found)

    @property
    def extended(self) -> Partition | None:
        """The extended partition, if there is exactly one."""
        found = [partition for partition in self.partitions if partition.is_extended]
        return found[0] if len(found) == 1 else None

    @property
    def free_slot(self) -> int | None:
        """The number (from 1) of the first unused primary entry, or None.

        An entry without a type but with the active flag is used: hybrid ISOs for USB sticks have one that begins at
        sector 0.
        """
        free = [not entry.kind and not entry.flag for entry in entries(self.sector0)]
        return free.index(True) + 1 if True in free else None


@dataclass(frozen=True, slots=True)
class Logical(Partition):
    """A logical partition, with the offset in bytes and the content of its EBR's sector."""

    ebr: int = 0
    ebr_sector: bytes = b""


def entries(sector: bytes) -> tuple[MbrEntry, ...]:
    """The four entries of an MBR or EBR sector of at least 512 bytes."""
    return tuple(MbrEntry(*fields) for fields in _ENTRY.iter_unpack(sector[_TABLE_OFFSET : SIZE - 2]))


def put_entry(sector: bytes, index: int, entry: MbrEntry) -> bytes:
    """A copy of the sector with entry `index` (from 0) replaced."""
    changed = bytearray(sector)
    _ENTRY.pack_into(changed, _TABLE_OFFSET + index * _ENTRY.size, *entry)
    return bytes(changed)


def parse(sector0: bytes, sector_size: int) -> Mbr | None:
    """Read the first sector as an MBR, or return None if its entries are not plausible or all unused.

    0x55AA alone proves nothing: boot sectors of filesystems have it too. Therefore every boot flag must be 0x00 or
    0x80, and used entries must have a start and a length, end within 2^32 sectors, and not overlap.
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


def parse_logicals(read: ReadAt, extended: Partition, sector_size: int) -> tuple[Logical, ...]:
    """Follow the chain of EBRs in an extended partition.

    EBRs without a partition are skipped; if the first sector is not an EBR, the extended partition is empty.

    Args:
        read: `read(offset, length)` returns bytes of the disk, fewer than `length` if they cannot be read.
        extended: the extended partition.
        sector_size: in bytes.

    Raises:
        TableError: the chain loops, leaves the extended partition, overlaps itself, has more than `MAX_LINKS` links, or
            cannot be read.
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


def resized(mbr: Mbr, *, number: int, size: int, kind: int) -> Mbr:
    """Give the primary partition `number` another size in bytes, and the type `kind`.

    Raises:
        TableError: the size is no whole sectors, reaches into another partition, or beyond 32-bit sector numbers.
    """
    (part,) = (partition for partition in mbr.partitions if partition.number == number)
    _check_range(part.start, size, mbr.sector_size)
    others = [(other.start, other.end) for other in mbr.partitions if other.number != number]
    if first_overlap([(part.start, part.start + size), *others]) is not None:
        raise TableError(f"partition {number} of {size} bytes would overlap another one")
    changed = entries(mbr.sector0)[number - 1]._replace(
        kind=kind, last_chs=_CHS_NONE, sectors=size // mbr.sector_size
    )
    return replace(mbr, sector0=put_entry(mbr.sector0, number - 1, changed))


def renewed(mbr: Mbr, identifier: bytes) -> Mbr:
    """The table with another disk signature, of 4 bytes: the PARTUUIDs of its partitions are made of it."""
    end = _SIGNATURE_OFFSET + len(identifier)
    return replace(mbr, sector0=mbr.sector0[:_SIGNATURE_OFFSET] + identifier + mbr.sector0[end:])


def add_primary(mbr: Mbr, *, number: int, start: int, size: int, kind: int) -> Mbr:
    """Add a partition of type `kind` in the unused entry `number` (1 to 4); `start` and `size` are in bytes.

    Raises:
        TableError: the entry is used, or the range overlaps a partition, is not whole sectors, or ends beyond 32-bit
            sector numbers.
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
    """Append a logical partition, and extend the extended partition to `container_end` if it ends before.

    Offsets and sizes are in bytes. The EBR of the new partition is the sector before `start`, linked from the EBR of
    the last logical partition; in an empty extended partition it is the first sector of that.

    Returns:
        The changed MBR, and the EBR sectors to write: the new one before the link to it.

    Raises:
        TableError: there is not exactly one extended partition, another partition follows it, or the range is not free.
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
    _check_range(extended.start, end - extended.start, mbr.sector_size)
    index, sectors = extended.number - 1, (end - extended.start) // mbr.sector_size
    longer = entries(mbr.sector0)[index]._replace(last_chs=_CHS_NONE, sectors=sectors)
    return replace(mbr, sector0=put_entry(mbr.sector0, index, longer))


def _ebr_writes(
    logicals: Sequence[Logical], extended: Partition, ebr: int, entry: MbrEntry, sector_size: int
) -> Writes:
    """The writes of the new EBR and, unless it is the first, of the last EBR with a link to it."""
    blank = bytes(SIZE - len(SIGNATURE)) + SIGNATURE + bytes(sector_size - SIZE)
    new = (ebr, put_entry(blank, 0, entry))
    if not logicals:
        return (new,)
    start = (ebr - extended.start) // sector_size
    link = MbrEntry(kind=EXTENDED[0], start_lba=start, sectors=entry.start_lba + entry.sectors)
    last = max(logicals, key=lambda logical: logical.number)
    # The link is the second entry by convention, but some tools put the partition there and the link first. A link that
    # exists already leads only to EBRs without a partition, and is replaced.
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


def _logical(sector: bytes, offset: int, number: int, entry: MbrEntry) -> Logical:
    return Logical(
        number=number,
        start=offset + entry.start_lba * len(sector),
        size=entry.sectors * len(sector),
        type=f"{entry.kind:02X}",
        is_esp=entry.kind == _ESP,
        ebr=offset,
        ebr_sector=sector,
    )


def _partition(number: int, entry: MbrEntry, sector_size: int) -> Partition:
    return Partition(
        number=number,
        start=entry.start_lba * sector_size,
        size=entry.sectors * sector_size,
        type=f"{entry.kind:02X}",
        is_esp=entry.kind == _ESP,
        is_extended=entry.kind in EXTENDED,
    )


def _entry(kind: int, start: int, size: int, sector_size: int, base: int = 0) -> MbrEntry:
    """An entry whose start counts from `base`; the range itself is checked by its absolute position."""
    _check_range(start, size, sector_size)
    return MbrEntry(kind=kind, start_lba=(start - base) // sector_size, sectors=size // sector_size)


def _check_range(start: int, size: int, sector_size: int) -> None:
    if start % sector_size or size % sector_size or start <= 0 or size <= 0:
        raise TableError(f"byte {start} and {size} bytes are no whole sectors of {sector_size} bytes")
    if (start + size) // sector_size > MAX_LBA:
        limit = MAX_LBA * sector_size
        raise TableError(
            f"an MBR addresses {limit} bytes, but the partition would end at byte {start + size}"
        )
