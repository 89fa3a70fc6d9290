"""Finds out whether two paths share storage, so that an image is not read from the disk that it is written to.

Files and devices are compared by identity, never by name: a file by its filesystem and inode, a device by its number.
The layers below a file or device are followed: the devices of its filesystem, the disk of a partition, the members of
md, LVM and dm, the backing file of a loop device. It only reads. Called in preflight, in a thread.
"""

import os
import stat
from pathlib import Path

from agent.host import blocktree, holders, mounts
from agent.host.blocktree import BlockTree
from agent.host.mounts import Mount

_Identity = str | tuple[int, int]
"""`major:minor` of a device, or a file's filesystem and inode."""


def shared_storage(source: str, target: str) -> str | None:
    """Why writing to the target would change the source, in words for people; None if it would not.

    Two different files on one filesystem share nothing; one of the two has to be stored on the other, or be the same.

    Args:
        source: a path to a regular file or block device; links are followed.
        target: the same.

    Raises:
        OSError: a path does not exist, or sysfs or /proc cannot be read.
    """
    layers = _Layers(blocktree.read_tree(), mounts.read_mounts())
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
        return blocktree.format_number(info.st_rdev)
    return info.st_dev, info.st_ino


class _Layers:
    """The stacking of block devices and mounts at one moment."""

    def __init__(self, tree: BlockTree, mounted: tuple[Mount, ...]) -> None:
        self._tree = tree
        self._mounted = mounted

    def below(self, path: str) -> set[_Identity]:
        """The identities of a file or device and of all layers that store its bytes."""
        found: set[_Identity] = set()
        waiting = [path]
        while waiting:
            path = waiting.pop()
            try:
                info = Path(path).stat()
            except OSError:
                continue  # the deleted backing file of a loop device, which no path leads to
            found.add(_identity(info))
            devices = (
                [blocktree.format_number(info.st_rdev)]
                if stat.S_ISBLK(info.st_mode)
                else self._devices_of(path, info)
            )
            for node in self._tree.all_below(devices):
                found.add(node.dev)
                waiting += [node.backing_file] if node.backing_file else []
        return found

    def _devices_of(self, path: str, info: os.stat_result) -> list[str]:
        """The numbers (`major:minor`) of the devices of a file's filesystem."""
        if os.major(info.st_dev):
            return [blocktree.format_number(info.st_dev)]
        mount = mounts.covering(self._mounted, os.path.realpath(path))
        return [] if mount is None else list(holders.mount_devices(mount, self._tree))
