"""Computes the layout of the target disk: the config drive's partition, the head to commit, the ranges to wipe.

The stages call it: `place_drive` in preflight, before anything is written; `finish_head` when the image is verified.
All offsets and sizes are in bytes. A table must have been read with the sector size of the target disk.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.errors import ConfigDriveCreate, ImageDamaged
from agent.formats.configdrive import LABEL
from agent.formats.tables import gpt as gpt_format
from agent.formats.tables import mbr as mbr_format
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.mbr import Logical, Mbr, Writes
from agent.formats.tables.partition import HEAD_BYTES, Partition
from agent.formats.tables.superblock import LABEL_BYTES, volume_label
from agent.units import MiB, align_down, align_up

DRIVE_TYPE_GUID = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")  # Linux filesystem data
DRIVE_TYPE_MBR = {"iso9660": 0x83, "vfat": 0x0C}

# The largest partition of an image that is examined for the label of a config drive.
MAX_OWN_DRIVE = 256 * MiB

DriveType = Literal["iso9660", "vfat"]
Ranges = tuple[tuple[int, int], ...]

_FALLBACK_ALIGNMENT = 4096
_BOOT_CODE_LENGTH = 440
# A table within the first MiB has at most 8192 partitions, which give two ranges each.
_MAX_STALE_RANGES = 2 * 8192


@dataclass(frozen=True, slots=True)
class DriveSlot:
    """The config drive's partition: one that the image has (`reuse`), or one to be added (`new`).

    `via` is the kind of table entry. `number` is 0 for a new logical partition while the other logical partitions are
    not known.
    """

    kind: Literal["new", "reuse"]
    number: int
    start: int
    size: int
    via: Literal["gpt", "primary", "logical"]


@dataclass(frozen=True, slots=True)
class FinishedTable:
    """The final partition table, and what to write for it: `head` comes last, it is the commit."""

    table: Gpt | Mbr
    head: bytes
    tail_writes: Writes
    other_writes: Writes


# -- properties of a table ------------------------------------------------------------------------------------


def has_esp(table: Gpt | Mbr) -> bool:
    """Whether a partition (other than a logical one) is an EFI system partition."""
    return any(partition.is_esp for partition in table.partitions)


def has_boot_code(sector0: bytes) -> bool:
    """Whether the first sector has code for a BIOS, that is any byte but zero where such code would be."""
    return any(sector0[:_BOOT_CODE_LENGTH])


def needed_size(table: Gpt | Mbr) -> int:
    """The end of the last partition; 0 without partitions."""
    return max((partition.end for partition in table.partitions), default=0)


def is_cut(table: Gpt | Mbr, size: int) -> bool:
    """Whether a disk image of `size` bytes is truncated: it ends within a partition, or before the first one."""
    parts = table.partitions
    has_none = bool(parts) and len(absent_partitions(table, size)) == len(parts)
    return has_none or any(part.start < size < part.end for part in parts)


def absent_partitions(table: Gpt | Mbr, size: int) -> tuple[Partition, ...]:
    """The partitions that begin at or after the image's end: genimage and others leave out those without content."""
    return tuple(partition for partition in table.partitions if partition.start >= size)


def absent_note(absent: Sequence[Partition], size: int) -> str:
    """The note in the status about absent partitions of an image of `size` bytes."""
    numbers = ", ".join(str(partition.number) for partition in absent)
    return f"the image ends at byte {size}, before its partition {numbers} begins, which is filled with zeros"


def logicals_damaged(fault: str) -> ImageDamaged:
    """The error for an image whose chain of logical partitions `mbr.parse_logicals` refused with `fault`."""
    return ImageDamaged(
        format="disk",
        reason=f"its logical partitions cannot be followed: {fault}",
        hint="Check the image's partition table (sfdisk --verify), mend it and upload the image again.",
    )


# -- the config drive's partition -----------------------------------------------------------------------------


def place_drive(
    table: Gpt | Mbr,
    disk_size: int,
    sector_size: int,
    drive_size: int,
    logicals: Sequence[Logical] | None = None,
    existing: Partition | None = None,
) -> DriveSlot:
    """Choose the config drive's partition: the image's own config-2, or a new one at the end of the disk.

    A new partition is aligned to 1 MiB, or to 4096 bytes if the free space is too short for that.

    Args:
        table: the image's table, not yet relocated.
        disk_size: size of the target disk.
        sector_size: sector size of the target disk.
        drive_size: size of the config drive's filesystem.
        logicals: the logical partitions of an MBR; None if they are not known. The extended partition is then taken as
            full: what fits then also fits when they are known.
        existing: a partition of the image whose filesystem has the label config-2, if there is one.

    Raises:
        ConfigDriveCreate: there is no space or no unused entry, or the image's own config-2 is too small.
    """
    if sector_size != table.sector_size:
        sizes = f"sectors of {table.sector_size} bytes, the disk has {sector_size}"
        raise ConfigDriveCreate(detail=f"the partition table counts in {sizes}")
    existing = existing or _named_drive(table)
    if existing is not None:
        return _reuse(table, existing, drive_size)
    if isinstance(table, Gpt):
        return _place_gpt(table, disk_size, drive_size)
    return _place_mbr(table, disk_size, drive_size, logicals)


def drive_candidates(partitions: Iterable[Partition]) -> list[Partition]:
    """The partitions whose filesystem may be the image's own config drive, by their kind and size."""
    return [
        part
        for part in partitions
        if not part.is_extended and not part.is_esp and LABEL_BYTES <= part.size <= MAX_OWN_DRIVE
    ]


def is_named_drive(partition: Partition) -> bool:
    """Whether the table calls the partition config-2, as it does where the image was made with a config drive."""
    return partition.name.lower() == LABEL


def is_drive(head: bytes) -> bool:
    """Whether the filesystem that begins with these `LABEL_BYTES` has the label config-2, in upper or lower case."""
    label = volume_label(head)
    return label is not None and label.lower() == LABEL


def _named_drive(table: Gpt | Mbr) -> Partition | None:
    return next(filter(is_named_drive, table.partitions), None)


def _reuse(table: Gpt | Mbr, own: Partition, drive_size: int) -> DriveSlot:
    if drive_size > own.size:
        # A second config drive is no solution: readers search by the label, and could find either.
        raise ConfigDriveCreate(
            detail=f"{drive_size} bytes are needed, the image's own partition {own.number} has {own.size}",
            hint="Deploy an image without a config-2 partition, or with a larger one.",
        )
    if isinstance(table, Gpt):
        return DriveSlot("reuse", own.number, own.start, own.size, "gpt")
    return DriveSlot("reuse", own.number, own.start, own.size, "logical" if own.number > 4 else "primary")


def _place_gpt(table: Gpt, disk_size: int, drive_size: int) -> DriveSlot:
    number = table.free_slot
    if number is None:
        raise ConfigDriveCreate(detail=f"all {table.entry_count} entries of the GPT are taken")
    begin = max(needed_size(table), table.first_free_lba * table.sector_size)
    end = (gpt_format.last_usable_lba(table, disk_size) + 1) * table.sector_size
    start, size = _fit(begin, end, drive_size)
    return DriveSlot("new", number, start, size, "gpt")


def _place_mbr(table: Mbr, disk_size: int, drive_size: int, logicals: Sequence[Logical] | None) -> DriveSlot:
    end = mbr_end(table, disk_size)
    if table.free_slot is not None:
        start, size = _fit(needed_size(table), end, drive_size)
        return DriveSlot("new", table.free_slot, start, size, "primary")
    extended = table.extended
    if extended is None or extended.end != needed_size(table):
        why = (
            ""
            if extended is None
            else f", and the extended partition {extended.number} is not the last on the disk"
        )
        raise ConfigDriveCreate(detail=f"all four primary slots of the MBR are taken{why}")
    begin, number = extended.end, 0
    if logicals is not None:
        begin, number = max((p.end for p in logicals), default=extended.start), 5 + len(logicals)
    # The sector before the partition is its EBR.
    start, size = _fit(begin + table.sector_size, end, drive_size)
    return DriveSlot("new", number, start, size, "logical")


def mbr_end(table: Mbr, disk_size: int) -> int:
    """The end of the space that an MBR can address: the disk's end, or the limit of 32-bit sector numbers."""
    return min(disk_size // table.sector_size, mbr_format.MAX_LBA) * table.sector_size


def _fit(begin: int, end: int, drive_size: int) -> tuple[int, int]:
    """Start and size of a partition at the end of the free space, outside the disk's first MiB."""
    begin = max(begin, HEAD_BYTES)
    for alignment in (MiB, _FALLBACK_ALIGNMENT):
        size = align_up(drive_size, alignment)
        start = align_down(end - size, alignment)
        if start >= begin:
            return start, size
    needed, free = align_up(drive_size, _FALLBACK_ALIGNMENT), max(0, end - begin)
    raise ConfigDriveCreate(
        detail=f"{needed} bytes (aligned to 4096) are needed behind the last partition, {free} are free",
        hint="Choose a larger disk, or shrink the image.",
    )


# -- the head to commit --------------------------------------------------------------------------------------


def finish_head(
    head: bytes,
    table: Gpt | Mbr,
    disk_size: int,
    slot: DriveSlot | None,
    *,
    unique_guid: uuid.UUID,
    drive_type: DriveType,
    logicals: Sequence[Logical] = (),
) -> FinishedTable:
    """The head to commit, with the GPT relocated and the config drive's partition added.

    Args:
        head: the first MiB of the image, from which `table` was read.
        table: the image's table.
        disk_size: size of the target disk.
        slot: from `place_drive`, None without a config drive.
        unique_guid: GUID of the new partition in a GPT.
        drive_type: the config drive's filesystem.
        logicals: the logical partitions of an MBR.

    Raises:
        TableError: the partitions do not fit on the disk, or the slot is in use.
    """
    new_slot = slot if slot is not None and slot.kind == "new" else None
    if isinstance(table, Gpt):
        return _finish_gpt(head, table, disk_size, new_slot, unique_guid)
    kind = DRIVE_TYPE_MBR[drive_type]
    writes: Writes = ()
    if new_slot is not None and new_slot.via == "primary":
        table = mbr_format.add_primary(
            table, number=new_slot.number, start=new_slot.start, size=new_slot.size, kind=kind
        )
    elif new_slot is not None:
        end = mbr_end(table, disk_size)
        table, writes = mbr_format.add_logical(
            table, logicals, start=new_slot.start, size=new_slot.size, kind=kind, container_end=end
        )
    return _apply_writes(head, table, disk_size, (*writes, (0, table.sector0)))


def _finish_gpt(
    head: bytes, old: Gpt, disk_size: int, slot: DriveSlot | None, unique_guid: uuid.UUID
) -> FinishedTable:
    new = gpt_format.relocate(old, disk_size)
    if slot is not None:
        new = gpt_format.add_partition(
            new,
            start=slot.start,
            size=slot.size,
            type_guid=DRIVE_TYPE_GUID,
            unique_guid=unique_guid,
            name=LABEL,
        )
    sectors = disk_size // old.sector_size
    sector0 = gpt_format.protective_mbr(
        head[: mbr_format.SIZE], old_sectors=old.alternate_lba + 1, sectors=sectors
    )
    writes = (*gpt_format.encode_backup(new), *gpt_format.encode_primary(new), (0, sector0))
    return _apply_writes(head, new, disk_size, writes)


def _apply_writes(head: bytes, table: Gpt | Mbr, disk_size: int, writes: Writes) -> FinishedTable:
    """Apply the writes that lie within the head to it; the others are divided into the disk's last MiB and the rest."""
    changed = bytearray(head)
    tail: list[tuple[int, bytes]] = []
    others: list[tuple[int, bytes]] = []
    for start, data in writes:
        held = data[: max(0, len(head) - start)]
        changed[start : start + len(held)] = held
        rest = (start + len(held), data[len(held) :])
        if rest[1]:
            (tail if rest[0] >= disk_size - HEAD_BYTES else others).append(rest)
    return FinishedTable(table, bytes(changed), tuple(tail), tuple(others))


# -- stale copies --------------------------------------------------------------------------------------------


def stale_backup(table: Gpt, image_size: int, disk_size: int) -> Ranges:
    """The ranges (offset, length) of the image's own backup GPT, to be zeroed after the table was relocated.

    Bytes of a partition, of the new backup, of the first MiB, or beyond the end of image or disk are left out. They are
    to be zeroed before the config drive and the new backup are written.

    Args:
        table: the image's table, not yet relocated.
        image_size: size of the guest disk.
        disk_size: size of the target disk.
    """
    new = gpt_format.relocate(table, disk_size)
    keep = [
        (0, max(HEAD_BYTES, table.primary_end)),
        _backup_range(new),
        *((p.start, p.end) for p in table.partitions),
    ]
    start, end = _backup_range(table)
    return _as_lengths(_subtract(max(0, start), min(end, image_size, disk_size), keep))


def stale_signature_ranges(
    old_table: Gpt | Mbr, disk_size: int, logicals: Iterable[Partition] = ()
) -> Ranges:
    """The ranges (offset, length), sorted, to zero so that no old filesystem, array or table is detected on the disk.

    They are the first and last MiB of each old partition (md, LVM, ZFS and filesystems have their signatures there),
    and the backup GPT where the old table says that it is. The caller wipes the first and last MiB of the disk.
    """
    ranges: list[tuple[int, int]] = []
    for partition in (*old_table.partitions, *logicals):
        start, end = partition.start, min(partition.end, disk_size)
        ranges += [(start, min(start + MiB, end)), (max(start, end - MiB), end)]
    if isinstance(old_table, Gpt):
        start, end = _backup_range(old_table)
        ranges.append((max(0, start), min(end, disk_size)))
    return _as_lengths(_merge(ranges))[:_MAX_STALE_RANGES]


def _backup_range(gpt: Gpt) -> tuple[int, int]:
    """Start and end of the backup copy, entries and header."""
    return gpt.backup_entries_lba * gpt.sector_size, (gpt.alternate_lba + 1) * gpt.sector_size


def _subtract(start: int, end: int, keep: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    left: list[tuple[int, int]] = []
    for keep_start, keep_end in sorted(keep):
        if start < min(keep_start, end):
            left.append((start, min(keep_start, end)))
        start = max(start, keep_end)
    if start < end:
        left.append((start, end))
    return left


def _merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _as_lengths(ranges: Iterable[tuple[int, int]]) -> Ranges:
    return tuple((start, end - start) for start, end in ranges)
