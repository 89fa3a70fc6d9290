"""Commit: the disk becomes bootable in one write, last; then it is read back from the device and checked.

Order of durability: everything else (flushed by `finish`), the tail with the backup table, the head but for
its first sector, and the first sector, each flushed before the next. A power cut between any two leaves a
disk without a first sector, which no firmware boots.
"""

import hashlib

from agent.errors import DiskIo, ToolMissing, VerifyFailed
from agent.formats.gpt import Gpt, is_mirror, parse_backup
from agent.formats.table import TableError, read_table
from agent.host import drive as drives
from agent.host import parttable, udev
from agent.host.disk import TargetDisk
from agent.model.seal import Seal
from agent.stages.context import Context


def seal(ctx: Context) -> Seal:
    """What the ends of the disk will hold after the commit. Blocking: it hashes two MiB."""
    disk, sink = ctx.opened()
    return Seal(
        path=disk.path,
        size=disk.size,
        head_length=len(sink.head),
        head_sha256=hashlib.sha256(sink.head).hexdigest(),
        tail_length=len(sink.tail),
        tail_sha256=hashlib.sha256(sink.tail).hexdigest(),
        checksum=f"{ctx.digest.algorithm}:{ctx.digest.hexdigest()}",
    )


def is_committed(sealed: Seal) -> bool:
    """Whether the disk holds, on the device and not in a cache, what its seal says. Blocking.

    Raises:
        OSError: the disk cannot be opened or read.
    """
    disk = TargetDisk(sealed.path)
    try:
        if disk.size != sealed.size:
            return False
        disk.drop_cache()
        head = disk.read(0, sealed.head_length)
        tail = disk.read(disk.size - sealed.tail_length, sealed.tail_length)
    finally:
        disk.close()
    digests = hashlib.sha256(head).hexdigest(), hashlib.sha256(tail).hexdigest()
    return digests == (sealed.head_sha256, sealed.tail_sha256)


def commit(ctx: Context) -> None:
    """Blocking; run in a thread.

    Raises:
        DiskIo: the disk failed.
        VerifyFailed: what reads back is not what was written.
    """
    disk, sink = ctx.opened()
    _, image = ctx.examined()
    first = image.table.sector_size if image.table is not None else 512
    try:
        disk.write(sink.tail_offset, bytes(sink.tail))
        disk.flush()
        disk.write(first, bytes(sink.head[first:]))
        disk.flush()
        disk.write(0, bytes(sink.head[:first]))
        disk.drop_cache()
        fault = _fault(ctx)
    except OSError as error:
        raise DiskIo(device=disk.path, reason=error.strerror or str(error)) from error
    if fault is not None:
        raise VerifyFailed(device=disk.path, reason=fault)


def settle(ctx: Context) -> None:
    """Let the kernel and udev see the new table. Nothing that was written needs either, so their faults are notes."""
    disk, _ = ctx.opened()
    try:
        if disk.reread_partitions():
            udev.settle()
    except (OSError, ToolMissing) as error:
        ctx.note(f"the kernel was not told about the new partition table: {error}")


def _fault(ctx: Context) -> str | None:
    disk, sink = ctx.opened()
    if disk.read(0, len(sink.head)) != sink.head:
        return "the first MiB differs"
    if disk.read(sink.tail_offset, len(sink.tail)) != sink.tail:
        return "the last MiB differs"
    return _table_fault(ctx) or _drive_fault(ctx)


def _table_fault(ctx: Context) -> str | None:
    disk, sink = ctx.opened()
    _, image = ctx.examined()
    sector_size = image.table.sector_size if image.table is not None else None
    try:
        table = read_table(bytes(sink.head), sector_size)
        if table is None:
            return "there is no partition table"
        if isinstance(table, Gpt):
            backup = parse_backup(bytes(sink.tail), table.sector_size, disk.size)
            if not is_mirror(table, backup):
                return "the backup GPT is not the copy of the primary"
    except TableError as error:
        return str(error)
    if disk.sector_size is None and table.sector_size != 512:
        return None  # libparted takes every regular file for a disk of 512-byte sectors
    return _parted_fault(disk.path, {(part.start, part.size) for part in table.partitions})


def _parted_fault(path: str, expected: set[tuple[int, int]]) -> str | None:
    report = parttable.read_partitions(path)
    seen = {(part.start, part.size) for part in report.partitions}
    missing = sorted(expected - seen)
    if missing:
        start, size = missing[0]
        return f"libparted does not see the partition at byte {start} of {size} bytes"
    return None


def _drive_fault(ctx: Context) -> str | None:
    if ctx.drive is None or ctx.slot is None:
        return None
    disk, _ = ctx.opened()
    data = disk.read(ctx.slot.start, len(ctx.drive.image))
    return drives.verify_drive(data, ctx.drive, ctx.drive_tree)
