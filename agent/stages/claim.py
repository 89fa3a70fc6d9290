"""Claim: take the disk exclusively and make it unbootable, before anything else is written.

Stacks that sit on it (md, LVM, dm) are stopped, the disk is opened exclusively, and both its ends are zeroed
and flushed before anything else is written: from here to the commit no old system on it can boot. Then the
stale signatures of the old partitions go, so that no array or volume group comes back to life inside the new
system.
"""

import errno

from agent.errors import DiskBusy, DiskIo
from agent.formats.tables.existing import read_existing
from agent.formats.tables.layout import Ranges, stale_signature_ranges
from agent.model.disks import Disk
from agent.stages.context import HEAD_BYTES, TAIL_BYTES, Context
from agent.stages.faults import disk_fault
from agent.stages.held_ends import HeldEnds
from agent.stages.machine import Machine, OpenDisk

_CHANGED_HINT = (
    "It was not written to. `byoi disks` shows what is there now; deploy again if that is the right disk."
)


def claim(ctx: Context) -> None:
    """Blocking; run in a thread.

    Raises:
        DiskBusy: something holds the disk that may not be stopped.
        DiskIo: it cannot be opened or written, or is not the disk that was examined any more.
    """
    path = ctx.target.path
    try:
        if ctx.target.kind != "file":
            # Before the stacks of another disk would be stopped.
            _accept(ctx.target, ctx.machine.identity_at(path))
            for step in ctx.machine.stop_stacks(ctx.target):
                ctx.note(f"stopped: {step}")
        ctx.disk = _open(ctx)
        ctx.sink = HeldEnds(ctx.disk, HEAD_BYTES, TAIL_BYTES)
        _wipe(ctx.disk, ctx.machine)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskBusy(device=path, holder=error.strerror or "something holds it") from error
        raise disk_fault(path, error) from error


def _open(ctx: Context) -> OpenDisk:
    """Open the disk that was examined: only what is accepted becomes the deployment's, to write to and to wipe."""
    target = ctx.target
    disk = ctx.machine.open_disk(target.path)
    try:
        _accept(target, disk.identity)
        if disk.size != target.size:
            raise DiskIo(
                device=target.path,
                reason=f"its size changed from {target.size} to {disk.size} bytes",
                hint=_CHANGED_HINT,
            )
    except BaseException:
        disk.close()
        raise
    return disk


def _accept(target: Disk, identity: tuple[int, ...]) -> None:
    if identity != target.identity:
        reason = "it is another disk now than when it was examined"
        raise DiskIo(device=target.path, reason=reason, hint=_CHANGED_HINT)


def _wipe(disk: OpenDisk, machine: Machine) -> None:
    """Zero both ends, flush, and only then the signatures of the partitions that were there."""
    stale = _stale_ranges(disk)
    wipe_ends(disk)
    for offset, length in stale:
        disk.zero(offset, length)
    disk.flush()
    if disk.reread_partitions():
        machine.settle()


def _stale_ranges(disk: OpenDisk) -> Ranges:
    """The ranges of the old partitions' signatures; none where neither copy of their table can be read."""
    old = read_existing(disk.read, disk.size, disk.sector_size)
    return () if old.table is None else stale_signature_ranges(old.table, disk.size, old.logicals)


def wipe_ends(disk: OpenDisk) -> None:
    """Zero the first and the last MiB and flush: the disk cannot boot from here on.

    The first sector goes first, and for good, before any other is touched: a power cut in the middle of the rest finds
    no firmware that would boot what is left.
    """
    first = disk.sector_size or 512
    disk.zero(0, first)
    disk.flush()
    disk.zero(first, HEAD_BYTES - first)
    disk.zero(disk.size - TAIL_BYTES, TAIL_BYTES)
    disk.flush()
