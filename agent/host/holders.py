"""What sits on a disk, and how to take it down.

Owns the picture of the kernel's block devices (who lies on whom), the list of holders of a disk, and the
steps that stop md, LVM and other device-mapper stacks. Used by the inventory and by the stage that claims the
disk. Nothing here unmounts a filesystem, switches swap off or writes to any disk. A stack that spans other
disks is stopped as a whole, which is harmless in a rescue system; the other disks are not touched otherwise.
When `release` fails, a part of the stack may be stopped already; it can be called again.
"""

import errno
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.host import mounts, process
from agent.host.mounts import Mount, Swap
from agent.model.disks import Disk, Holder, HolderKind, printable

# More than any server has; beyond it something is wrong, and half a picture could hide a holder.
_MAX_DEVICES = 16384
_MAX_DEPTH = 32
_MAX_ATTRIBUTE = 4096
# external:/md127/0 is the first array in the container md127; a minus sign there marks it as read-only.
_IN_CONTAINER = re.compile(r"external:[/-]([^/]+)")
_LV_HYPHEN = re.compile(r"(?<!-)-(?!-)")


@dataclass(frozen=True, slots=True)
class Node:
    """A block device of the kernel. Devices are named as in sysfs, numbers are `major:minor`."""

    name: str
    dev: str
    disk: str
    """The whole device that a partition belongs to; the name itself where it is none."""
    holders: tuple[str, ...] = ()
    slaves: tuple[str, ...] = ()
    dm_name: str = ""
    dm_uuid: str = ""
    container: str = ""
    """For an array inside a container of external metadata (Intel RST, DDF): the container's name."""
    backing_file: str = ""
    """What a loop device is made of."""
    backing_dev: str = ""
    """The block device that `backing_file` is, or else the one of the filesystem that stores it."""
    on_device: bool = False
    """Whether `backing_file` is a block device."""

    @property
    def path(self) -> str:
        """Of its node in /dev."""
        return f"/dev/{self.name.replace('!', '/')}"


@dataclass(frozen=True, slots=True)
class BlockTree:
    """All block devices at one moment, and what is stacked on what."""

    nodes: Mapping[str, Node]
    btrfs: tuple[frozenset[str], ...] = ()
    """Of each mounted btrfs, the devices that it spans."""

    def by_dev(self, dev: str) -> Node | None:
        """The device of a number, None if there is none."""
        return next((node for node in self.nodes.values() if node.dev == dev), None)

    def above(self, name: str) -> tuple[str, ...]:
        """Partitions of a device, and what lies directly on it."""
        node = self.nodes[name]
        found = [n.name for n in self.nodes.values() if n.disk == name and n.name != name]
        found += [n.name for n in self.nodes.values() if n.container == name]
        found += [n.name for n in self.nodes.values() if n.on_device and n.backing_dev == node.dev]
        return tuple(dict.fromkeys([*found, *(h for h in node.holders if h in self.nodes)]))

    def top_down(self, name: str) -> tuple[tuple[Node, Node], ...]:
        """Everything above a device, each with the device it sits on; what lies on top comes first.

        Raises:
            OSError: ELOOP when the stack has no end.
        """
        done: dict[str, tuple[Node, Node]] = {}
        self._climb(name, done, 0)
        return tuple(done.values())

    def _climb(self, name: str, done: dict[str, tuple[Node, Node]], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise OSError(errno.ELOOP, "its devices are stacked without end", self.nodes[name].path)
        for upper in self.above(name):
            if upper not in done:
                self._climb(upper, done, depth + 1)
                done[upper] = (self.nodes[upper], self.nodes[name])

    def disks_below(self, devs: Iterable[str]) -> frozenset[str]:
        """Names of the whole devices that the given ones rest on, down to those that rest on nothing."""
        return frozenset(node.name for node in self.all_below(devs) if not self._below(node))

    def all_below(self, devs: Iterable[str]) -> tuple[Node, ...]:
        """The devices of these numbers, and all that they rest on."""
        waiting = [node for node in map(self.by_dev, devs) if node is not None]
        found: dict[str, Node] = {}
        while waiting:
            node = waiting.pop()
            if node.name not in found:
                found[node.name] = node
                waiting += [self.nodes[name] for name in self._below(node)]
        return tuple(found.values())

    def _below(self, node: Node) -> tuple[str, ...]:
        if node.disk != node.name:
            return (node.disk,) if node.disk in self.nodes else ()
        backing = self.by_dev(node.backing_dev) if node.backing_dev else None
        names = (*node.slaves, backing.name) if backing else node.slaves
        return tuple(name for name in names if name in self.nodes)


# -- reading -------------------------------------------------------------------------------------------------


def read_attribute(path: Path) -> str:
    """A sysfs attribute without its blanks at the ends; empty where there is none. At most 4 KiB are read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_ATTRIBUTE).decode("utf-8", "backslashreplace").strip()
    except OSError:
        # Not only absent ones: some drivers answer EIO or ENODEV for a device that is going away.
        return ""


def read_tree(sysfs_root: str = "/sys") -> BlockTree:
    """Take a picture of the block devices.

    Raises:
        OSError: sysfs cannot be read, or holds more devices than are believable.
    """
    root = Path(sysfs_root)
    nodes = (_read_node(root / "class/block", name) for name in _names(root / "class/block"))
    btrfs = (_names(filesystem / "devices") for filesystem in (root / "fs/btrfs").glob("*-*-*-*-*"))
    return BlockTree({node.name: node for node in nodes}, tuple(frozenset(names) for names in btrfs))


def _names(directory: Path) -> tuple[str, ...]:
    try:
        names = [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    if len(names) > _MAX_DEVICES:
        raise OSError(errno.EOVERFLOW, f"more than {_MAX_DEVICES} block devices", str(directory))
    return tuple(sorted(names))


def _read_node(block: Path, name: str) -> Node:
    directory = block / name
    is_partition = (directory / "partition").exists()
    container = _IN_CONTAINER.match(read_attribute(directory / "md/metadata_version"))
    backing_file = read_attribute(directory / "loop/backing_file")
    backing_dev, on_device = _backing(backing_file)
    return Node(
        name=name,
        dev=read_attribute(directory / "dev"),
        disk=directory.resolve().parent.name if is_partition else name,
        holders=_names(directory / "holders"),
        slaves=_names(directory / "slaves"),
        dm_name=read_attribute(directory / "dm/name"),
        dm_uuid=read_attribute(directory / "dm/uuid"),
        # external:/md127/0 is the first array in the container md127; a minus sign there marks it as read-
        # only.
        container=container[1] if container else "",
        backing_file=backing_file,
        backing_dev=backing_dev,
        on_device=on_device,
    )


def _backing(backing_file: str) -> tuple[str, bool]:
    if not backing_file:
        return "", False
    try:
        info = Path(backing_file).stat()
    except OSError:
        return "", False
    on_device = stat.S_ISBLK(info.st_mode)
    number = info.st_rdev if on_device else info.st_dev
    return f"{os.major(number)}:{os.minor(number)}", on_device


# -- who uses what -------------------------------------------------------------------------------------------


# What each device, by its number, is mounted at or swapped to: pairs of kind and place.
Uses = Mapping[str, tuple[tuple[Literal["mount", "swap"], str], ...]]


def device_number(path: str) -> str | None:
    """`major:minor` of a block device, None for anything else."""
    try:
        info = Path(path).stat()
    except (OSError, ValueError):
        return None
    return f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}" if stat.S_ISBLK(info.st_mode) else None


def mount_devices(
    mount: Mount, tree: BlockTree, number: Callable[[str], str | None] = device_number
) -> tuple[str, ...]:
    """The numbers of all devices under a mount: btrfs has no number of its own, and spans several."""
    devs = [mount.dev]
    if mount.dev.startswith("0:"):
        # bcachefs names all its devices, with colons between.
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
    """Mounts and swap areas by the number of the device they are on."""
    found: dict[str, list[tuple[Literal["mount", "swap"], str]]] = {}
    for mount in mounted:
        for dev in mount_devices(mount, tree, number):
            found.setdefault(dev, []).append(("mount", mount.mount_point))
    for swap in swaps:
        # A swap file needs no entry: its filesystem is mounted.
        area = number(swap.path)
        if area is not None:
            found.setdefault(area, []).append(("swap", swap.path))
    return {dev: tuple(dict.fromkeys(entries)) for dev, entries in found.items()}


def holders_of(name: str, tree: BlockTree, in_use: Uses) -> tuple[Holder, ...]:
    """All that sits on a device and on its partitions, bottom up.

    Raises:
        OSError: ELOOP when the stack has no end.
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
    kind = _kind(upper)
    above = [node for node, _ in tree.top_down(upper.name)]
    free = not any(node.dev in in_use for node in [upper, *above])
    stacks = all(node.disk != node.name or _kind(node) in ("md", "lvm", "dm") for node in [upper, *above])
    return Holder(kind, upper.path, _where(upper), lower.path, stoppable=free and stacks)


def _kind(node: Node) -> HolderKind:
    if node.dm_uuid.startswith("LVM-"):
        return "lvm"
    if node.name.startswith("dm-"):
        return "dm"
    if node.name.startswith("md"):
        return "md"
    return "bcache" if node.name.startswith("bcache") else "other"


def _where(node: Node) -> str:
    if node.dm_uuid.startswith("LVM-"):
        # vg-lv, where a hyphen inside of either name is doubled, and a layer may follow.
        return "/".join(part.replace("--", "-") for part in _LV_HYPHEN.split(node.dm_name)[:2])
    return node.dm_name or node.backing_file or node.name


# -- taking it down ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StopStep:
    """One command that stops one device of a stack."""

    command: tuple[str, ...]
    why: str
    device: str
    """Its name in sysfs."""

    def __str__(self) -> str:
        return f"{shlex.join(self.command)}: {self.why}"


def plan_release(disk_name: str, sysfs_root: str = "/sys") -> tuple[StopStep, ...]:
    """The steps that free a disk (named as in sysfs: `sda`), what lies on top first.

    Logical volumes are removed like any other mapping rather than by `lvchange`: that works where another
    disk holds a volume group of the same name, where a physical volume is missing, and for the hidden parts
    of RAID and thin volumes.

    Raises:
        OSError: ENODEV when there is no such disk; ELOOP when its stack has no end.
    """
    tree = read_tree(sysfs_root)
    if disk_name not in tree.nodes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"/dev/{disk_name}")
    steps = (_stop(upper, lower) for upper, lower in tree.top_down(disk_name))
    return tuple(step for step in steps if step is not None)


def _stop(upper: Node, lower: Node) -> StopStep | None:
    what = {"md": "array", "lvm": "logical volume", "dm": "mapping"}.get(_kind(upper))
    if upper.disk != upper.name or what is None:
        return None
    is_md = _kind(upper) == "md"
    command = ("mdadm", "--stop", upper.path) if is_md else ("dmsetup", "remove", "--retry", upper.dm_name)
    return StopStep(command, f"the {what} {printable(_where(upper))} sits on {lower.path}", upper.name)


def release(disk: Disk) -> tuple[StopStep, ...]:
    """Stop the md, LVM and dm devices on a disk, then make sure that nothing holds it.

    Returns:
        The steps that were taken.

    Raises:
        OSError: EBUSY naming what is mounted, swapped to or held by something else (then nothing was
            stopped), or what still holds the disk afterwards; ProcessFailed when a step failed.
        ToolMissing: the rescue system lacks mdadm or dmsetup.
    """
    node = _refuse_used(disk.path, stacks=False)
    if node is None:
        return ()
    taken = []
    for step in plan_release(node.name):
        # Stopping one device may take others along: a container its arrays, a pool its layers.
        if Path("/sys/class/block", step.device).exists():
            process.run(step.command)
            taken.append(step)
    assert_free(disk.path)
    return tuple(taken)


def assert_free(path: str) -> None:
    """Make sure that nothing uses a disk: the kernel lets it be claimed, and no device sits on it.

    The claim also fails for users that sysfs does not show: ZFS, an external journal, a mount in another
    namespace. It is given back at once; whoever writes claims the disk again.

    Raises:
        OSError: EBUSY naming the holder, or why the disk cannot be opened.
    """
    if _refuse_used(path, stacks=True) is None:
        return
    try:
        # Read-only: when a descriptor that could write is closed, udev may start the stacks again.
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OSError(errno.EBUSY, "held by something that the kernel does not name", path) from error


def _refuse_used(path: str, *, stacks: bool) -> Node | None:
    """Look afresh who uses a disk; returns its device, None for a file. `stacks`: md, LVM, dm count too."""
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
    """Paths of the loop devices that are made of a regular file."""
    found = []
    for node in tree.nodes.values():
        if node.backing_file and not node.on_device:
            with suppress(OSError):
                if Path(path).samefile(node.backing_file):
                    found.append(node.path)
    return tuple(found)
