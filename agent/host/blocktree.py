"""The tree of the kernel's block devices: what is stacked on what, read from sysfs.

Used by `agent.host.holders`, `inventory` and `same`. It only reads.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# More block devices than any server has. Beyond it the reading fails: an incomplete tree could hide a holder.
_MAX_DEVICES = 16384
_MAX_DEPTH = 32
_MAX_ATTRIBUTE = 4096
# `external:/md127/0` is the first array in the container md127; a `-` for the first slash marks it as read-only.
_IN_CONTAINER = re.compile(r"external:[/-]([^/]+)")


def format_number(device: int) -> str:
    """A device number (`st_rdev`, `st_dev`) as `major:minor`, the form of sysfs and mountinfo."""
    return f"{os.major(device)}:{os.minor(device)}"


def device_number(path: str) -> str | None:
    """`major:minor` of a block device, None for anything else."""
    try:
        info = Path(path).stat()
    except (OSError, ValueError):
        return None
    return format_number(info.st_rdev) if stat.S_ISBLK(info.st_mode) else None


@dataclass(frozen=True, slots=True)
class Node:
    """A block device of the kernel. Names are those of sysfs, numbers (`dev`) are `major:minor`."""

    name: str
    dev: str
    disk: str
    """The whole device that a partition belongs to; for a whole device its own name."""
    holders: tuple[str, ...] = ()
    slaves: tuple[str, ...] = ()
    dm_name: str = ""
    dm_uuid: str = ""
    container: str = ""
    """The container's name, for an md array in a container with external metadata (Intel RST, DDF)."""
    backing_file: str = ""
    """The file or device below a loop device."""
    backing_dev: str = ""
    """The number of `backing_file` if it is a block device, else of the filesystem that stores it."""
    on_device: bool = False
    """Whether `backing_file` is a block device."""

    @property
    def path(self) -> str:
        """Path of its node in /dev."""
        return f"/dev/{self.name.replace('!', '/')}"


@dataclass(frozen=True, slots=True)
class BlockTree:
    """All block devices at one moment, and how they are stacked."""

    nodes: Mapping[str, Node]
    btrfs: tuple[frozenset[str], ...] = ()
    """The names of the devices of each mounted btrfs."""

    def by_dev(self, dev: str) -> Node | None:
        """The device with this number, or None."""
        return next((node for node in self.nodes.values() if node.dev == dev), None)

    def above(self, name: str) -> tuple[str, ...]:
        """The partitions of a device, and the devices directly on it."""
        node = self.nodes[name]
        found = [n.name for n in self.nodes.values() if n.disk == name and n.name != name]
        found += [n.name for n in self.nodes.values() if n.container == name]
        found += [n.name for n in self.nodes.values() if n.on_device and n.backing_dev == node.dev]
        return tuple(dict.fromkeys([*found, *(h for h in node.holders if h in self.nodes)]))

    def top_down(self, name: str) -> tuple[tuple[Node, Node], ...]:
        """All devices above a device, each with the one that it is on; the topmost come first.

        Raises:
            OSError: ELOOP if they are stacked more than 32 deep, as in a cycle.
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
        """The names of the lowest devices below those with the given numbers: the disks that they are on."""
        return frozenset(node.name for node in self.all_below(devs) if not self._below(node))

    def all_below(self, devs: Iterable[str]) -> tuple[Node, ...]:
        """The devices with these numbers, and all devices below them."""
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
    """A sysfs attribute, stripped; empty if it does not exist or cannot be read. At most 4 KiB are read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_ATTRIBUTE).decode("utf-8", "backslashreplace").strip()
    except OSError:
        # Besides ENOENT: some drivers return EIO or ENODEV for a device that is being removed.
        return ""


def read_tree(sysfs_root: str = "/sys") -> BlockTree:
    """Read the tree of block devices.

    Raises:
        OSError: sysfs cannot be read, or has more than 16384 devices.
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
    return format_number(number), on_device
