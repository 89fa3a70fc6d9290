"""Claim: take the disk exclusively and make it unbootable, before anything else is written.

Stacks that sit on it (md, LVM, dm) are stopped, the disk is opened exclusively, and both its ends are zeroed
and flushed before anything else is written: from here to the commit no old system on it can boot. Then the
stale signatures of the old partitions go, so that no array or volume group comes back to life inside the new
system.
"""

import errno

from agent.errors import DiskBusy
from agent.host.faults import disk_fault
from agent.host.taking import require_identity, require_size
from agent.host.wipe import wipe_metadata
from agent.stages.context import HEAD_BYTES, TAIL_BYTES, Context
from agent.stages.held_ends import HeldEnds
from agent.stages.machine import OpenDisk


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
            require_identity(ctx.target, ctx.machine.identity_at(path))
            for step in ctx.machine.stop_stacks(ctx.target):
                ctx.note(f"stopped: {step}")
        ctx.disk = _open(ctx)
        ctx.sink = HeldEnds(ctx.disk, HEAD_BYTES, TAIL_BYTES)
        wipe_metadata(ctx.disk, ctx.machine.settle)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskBusy(device=path, holder=error.strerror or "something holds it") from error
        raise disk_fault(path, error) from error


def _open(ctx: Context) -> OpenDisk:
    """Open the disk that was examined: only what is accepted becomes the deployment's, to write to and to wipe."""
    target = ctx.target
    disk = ctx.machine.open_disk(target.path)
    try:
        require_identity(target, disk.identity)
        require_size(target, disk.size)
    except BaseException:
        disk.close()
        raise
    return disk
