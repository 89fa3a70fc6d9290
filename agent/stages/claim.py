"""Claim: take the disks exclusively and make them unbootable, before anything else is written.

Stacks that sit on a disk (md, LVM, dm) are stopped, the disk is opened exclusively, and both its ends are zeroed
and flushed before anything else is written: from here to the commit no old system on it can boot. Then the
stale signatures of the old partitions go, so that no array or volume group comes back to life inside the new
system. Of several disks all are opened before the first one is written to: one that cannot be taken is refused, also
where one that fails later is kept out.
"""

import errno
from contextlib import ExitStack

from agent.errors import DiskBusy
from agent.host.faults import disk_fault
from agent.host.taking import require_identity, require_size
from agent.host.wipe import wipe_metadata
from agent.model.disks import Disk
from agent.stages.context import HEAD_BYTES, TAIL_BYTES, Context
from agent.stages.held_ends import HeldEnds
from agent.stages.machine import OpenDisk


def claim(ctx: Context) -> None:
    """Blocking; run in a thread.

    Raises:
        DiskBusy: something holds the disk that may not be stopped.
        DiskIo: it cannot be opened or written, or is not the disk that was examined any more.
    """
    for target, disk in zip(ctx.targets, _take_all(ctx), strict=True):
        target.disk, target.sink = disk, HeldEnds(disk, HEAD_BYTES, TAIL_BYTES)
    ctx.open_sink()
    for target in ctx.targets:
        with ctx.using(target):
            wipe_metadata(target.opened()[0], ctx.machine.settle)
        target.wiped = True


def _take_all(ctx: Context) -> list[OpenDisk]:
    """Open all disks, or none: only what is accepted becomes the deployment's, to write to and to wipe."""
    with ExitStack() as on_failure:
        disks = []
        for target in ctx.targets:
            disks.append(_take(ctx, target.found))
            on_failure.callback(disks[-1].close)
        on_failure.pop_all()
    return disks


def _take(ctx: Context, found: Disk) -> OpenDisk:
    try:
        if found.kind != "file":
            # Before the stacks of another disk would be stopped.
            require_identity(found, ctx.machine.identity_at(found.path))
            for step in ctx.machine.stop_stacks(found):
                ctx.note(f"stopped: {step}")
        return _open(ctx, found)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskBusy(device=found.path, holder=error.strerror or "something holds it") from error
        raise disk_fault(found.path, error) from error


def _open(ctx: Context, found: Disk) -> OpenDisk:
    """Open the disk that was examined."""
    disk = ctx.machine.open_disk(found.path)
    try:
        require_identity(found, disk.identity)
        require_size(found, disk.size)
    except BaseException:
        disk.close()
        raise
    return disk
