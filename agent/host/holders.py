"""Finds what holds a disk (mounts, swap, md, LVM, device-mapper, loop devices), and stops the stacks on it.

Owns the list of a disk's holders and the commands that stop md, LVM and other device-mapper devices; what is stacked on
what is in `agent.host.blocktree`. Used by the inventory and the claim stage. Nothing here unmounts a filesystem,
switches swap off or writes to a disk. A stack that spans other disks is stopped as a whole, which does no harm in a
rescue system. If `release` fails, a part of the stack may be stopped already; it can be called again.
"""

import errno
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.host import mounts, process
from agent.host.blocktree import BlockTree, Node, device_number, read_tree
from agent.host.mounts import Mount, Swap
from agent.model.disks import Disk, Holder, HolderKind
from agent.text import printable

_LV_HYPHEN = re.compile(r"(?<!-)-(?!-)")

# For each device number how it is used: pairs of kind, and mount point or path of the swap area.
Uses = Mapping[str, tuple[tuple[Literal["mount", "swap"], str], ...]]


def mount_devices(
    mount: Mount, tree: BlockTree, number: Callable[[str], str | None] = device_number
) -> tuple[str, ...]:
    """The numbers of all devices of a mount. btrfs and bcachefs span several, and their own number is no device's."""
    devs = [mount.dev]
    if mount.dev.startswith("0:"):
        # The source of a bcachefs is the list of its devices, separated by colons.
        paths = (path for path in mount.source.split(":") if path.startswith("/"))
        devs = [dev for dev in map(number, paths) if dev is not None]
    if mount.fs_type == "btrfs":
        names = {node.name for node in map(tree.by_dev, devs) if node is not None}
        members = {name for group in tree.btrfs if group & names for name in group}
        devs += [tree.nodes[name].dev for name in sorted(members - names) if name in tree.nodes]
    return tuple(devs)


def uses(
    mounted: Sequence[Mount],
    swaps: Sequence[Swap],
    tree: BlockTree,
    number: Callable[[str], str | None] = device_number,
) -> Uses:
    """Mounts and swap areas by the number of the device that they are on."""
    found: dict[str, list[tuple[Literal["mount", "swap"], str]]] = {}
    for mount in mounted:
        for dev in mount_devices(mount, tree, number):
            found.setdefault(dev, []).append(("mount", mount.mount_point))
    for swap in swaps:
        # A swap file needs no entry of its own, because its filesystem is mounted.
        area = number(swap.path)
        if area is not None:
            found.setdefault(area, []).append(("swap", swap.path))
    return {dev: tuple(dict.fromkeys(entries)) for dev, entries in found.items()}


def holders_of(name: str, tree: BlockTree, in_use: Uses) -> tuple[Holder, ...]:
    """All holders of a device and of its partitions; the lowest come first.

    Raises:
        OSError: ELOOP if devices are stacked more than 32 deep, as in a cycle.
    """
    node = tree.nodes[name]
    found: list[Holder] = list(_used(node, in_use))
    for upper, lower in reversed(tree.top_down(name)):
        if upper.disk == upper.name:
            found.append(_stacked(upper, lower, tree, in_use))
        found += _used(upper, in_use)
    return tuple(found)


def _used(node: Node, in_use: Uses) -> Iterator[Holder]:
    for kind, where in in_use.get(node.dev, ()):
        yield Holder(kind, node.path, where, node.path, stoppable=False)


def _stacked(upper: Node, lower: Node, tree: BlockTree, in_use: Uses) -> Holder:
    kind = _holder_kind(upper)
    above = [node for node, _ in tree.top_down(upper.name)]
    free = not any(node.dev in in_use for node in [upper, *above])
    stacks = all(
        node.disk != node.name or _holder_kind(node) in ("md", "lvm", "dm") for node in [upper, *above]
    )
    return Holder(kind, upper.path, _where(upper), lower.path, stoppable=free and stacks)


def _holder_kind(node: Node) -> HolderKind:
    if node.dm_uuid.startswith("LVM-"):
        return "lvm"
    if node.name.startswith("dm-"):
        return "dm"
    if node.name.startswith("md"):
        return "md"
    return "bcache" if node.name.startswith("bcache") else "other"


def _where(node: Node) -> str:
    if node.dm_uuid.startswith("LVM-"):
        # The name is `vg-lv`, perhaps with `-layer` behind; a hyphen within vg or lv is doubled.
        return "/".join(part.replace("--", "-") for part in _LV_HYPHEN.split(node.dm_name)[:2])
    return node.dm_name or node.backing_file or node.name


# -- stopping stacks -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StopStep:
    """One command that stops one device of a stack."""

    command: tuple[str, ...]
    why: str
    device: str
    """The stopped device's name in sysfs."""

    def __str__(self) -> str:
        return f"{shlex.join(self.command)}: {self.why}"


def plan_release(disk_name: str, sysfs_root: str = "/sys") -> tuple[StopStep, ...]:
    """The steps that stop all stacks on a disk (its name in sysfs: `sda`); the topmost device comes first.

    Logical volumes are removed by `dmsetup` and not by `lvchange`: this also works if another disk has a volume group
    of the same name or a physical volume is missing, and for the hidden volumes of RAID and thin pools.

    Raises:
        OSError: ENODEV if there is no such disk; ELOOP if its devices are stacked more than 32 deep.
    """
    tree = read_tree(sysfs_root)
    if disk_name not in tree.nodes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"/dev/{disk_name}")
    steps = (_stop(upper, lower) for upper, lower in tree.top_down(disk_name))
    return tuple(step for step in steps if step is not None)


def _stop(upper: Node, lower: Node) -> StopStep | None:
    what = {"md": "array", "lvm": "logical volume", "dm": "mapping"}.get(_holder_kind(upper))
    if upper.disk != upper.name or what is None:
        return None
    is_md = _holder_kind(upper) == "md"
    command = ("mdadm", "--stop", upper.path) if is_md else ("dmsetup", "remove", "--retry", upper.dm_name)
    return StopStep(command, f"the {what} {printable(_where(upper))} sits on {lower.path}", upper.name)


def release(disk: Disk) -> tuple[StopStep, ...]:
    """Stop the md, LVM and dm devices on a disk, then make sure that nothing holds it.

    Returns:
        The steps that were taken.

    Raises:
        OSError: EBUSY with the mounts, swap areas and other holders that cannot be stopped (then nothing was stopped),
            or with what still holds the disk afterwards; ProcessFailed if a step failed.
        ToolMissing: the rescue system lacks mdadm or dmsetup.
    """
    node = _refuse_used(disk.path, stacks=False)
    if node is None:
        return ()
    taken = []
    for step in plan_release(node.name):
        # Stopping one device may have stopped others: a container its arrays, a thin pool its hidden volumes.
        if Path("/sys/class/block", step.device).exists():
            process.run(step.command)
            taken.append(step)
    assert_free(disk.path)
    return tuple(taken)


def assert_free(path: str) -> None:
    """Check that nothing uses a disk: no device is on it, and the kernel grants an exclusive claim.

    The claim also fails for holders that sysfs does not show: ZFS, an external journal, a mount in another namespace.
    It is released at once; `TargetDisk` claims the disk again.

    Raises:
        OSError: EBUSY with the holder, or the disk cannot be opened.
    """
    if _refuse_used(path, stacks=True) is None:
        return
    try:
        # Read-only: when a writable descriptor is closed, udev probes the disk and may start the stacks again.
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OSError(errno.EBUSY, "held by something that the kernel does not name", path) from error


def _refuse_used(path: str, *, stacks: bool) -> Node | None:
    """Read the holders of a disk and raise EBUSY if there are any; md, LVM and dm count only with `stacks`.

    Returns:
        The disk's device, or None for a regular file.
    """
    tree, number = read_tree(), device_number(path)
    node = tree.by_dev(number) if number is not None else None
    if node is not None:
        current = holders_of(node.name, tree, uses(mounts.read_mounts(), mounts.read_swaps(), tree))
        found = [holder.reason() or (f"held by {holder.name}" if stacks else "") for holder in current]
    elif number is not None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)
    else:
        found = [f"attached as {device}" for device in loops_of(path, tree)]
    reasons = dict.fromkeys(filter(None, found))
    if reasons:
        raise OSError(errno.EBUSY, ", ".join(reasons), path)
    return node


def loops_of(path: str, tree: BlockTree) -> tuple[str, ...]:
    """Paths of the loop devices that are attached to a regular file."""
    found = []
    for node in tree.nodes.values():
        if node.backing_file and not node.on_device:
            with suppress(OSError):
                if Path(path).samefile(node.backing_file):
                    found.append(node.path)
    return tuple(found)
