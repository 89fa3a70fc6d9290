"""Whether two paths lead to the same storage: an image must not be read from the disk that it is written to.

Files and devices are compared by identity, never by name: a file by its filesystem and inode, a device by its number.
What a file or device lies on is followed down: the filesystem's devices, the disk of a partition, what md, LVM and dm
are made of, the backing file of a loop device. It only reads; used by the preflight, through a thread.
"""

import os
import stat
from pathlib import Path

from agent.host import holders, mounts
from agent.host.holders import BlockTree
from agent.host.mounts import Mount

_Identity = str | tuple[int, int]
"""`major:minor` of a device, or a file's filesystem and inode."""


def shared_storage(source: str, target: str) -> str | None:
    """Why writing to the target would destroy or change the source, in words; None where it would not.

    Two files on one filesystem share nothing: one of the two has to lie on the other, or to be it.

    Args:
        source: a path to a regular file or block device; links are followed.
        target: the same.

    Raises:
        OSError: there is nothing at a path, or sysfs or /proc cannot be read.
    """
    layers = _Layers(holders.read_tree(), mounts.read_mounts())
    of_source, of_target = _identity(Path(source).stat()), _identity(Path(target).stat())
    shown = os.path.realpath(source)
    if of_source == of_target:
        return f"{shown} is the target {target} itself"
    if of_target in layers.below(source):
        return f"{shown} lies on the target {target}"
    if of_source in layers.below(target):
        return f"the target {target} lies on {shown}"
    return None


def _identity(info: os.stat_result) -> _Identity:
    if stat.S_ISBLK(info.st_mode):
        return _number(info.st_rdev)
    return info.st_dev, info.st_ino


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


class _Layers:
    """What lies below what, at one moment."""

    def __init__(self, tree: BlockTree, mounted: tuple[Mount, ...]) -> None:
        self._tree = tree
        self._mounted = mounted

    def below(self, path: str) -> set[_Identity]:
        """All that the bytes of a file or device lie on, itself included."""
        found: set[_Identity] = set()
        waiting = [path]
        while waiting:
            path = waiting.pop()
            try:
                info = Path(path).stat()
            except OSError:
                continue  # the file of a loop device that has been deleted: no path leads to it any more
            found.add(_identity(info))
            devices = [_number(info.st_rdev)] if stat.S_ISBLK(info.st_mode) else self._devices_of(path, info)
            for node in self._tree.all_below(devices):
                found.add(node.dev)
                waiting += [node.backing_file] if node.backing_file else []
        return found

    def _devices_of(self, path: str, info: os.stat_result) -> list[str]:
        """The numbers of the devices that a file's filesystem is on."""
        if os.major(info.st_dev):
            return [_number(info.st_dev)]
        mount = mounts.covering(self._mounted, os.path.realpath(path))
        return [] if mount is None else list(holders.mount_devices(mount, self._tree))
