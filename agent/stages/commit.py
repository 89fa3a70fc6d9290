"""Commit: a disk becomes bootable in one write, last; then its ends and the config drive are read back and checked.

Order of durability: everything else (flushed by `finish`), the tail with the backup table, the head but for
its first sector, and the first sector, each flushed before the next. A power cut between any two leaves a
disk without a first sector, which no firmware boots. Of several disks the first sectors come last, one after the
other: each disk is blank or whole at any time. One that is kept out is blanked at once, and the seal has to be made
again.
"""

import hashlib
import json
import time
from collections.abc import Callable

from agent.errors import ToolMissing, VerifyFailed
from agent.formats.tables.gpt import Gpt, is_mirror, parse_backup
from agent.formats.tables.partition import TABLE_REACH
from agent.formats.tables.read import Table, TableError, read_table
from agent.host import drive as drives
from agent.host import parttable
from agent.host.readback import ReadBack
from agent.model.seal import KeptOut, Seal, SealedDisk
from agent.model.verification import READBACK
from agent.stages.context import Context
from agent.stages.libparted import keep_missing, missing_partition
from agent.stages.targets import Target

# Seconds between the tries to read a disk that fails or is not there yet: 8 s in all.
_RETRY_DELAYS = (0.5, 0.5, 1.0, 2.0, 4.0)


def seal(ctx: Context) -> Seal:
    """What the ends of the disks will hold after the commit. Blocking: it hashes two MiB of each."""
    return Seal(
        disks=tuple(_sealed(ctx, target) for target in ctx.live),
        checksum=f"{ctx.digest.algorithm}:{ctx.digest.hexdigest()}",
        image_type=ctx.container,
        image_packing=ctx.packing or "",
        signature="" if ctx.vouched is None else json.dumps(ctx.vouched),
        read_back=READBACK if ctx.reads_back else "",
        registry="" if ctx.resolved is None else json.dumps(ctx.resolved.document()),
        kept_out=tuple(
            KeptOut(target.found.path, target.found.size, target.failed)
            for target in ctx.targets
            if target.failed is not None
        ),
    )


def _sealed(ctx: Context, target: Target) -> SealedDisk:
    disk, sink = target.opened()
    written = b"" if ctx.drive is None or target.slot is None else ctx.drive.image
    return SealedDisk(
        path=disk.path,
        size=disk.size,
        head_length=len(sink.head),
        head_sha256=hashlib.sha256(sink.head).hexdigest(),
        tail_length=len(sink.tail),
        tail_sha256=hashlib.sha256(sink.tail).hexdigest(),
        sector_size=_table_sector_size(ctx) or 512,
        drive_offset=0 if target.slot is None else target.slot.start,
        drive_length=len(written),
        drive_sha256=hashlib.sha256(written).hexdigest() if written else "",
    )


def is_committed(sealed: SealedDisk, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Whether a disk holds, on the device and not in a cache, what its seal says. Blocking.

    The checks are those of the commit, but libparted is not asked. The disk is not claimed, so it does not matter
    whether something uses it by now.

    Args:
        sealed: what to look for.
        sleep: waits between the tries: a disk may need some seconds to come or to answer.

    Raises:
        OSError: the disk could not be opened or read in any of the tries.
    """
    for delay in _RETRY_DELAYS:
        try:
            return _is_whole(sealed)
        except OSError:
            sleep(delay)
    return _is_whole(sealed)


def _is_whole(sealed: SealedDisk) -> bool:
    with ReadBack(sealed.path) as disk:
        if disk.size != sealed.size:
            return False
        head = disk.read(0, sealed.head_length)
        tail = disk.read(disk.size - sealed.tail_length, sealed.tail_length)
        digests = hashlib.sha256(head).hexdigest(), hashlib.sha256(tail).hexdigest()
        if digests != (sealed.head_sha256, sealed.tail_sha256):
            return False
        try:
            _sound_table(disk.read(0, min(disk.size, TABLE_REACH)), tail, sealed.sector_size, sealed.size)
        except TableError:
            return False
        length = sealed.drive_length
        return length == 0 or disk.sha256(sealed.drive_offset, length) == sealed.drive_sha256


def commit(ctx: Context) -> None:
    """Blocking; run in a thread.

    Raises:
        DiskIo: a disk failed.
        VerifyFailed: what reads back is not what was written.
    """
    first = _table_sector_size(ctx) or 512
    for step in (_write_ends, _write_first_sector):
        for target in ctx.live:
            with ctx.using(target):
                step(target, first)
    for target in ctx.live:
        with ctx.using(target):
            _check(ctx, target)


def _write_ends(target: Target, first: int) -> None:
    """Write both ends but for the first sector, of `first` bytes."""
    disk, sink = target.opened()
    disk.write(sink.tail_offset, bytes(sink.tail))
    disk.flush()
    disk.write(first, bytes(sink.head[first:]))
    disk.flush()


def _write_first_sector(target: Target, first: int) -> None:
    disk, sink = target.opened()
    disk.write(0, bytes(sink.head[:first]))
    disk.drop_cache()


def _check(ctx: Context, target: Target) -> None:
    fault = _fault(ctx, target)
    if fault is not None:
        raise VerifyFailed(device=target.found.path, reason=fault)


def settle(ctx: Context) -> None:
    """Let the kernel and udev see the new tables. Nothing that was written needs either, so their faults are notes."""
    try:
        told = [target.opened()[0].reread_partitions() for target in ctx.live]
        if any(told):
            ctx.machine.settle()
    except (OSError, ToolMissing) as error:
        ctx.note(f"the kernel was not told about the new partition table: {error}")


def _fault(ctx: Context, target: Target) -> str | None:
    disk, sink = target.opened()
    if disk.read(0, len(sink.head)) != sink.head:
        return "the first MiB differs"
    if disk.read(sink.tail_offset, len(sink.tail)) != sink.tail:
        return "the last MiB differs"
    return _table_fault(ctx, target) or _drive_fault(ctx, target)


def _table_sector_size(ctx: Context) -> int | None:
    _, image = ctx.examined()
    return image.table.sector_size if image.table is not None else None


def _table_fault(ctx: Context, target: Target) -> str | None:
    disk, sink = target.opened()
    _, image = ctx.examined()
    try:
        table = _sound_table(target.table_window(image), bytes(sink.tail), _table_sector_size(ctx), disk.size)
    except TableError as error:
        return str(error)
    if disk.sector_size is None and table.sector_size != 512:
        return None  # libparted takes every regular file for a disk of 512-byte sectors
    return _parted_fault(ctx, target, table)


def _sound_table(head: bytes, tail: bytes, sector_size: int | None, disk_size: int) -> Table:
    """The table of a disk by its two ends.

    Raises:
        TableError: there is none, or its copies differ.
    """
    table = read_table(head, sector_size)
    if table is None:
        raise TableError("there is no partition table")
    if isinstance(table, Gpt) and not is_mirror(table, parse_backup(tail, table.sector_size, disk_size)):
        raise TableError("the backup GPT is not the copy of the primary")
    return table


def _parted_fault(ctx: Context, target: Target, table: Table) -> str | None:
    """What libparted finds on the disk that it did not find in the image."""
    disk, _ = target.opened()
    _, image = ctx.examined()
    if image.libparted or image.libparted_missing:
        return None  # it does not read this table on any disk, or is not there
    try:
        fault = missing_partition(ctx.machine.partitions_on(disk.path), table.partitions)
    except parttable.TableRefused as error:
        fault = error.strerror
    except parttable.PartedMissing:
        keep_missing(ctx)
        return None
    if fault is not None and image.libparted is None:
        # It was not asked before, so the image may be why; the disk has just given back what it was given.
        ctx.note(f"libparted does not read the partition table: {fault}")
        return None
    return fault


def _drive_fault(ctx: Context, target: Target) -> str | None:
    if ctx.drive is None or target.slot is None:
        return None
    disk, _ = target.opened()
    data = disk.read(target.slot.start, len(ctx.drive.image))
    return drives.verify_drive(data, ctx.drive, ctx.drive_tree)
