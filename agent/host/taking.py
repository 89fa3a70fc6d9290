"""Takes a disk that was examined before: it must still be that disk, and nothing may hold it.

Used by the claim stage and by the erasure of disks. Everything blocks.
"""

from agent.errors import DiskIo
from agent.host import holders
from agent.host.disk import TargetDisk, read_identity
from agent.model.disks import Disk

_CHANGED_HINT = (
    "It was not written to. `byoi disks` shows what is there now; deploy again if that is the right disk."
)


def require_identity(examined: Disk, identity: tuple[int, ...]) -> None:
    """Refuse another disk under the name of the one that was examined.

    Raises:
        DiskIo: the identities differ.
    """
    if identity != examined.identity:
        reason = "it is another disk now than when it was examined"
        raise DiskIo(device=examined.path, reason=reason, hint=_CHANGED_HINT)


def require_size(examined: Disk, size: int) -> None:
    """Refuse a disk whose size (in bytes) changed since it was examined.

    Raises:
        DiskIo: the sizes differ.
    """
    if size != examined.size:
        reason = f"its size changed from {examined.size} to {size} bytes"
        raise DiskIo(device=examined.path, reason=reason, hint=_CHANGED_HINT)


def take(examined: Disk) -> tuple[TargetDisk, tuple[str, ...]]:
    """Stop the md, LVM and dm stacks on a disk and open it exclusively; nothing is written.

    Returns:
        The disk, which the caller closes, and what was stopped, in words.

    Raises:
        DiskIo: it is not the disk that was examined any more.
        OSError: EBUSY if something holds it that may not be stopped; a stack cannot be stopped; it cannot be opened.
        ToolMissing: the rescue system lacks mdadm or dmsetup.
    """
    stopped: tuple[str, ...] = ()
    if examined.kind != "file":
        # Before the stacks of another disk would be stopped.
        require_identity(examined, read_identity(examined.path))
        stopped = tuple(f"stopped: {step}" for step in holders.release(examined))
    disk = TargetDisk(examined.path)
    try:
        require_identity(examined, disk.identity)
        require_size(examined, disk.size)
    except BaseException:
        disk.close()
        raise
    return disk, stopped
