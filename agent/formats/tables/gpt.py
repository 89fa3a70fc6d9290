"""The GUID partition table: parses it, moves its backup copy, adds or changes a partition, and encodes both copies.

A `Gpt` is immutable; functions return a new one. Fields that need not change are kept, reserved ones included. Source:
UEFI specification 2.10, section 5.3.
"""

import struct
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.formats.tables import mbr
from agent.formats.tables.partition import HEAD_BYTES, TABLE_REACH, Partition, TableError, first_overlap
from agent.units import align_up, divide_up

SIGNATURE = b"EFI PART"
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

# signature, revision, header size, header CRC, reserved, MyLBA, AlternateLBA, FirstUsableLBA, LastUsableLBA,
# disk GUID, entries' LBA, count and size of entries, entries' CRC
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
# type GUID, unique GUID, first LBA, last LBA, attributes, name
_ENTRY = struct.Struct("<16s16sQQQ72s")
_UNIQUE_OFFSET, _LAST_OFFSET = 16, 40
_UNUSED = bytes(16)
_MAX_ENTRY_SIZE = 4096
# System calls take disk offsets as signed 64-bit numbers.
_MAX_OFFSET = 2**63 - 1
_PROTECTIVE_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Gpt:
    """The primary copy of a GPT. Its CRCs are not kept but computed when it is encoded."""

    sector_size: int
    revision: int
    header_size: int
    reserved: int
    my_lba: int
    alternate_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: uuid.UUID
    entries_lba: int
    entry_count: int
    entry_size: int
    tail: bytes
    """The rest of the header's sector, after the 92 bytes that are specified."""
    entries: bytes
    """The entry array, `entry_count` times `entry_size` bytes."""

    @property
    def array_sectors(self) -> int:
        """Sectors that the entry array takes."""
        return divide_up(self.entry_count * self.entry_size, self.sector_size)

    @property
    def primary_end(self) -> int:
        """Offset of the first byte after the primary copy, header and entries."""
        return max(self.my_lba + 1, self.entries_lba + self.array_sectors) * self.sector_size

    @property
    def first_free_lba(self) -> int:
        """The first LBA for partitions: FirstUsableLBA, or the end of the entry array if that is higher."""
        return max(self.first_usable_lba, self.entries_lba + self.array_sectors)

    @property
    def backup_entries_lba(self) -> int:
        """First LBA of the backup's entry array, which ends where the backup's header begins."""
        return self.alternate_lba - self.array_sectors

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The used entries, in the order of the table."""
        used = ((index, self._entry(index)) for index in range(self.entry_count))
        return tuple(self._partition(index, fields) for index, fields in used if fields[0] != _UNUSED)

    @property
    def unique_guids(self) -> frozenset[uuid.UUID]:
        """The unique GUIDs of the partitions."""
        used = (self._entry(index) for index in range(self.entry_count))
        return frozenset(uuid.UUID(bytes_le=fields[1]) for fields in used if fields[0] != _UNUSED)

    @property
    def free_slot(self) -> int | None:
        """The number (from 1) of the first unused entry, or None."""
        free = (index + 1 for index in range(self.entry_count) if self._entry(index)[0] == _UNUSED)
        return next(free, None)

    def _entry(self, index: int) -> tuple[bytes, bytes, int, int, int, bytes]:
        return _ENTRY.unpack_from(self.entries, index * self.entry_size)

    def _partition(self, index: int, fields: tuple[bytes, bytes, int, int, int, bytes]) -> Partition:
        kind, _, first, last, attributes, name = fields
        type_guid = str(uuid.UUID(bytes_le=kind)).upper()
        return Partition(
            number=index + 1,
            start=first * self.sector_size,
            size=(last - first + 1) * self.sector_size,
            type=type_guid,
            name=name.decode("utf-16-le", "replace").split("\0", 1)[0],
            is_esp=type_guid == ESP_TYPE,
            attributes=attributes,
        )


def parse(window: bytes | memoryview, sector_size: int) -> Gpt:
    """Read the primary copy from the first bytes of a disk, of which at most `TABLE_REACH` are used.

    Raises:
        TableError: it is damaged, or not within these bytes; the message says what is wrong.
    """
    window = memoryview(window)[:TABLE_REACH]
    gpt, entries_crc = _parse_header(bytes(window[sector_size : 2 * sector_size]), sector_size, 1, "primary")
    start = gpt.entries_lba * sector_size
    end = start + gpt.entry_count * gpt.entry_size
    if gpt.entries_lba < 2 or end > len(window):
        place = f"the entry array at bytes {start} to {end}"
        raise TableError(f"primary GPT: bounds: {place} is not within the first {len(window)} bytes")
    gpt = replace(gpt, entries=_checked_entries(bytes(window[start:end]), entries_crc, "primary"))
    _check_partitions(gpt)
    return gpt


def parse_backup(tail: bytes, sector_size: int, disk_size: int) -> Gpt:
    """Read the backup copy, whose header is in the last sector of the disk; `my_lba` and others are the backup's own.

    Args:
        tail: the last bytes of the disk or image: 1 MiB is enough.
        sector_size: in bytes.
        disk_size: size of the disk or image in bytes.

    Raises:
        TableError: the backup is missing or damaged, or not within `tail`.
    """
    lba = disk_size // sector_size - 1
    base = disk_size - len(tail)
    offset = lba * sector_size - base
    if offset < 0:
        raise TableError(f"backup GPT: bounds: LBA {lba} is not within the last {len(tail)} bytes")
    backup, entries_crc = _parse_header(tail[offset : offset + sector_size], sector_size, lba, "backup")
    start = backup.entries_lba * sector_size - base
    end = start + backup.entry_count * backup.entry_size
    if start < 0 or end > offset:
        raise TableError(f"backup GPT: bounds: its entry array at LBA {backup.entries_lba} is not before it")
    return replace(backup, entries=_checked_entries(tail[start:end], entries_crc, "backup"))


def is_mirror(primary: Gpt, backup: Gpt) -> bool:
    """Whether two copies point at each other and are equal, except for reserved bytes."""
    mirrored = replace(
        backup,
        my_lba=backup.alternate_lba,
        alternate_lba=backup.my_lba,
        entries_lba=primary.entries_lba,
        reserved=primary.reserved,
        tail=primary.tail,
    )
    return mirrored == primary


def last_usable_lba(gpt: Gpt, disk_size: int) -> int:
    """The last LBA for partitions on a disk of `disk_size` bytes that ends with the backup copy."""
    return disk_size // gpt.sector_size - 2 - gpt.array_sectors


def relocate(gpt: Gpt, disk_size: int) -> Gpt:
    """The same table for a disk of `disk_size` bytes, which may be larger or smaller than the disk it was made for.

    AlternateLBA becomes the last LBA, and LastUsableLBA the one before the backup's entry array; nothing else changes.

    Raises:
        TableError: a partition would overlap the backup copy or end beyond the disk.
    """
    last = last_usable_lba(gpt, disk_size)
    for partition in gpt.partitions:
        if partition.end > (last + 1) * gpt.sector_size:
            raise TableError(
                f"partition {partition.number} ends at byte {partition.end}, but on a disk of {disk_size}"
                f" bytes the space for partitions ends at byte {max(0, last + 1) * gpt.sector_size}"
            )
    if last < gpt.first_free_lba:
        raise TableError(
            f"a disk of {disk_size} bytes has no space for partitions behind both copies of the GPT"
        )
    return replace(gpt, alternate_lba=disk_size // gpt.sector_size - 1, last_usable_lba=last)


def add_partition(
    gpt: Gpt, *, start: int, size: int, type_guid: uuid.UUID, unique_guid: uuid.UUID, name: str
) -> Gpt:
    """Add a partition in the first unused entry; `start` and `size` are in bytes.

    Raises:
        TableError: all entries are used; the range is not whole sectors, not usable or not free; the name is too long
            or the GUID is in use.
    """
    number, sector = gpt.free_slot, gpt.sector_size
    if number is None:
        raise TableError(f"all {gpt.entry_count} entries of the GPT are taken")
    if start % sector or size % sector or size <= 0:
        raise TableError(f"byte {start} and {size} bytes are no whole sectors of {sector} bytes")
    first, last = start // sector, (start + size) // sector - 1
    if first < gpt.first_free_lba or last > gpt.last_usable_lba:
        usable = f"{gpt.first_free_lba} to {gpt.last_usable_lba}"
        raise TableError(f"a partition at LBA {first} to {last} is not within the usable LBA {usable}")
    if first_overlap([(start, start + size), *((p.start, p.end) for p in gpt.partitions)]) is not None:
        raise TableError(f"a partition at byte {start} of {size} bytes would overlap another one")
    encoded = name.encode("utf-16-le")
    if len(encoded) > 72 or unique_guid in gpt.unique_guids:
        raise TableError(f"a partition {name!r} {unique_guid} cannot be added: name too long, or GUID taken")
    entries = bytearray(gpt.entries)
    offset = (number - 1) * gpt.entry_size
    entries[offset : offset + gpt.entry_size] = bytes(gpt.entry_size)
    _ENTRY.pack_into(entries, offset, type_guid.bytes_le, unique_guid.bytes_le, first, last, 0, encoded)
    return replace(gpt, entries=bytes(entries))


def resized(gpt: Gpt, number: int, *, size: int, type_guid: uuid.UUID) -> Gpt:
    """The partition `number` with another size, in bytes, and another type; its start and all else stay.

    Whether the space is usable is not asked: the table may still be one for a smaller disk (see `relocate`).

    Raises:
        TableError: there is no such partition, the size is not whole sectors, or it would overlap another partition.
    """
    partition = next((p for p in gpt.partitions if p.number == number), None)
    if partition is None or size % gpt.sector_size or size <= 0:
        raise TableError(f"there is no partition {number} to have {size} bytes")
    others = [(p.start, p.end) for p in gpt.partitions if p.number != number]
    if first_overlap([(partition.start, partition.start + size), *others]) is not None:
        raise TableError(f"partition {number} of {size} bytes would overlap another one")
    entries = bytearray(gpt.entries)
    offset = (number - 1) * gpt.entry_size
    entries[offset : offset + 16] = type_guid.bytes_le
    struct.pack_into("<Q", entries, offset + _LAST_OFFSET, (partition.start + size) // gpt.sector_size - 1)
    return replace(gpt, entries=bytes(entries))


def renewed(gpt: Gpt, new_guid: Callable[[], uuid.UUID]) -> Gpt:
    """The table with a new disk GUID and new GUIDs of its partitions: for another disk in the same machine.

    Two disks with the same GUIDs make one of two partitions an arbitrary one wherever PARTUUID is asked for. Types,
    names and attributes stay.

    Args:
        gpt: the table to be renewed.
        new_guid: gives a GUID that nothing else has; called for the disk first, then for each partition in order.
    """
    disk_guid = new_guid()
    entries = bytearray(gpt.entries)
    for partition in gpt.partitions:
        start = (partition.number - 1) * gpt.entry_size + _UNIQUE_OFFSET
        entries[start : start + 16] = new_guid().bytes_le
    return replace(gpt, disk_guid=disk_guid, entries=bytes(entries))


def encode_primary(gpt: Gpt) -> mbr.Writes:
    """The writes (offset, bytes) of the primary copy: entries, then header; sector 0 is made by `protective_mbr`."""
    size = gpt.sector_size
    return (gpt.entries_lba * size, gpt.entries), (gpt.my_lba * size, _encode_header(gpt))


def encode_backup(gpt: Gpt) -> mbr.Writes:
    """The write (offset, bytes) of the backup copy, entries and then header, that ends with `alternate_lba`."""
    size, lba = gpt.sector_size, gpt.backup_entries_lba
    backup = replace(gpt, my_lba=gpt.alternate_lba, alternate_lba=gpt.my_lba, entries_lba=lba)
    padded = gpt.entries.ljust(align_up(len(gpt.entries), size), b"\0")
    return ((lba * size, padded + _encode_header(backup)),)


def protective_mbr(sector0: bytes, *, old_sectors: int, sectors: int) -> bytes:
    """Sector 0 with its 0xEE entry adapted to the size of the disk; all other bytes are kept.

    If 0xEE is the only entry, it protects the whole disk and gets the disk's size. In a hybrid MBR it may cover only
    what lies before or between the hybrid partitions: it is changed only if it reached the end of the image and no
    other entry ends after it. If it ended earlier, that was intended.

    Args:
        sector0: the first 512 bytes, or more.
        old_sectors: the size, in sectors, that the table was made for (its old AlternateLBA plus one).
        sectors: the size of the disk, in sectors.
    """
    used = [(index, entry) for index, entry in enumerate(mbr.entries(sector0)) if entry.kind]
    reach = max((entry.start_lba + entry.sectors for _, entry in used), default=0)
    for index, entry in used:
        end = entry.start_lba + entry.sectors
        last_of_all = end >= min(old_sectors, _PROTECTIVE_MAX) and end == reach
        if entry.kind == mbr.PROTECTIVE and (len(used) == 1 or last_of_all):
            count = min(_PROTECTIVE_MAX, sectors - entry.start_lba)
            sector0 = mbr.put_entry(sector0, index, entry._replace(sectors=max(1, count)))
    return sector0


def _parse_header(sector: bytes, sector_size: int, lba: int, copy: str) -> tuple[Gpt, int]:
    """The header as a `Gpt` without entries, and the CRC that the entries must have."""
    if len(sector) != sector_size or sector[:8] != SIGNATURE:
        raise TableError(f"{copy} GPT: signature: no EFI PART at LBA {lba}")
    _, revision, size, crc, *fields, entries_crc = _HEADER.unpack_from(sector)
    if not _HEADER.size <= size <= sector_size:
        raise TableError(
            f"{copy} GPT: bounds: a header size of {size} bytes is not within 92 to {sector_size}"
        )
    found = zlib.crc32(sector[:16] + bytes(4) + sector[20:size])
    if found != crc:
        raise TableError(f"{copy} GPT: header CRC: {found:08x} found, {crc:08x} expected")
    reserved, my_lba, alternate, first, last, guid, entries_lba, count, entry_size = fields
    if my_lba != lba:
        raise TableError(f"{copy} GPT: MyLBA: the header at LBA {lba} says that it is at LBA {my_lba}")
    if first > last or last * sector_size > _MAX_OFFSET:
        raise TableError(f"{copy} GPT: bounds: the usable LBA are {first} to {last}")
    if entry_size % 128 or not 128 <= entry_size <= _MAX_ENTRY_SIZE or not count:
        raise TableError(f"{copy} GPT: bounds: {count} entries of {entry_size} bytes")
    if count * entry_size + sector_size > HEAD_BYTES:
        limit = f"the backup copy has to fit into the last {HEAD_BYTES} bytes of a disk"
        raise TableError(f"{copy} GPT: bounds: {count} entries of {entry_size} bytes are too many: {limit}")
    header = Gpt(
        sector_size=sector_size,
        revision=revision,
        header_size=size,
        reserved=reserved,
        my_lba=my_lba,
        alternate_lba=alternate,
        first_usable_lba=first,
        last_usable_lba=last,
        disk_guid=uuid.UUID(bytes_le=guid),
        entries_lba=entries_lba,
        entry_count=count,
        entry_size=entry_size,
        tail=bytes(sector[_HEADER.size :]),
        entries=b"",
    )
    return header, entries_crc


def _checked_entries(entries: bytes, crc: int, copy: str) -> bytes:
    found = zlib.crc32(entries)
    if found != crc:
        raise TableError(f"{copy} GPT: entries CRC: {found:08x} found, {crc:08x} expected")
    return bytes(entries)


def _check_partitions(gpt: Gpt) -> None:
    """Check that partitions are within the usable LBA, after the entry array, and do not overlap."""
    size = gpt.sector_size
    first, end = gpt.first_free_lba * size, (gpt.last_usable_lba + 1) * size
    for p in gpt.partitions:
        if p.size <= 0 or p.start < first or p.end > end:
            place = f"partition {p.number} at bytes {p.start} to {p.end}"
            raise TableError(f"primary GPT: bounds: {place} is not within the usable {first} to {end}")
    overlap = first_overlap((p.start, p.end) for p in gpt.partitions)
    if overlap is not None:
        raise TableError(f"primary GPT: bounds: two partitions overlap at byte {overlap}")


def _encode_header(gpt: Gpt) -> bytes:
    """The header's sector, with both CRCs computed."""
    fields = (
        gpt.my_lba,
        gpt.alternate_lba,
        gpt.first_usable_lba,
        gpt.last_usable_lba,
        gpt.disk_guid.bytes_le,
    )
    array = (gpt.entries_lba, gpt.entry_count, gpt.entry_size, zlib.crc32(gpt.entries))
    start = (SIGNATURE, gpt.revision, gpt.header_size)
    sector = bytearray(_HEADER.pack(*start, 0, gpt.reserved, *fields, *array) + gpt.tail)
    struct.pack_into("<I", sector, 16, zlib.crc32(sector[: gpt.header_size]))
    return bytes(sector)
