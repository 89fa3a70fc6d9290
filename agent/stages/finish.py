"""Finish: make the tables fit each disk and write the config drive, while the disks still cannot boot.

The tables are changed by pure functions on the held ends; only the config drive, links of extended
partitions and the zeroing of the image's own old backup table go to the disks. Both ends stay in memory for
the commit.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.errors import BootEsp, GptRelocate
from agent.formats.tables.gpt import Gpt, is_mirror, parse_backup, renewed
from agent.formats.tables.layout import (
    FinishedTable,
    absent_note,
    absent_partitions,
    drive_candidates,
    finish_head,
    is_drive,
    logicals_damaged,
    place_drive,
    stale_backup,
)
from agent.formats.tables.mbr import Logical, Mbr, parse_logicals
from agent.formats.tables.read import Partition, Table, TableError, read_table
from agent.formats.tables.superblock import LABEL_BYTES
from agent.host import fat
from agent.host.parttable import PartedMissing
from agent.stages.context import Context
from agent.stages.libparted import complaint_about, keep_complaint, keep_missing
from agent.stages.mirror import Mirror, make_mirror, write_member
from agent.stages.targets import Target
from agent.units import MiB


def finish(ctx: Context) -> None:
    """Blocking; run in a thread.

    Raises:
        GptRelocate: the table does not fit the disk.
        ConfigDriveCreate: there is no room or no slot after all.
        ImageDamaged: the image's logical partitions cannot be followed.
        BootEsp: the named boot loader is not on the ESP.
        DiskIo: a disk failed.
    """
    try:
        found = ctx.from_any(lambda target: _look(ctx, target))
        _choose_slots(ctx, found)
        mirror = None
        if ctx.job.raid is not None:
            mirror = ctx.from_any(lambda target: make_mirror(ctx, found.table, target))
        for number, target in enumerate(ctx.targets):
            if target.failed is None:
                with ctx.using(target):
                    _finish_one(ctx, target, number, found, mirror)
    except TableError as error:
        raise GptRelocate(detail=str(error)) from error


@dataclass(frozen=True, slots=True)
class _Found:
    """What finish finds on one of the disks: it is the same on all."""

    table: Table
    logicals: tuple[Logical, ...]
    records: Mapping[int, bytes]
    """All EBRs by their offsets, those without a partition too."""
    own_drive: Partition | None
    """The image's own config-2 partition."""


def _look(ctx: Context, target: Target) -> _Found:
    table = _held_table(ctx, target)
    logicals, records = _logicals(target, table)
    _check_bootloader(ctx, target, table)
    own = None if ctx.drive is None else _own_drive(target, (*table.partitions, *logicals))
    return _Found(table, logicals, records, own)


def _finish_one(ctx: Context, target: Target, number: int, found: _Found, mirror: Mirror | None) -> None:
    own = found.own_drive
    if own is not None and not _fits(ctx, own):
        # Readers take the first drive of that label that they find: the image's old one must not be it.
        target.opened()[1].zero(own.start, own.size)
    _place(ctx, target, found, _own_table(ctx, number, found.table, mirror))
    if mirror is not None:
        write_member(target, mirror, number)
    target.opened()[0].flush()


def _own_table(ctx: Context, number: int, table: Table, mirror: Mirror | None) -> Table:
    """The table of the disk `number`, not yet relocated: no two disks of a machine have the same GUIDs."""
    if mirror is not None:
        return mirror.tables[number]
    is_first = ctx.targets[number] is ctx.live[0]
    return table if is_first or not isinstance(table, Gpt) else renewed(table, uuid.uuid4)


def _held_table(ctx: Context, target: Target) -> Table:
    _, image = ctx.examined()
    table = read_table(target.table_window(image), image.table.sector_size if image.table else None)
    if table is None:
        raise TableError("the partition table is gone")
    return table


def _choose_slots(ctx: Context, found: _Found) -> None:
    """Also of a disk that is kept out: its size counts for a mirror."""
    if ctx.drive is None:
        return
    table, own, length = found.table, found.own_drive, len(ctx.drive.image)
    if own is not None and not _fits(ctx, own):
        ctx.note(f"the image's own config drive (partition {own.number}) is too small and was emptied")
        own = None
    for target in ctx.targets:
        size = target.opened()[0].size
        target.slot = place_drive(table, size, table.sector_size, length, found.logicals, own)


def _fits(ctx: Context, part: Partition) -> bool:
    """Whether the config drive can be in the image's own partition for it."""
    return ctx.drive is not None and len(ctx.drive.image) <= part.size


def _place(ctx: Context, target: Target, found: _Found, own: Table) -> None:
    """Write all but the held ends, and put the disk's `own` table into these."""
    table = found.table
    disk, sink = target.opened()
    finished = finish_head(
        bytes(sink.head),
        own,
        disk.size,
        target.slot,
        unique_guid=uuid.uuid4(),
        drive_type=ctx.drive.filesystem if ctx.drive else "iso9660",
        logicals=found.logicals,
    )
    if isinstance(table, Gpt):
        _note_damaged_backup(ctx, target, table)
        for offset, length in stale_backup(table, ctx.guest_size, disk.size):
            sink.zero(offset, length)
    _empty_absent(ctx, target, table)
    _write_drive(ctx, target)
    for offset, data in (*finished.other_writes, *finished.tail_writes):
        sink.write(offset, memoryview(data))
    sink.head[:] = finished.head
    _ask_libparted(ctx, target, finished, found.records)


def _ask_libparted(
    ctx: Context, target: Target, finished: FinishedTable, records: Mapping[int, bytes]
) -> None:
    """Ask libparted where preflight could not: what it complains about before the commit is the image's doing."""
    disk, _ = target.opened()
    _, image = ctx.examined()
    if image.libparted is not None or image.libparted_missing:
        return
    writes = (*records.items(), (0, finished.head), *finished.tail_writes, *finished.other_writes)
    try:
        keep_complaint(ctx, complaint_about(ctx.machine, finished.table, writes, disk.size))
    except PartedMissing:
        keep_missing(ctx)


def _note_damaged_backup(ctx: Context, target: Target, table: Gpt) -> None:
    """The backup is made anew from the primary in any case; say so where the image's own was not sound."""
    length = min(ctx.guest_size, MiB)
    try:
        tail = target.opened()[1].read(ctx.guest_size - length, length)
        same = is_mirror(table, parse_backup(tail, table.sector_size, ctx.guest_size))
        fault = None if same else "it is not the copy of the primary"
    except TableError as error:
        fault = str(error)
    if fault is not None:
        _note(
            ctx,
            target,
            f"the image's own backup GPT is not sound ({fault}): a new one was made from the primary",
        )


def _note(ctx: Context, target: Target, text: str) -> None:
    """Say something of the image, which is the same on all disks, once."""
    if target is ctx.live[0]:
        ctx.note(text)


def _empty_absent(ctx: Context, target: Target, table: Table) -> None:
    """Zero the partitions that the image did not bring: nothing of what the disk held before may show in them."""
    _, sink = target.opened()
    absent = absent_partitions(table, ctx.guest_size)
    for part in absent:
        sink.zero(part.start, part.size)
    if absent:
        _note(ctx, target, absent_note(absent, ctx.guest_size))


def _write_drive(ctx: Context, target: Target) -> None:
    if ctx.drive is None or target.slot is None:
        return
    _, sink = target.opened()
    length = len(ctx.drive.image)
    sink.write(target.slot.start, memoryview(ctx.drive.image))
    # The rest of the partition may hold another user's bytes: they must not show through.
    sink.zero(target.slot.start + length, target.slot.size - length)


def _logicals(target: Target, table: Table) -> tuple[tuple[Logical, ...], Mapping[int, bytes]]:
    """The logical partitions, and all EBRs by their offsets, those without a partition too."""
    records: dict[int, bytes] = {}
    if not isinstance(table, Mbr) or table.extended is None:
        return (), records

    def read(offset: int, length: int) -> bytes:
        records[offset] = target.opened()[1].read(offset, length)
        return records[offset]

    try:
        return parse_logicals(read, table.extended, table.sector_size), records
    except TableError as error:
        raise logicals_damaged(str(error)) from error


def _own_drive(target: Target, partitions: Iterable[Partition]) -> Partition | None:
    """The image's own config-2 partition, by the label of its filesystem."""
    _, sink = target.opened()
    candidates = drive_candidates(partitions)
    return next((part for part in candidates if is_drive(sink.read(part.start, LABEL_BYTES))), None)


def _check_bootloader(ctx: Context, target: Target, table: Table) -> None:
    wanted = ctx.job.efi_bootloader_path
    if wanted is None:
        return
    disk, sink = target.opened()
    esps = [part for part in table.partitions if part.is_esp]
    for esp in esps:
        if esp.start < len(sink.head) or esp.start + esp.size > sink.tail_offset:
            raise BootEsp(
                detail=f"partition {esp.number} reaches into an end of the disk: {wanted} cannot be checked"
            )
        try:
            if ctx.machine.esp_has_file(disk.path, esp.start, wanted):
                return
        except fat.FatUnsound as error:
            raise BootEsp(
                detail=f"the ESP, partition {esp.number}, cannot be read: {error.strerror}",
                hint="The image's ESP is damaged: check it (fsck.vfat) and upload the image again.",
            ) from error
    raise BootEsp(
        detail=f"efiBootloaderPath {wanted} does not exist on the ESP",
        hint="Name a file that is on the ESP, or leave efiBootloaderPath out for the fallback path.",
    )
