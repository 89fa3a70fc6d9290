"""Reads what is mounted and what is used as swap, from /proc/*/mountinfo and /proc/swaps (proc(5)).

Used by `agent.host.inventory`, `holders` and `same`. The `parse_` functions are pure; the `read_` functions raise
OSError.
"""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.units import MiB

_MAX_FILE = 16 * MiB
_OCTAL = re.compile(r"\\([0-7]{3})")
# Where a live system has its parts mounted: Debian's live-boot, dracut, archiso, casper.
_SYSTEM_TREES = (
    "/boot",
    "/usr",
    "/run/live",
    "/lib/live",
    "/run/initramfs",
    "/run/rootfsbase",
    "/run/archiso",
    "/cdrom",
)
_IMAGE_TYPES = frozenset({"squashfs", "erofs"})


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo. `dev` is `major:minor`; with major 0 it is the number of no block device."""

    dev: str
    mount_point: str
    fs_type: str
    source: str
    options: tuple[str, ...]
    """The options of the filesystem (super block), not of the mount."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A line of /proc/swaps. `kind` is `partition` (any block device) or `file`."""

    path: str
    kind: str


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Read the text of a mountinfo file.

    Raises:
        ValueError: a line is not in the documented form. It is not skipped, which could hide a mount.
    """
    return tuple(_parse_mount(line) for line in text.split("\n") if line)


def _parse_mount(line: str) -> Mount:
    # 36 35 98:0 /root /mount/point rw,noatime optional:fields - fs_type source super,options
    head, dash, tail = line.partition(" - ")
    left, right = head.split(" "), tail.split(" ")
    if not dash or len(left) < 6 or len(right) < 2:
        raise ValueError(f"not a line of mountinfo: {line[:200]!r}")
    options = tuple(right[2].split(",")) if len(right) > 2 else ()
    return Mount(left[2], _unescape(left[4]), right[0], _unescape(right[1]), tuple(map(_unescape, options)))


def parse_swaps(text: str) -> tuple[Swap, ...]:
    """Read the text of /proc/swaps, whose first line is a heading."""
    fields = (line.split() for line in text.split("\n")[1:])
    return tuple(Swap(_unescape(f[0]), f[1]) for f in fields if len(f) >= 2)


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise OSError(errno.EFBIG, "longer than any sound list of mounts", path)
    return data.decode("utf-8", "backslashreplace")


def read_mounts() -> tuple[Mount, ...]:
    """The mounts in the mount namespaces of this process and of pid 1, each once.

    The service may run in a mount namespace of its own, where later mounts of the host do not appear.

    Raises:
        OSError: /proc cannot be read or parsed.
    """
    mounts = dict.fromkeys(_parse_file("/proc/self/mountinfo"))
    with suppress(OSError):
        mounts |= dict.fromkeys(_parse_file("/proc/1/mountinfo"))
    return tuple(mounts)


def _parse_file(path: str) -> tuple[Mount, ...]:
    try:
        return parse_mountinfo(_read(path))
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), path) from error


def read_swaps() -> tuple[Swap, ...]:
    """The active swap areas; none if the kernel has no swap support.

    Raises:
        OSError: /proc cannot be read.
    """
    try:
        return parse_swaps(_read("/proc/swaps"))
    except FileNotFoundError:
        return ()


def covering(mounts: Sequence[Mount], path: str) -> Mount | None:
    """The mount that a path is on: the one with the longest mount point above it, the last of several equal ones."""
    best: Mount | None = None
    for mount in mounts:
        point = mount.mount_point.rstrip("/")
        inside = path == point or path.startswith(f"{point}/")
        if inside and (best is None or len(point) >= len(best.mount_point.rstrip("/"))):
            best = mount
    return best


def system_mounts(mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """The mounts of the running system: its root, the layers of overlays, live images, /boot, /usr."""
    found = dict.fromkeys(mount for mount in mounts if _is_system(mount))
    waiting = list(found)
    while waiting:
        for path in _layers(waiting.pop()):
            below = covering(mounts, path)
            if below is not None and below not in found:
                found[below] = None
                waiting.append(below)
    return tuple(found)


def _is_system(mount: Mount) -> bool:
    point = mount.mount_point
    in_tree = any(point == tree or point.startswith(f"{tree}/") for tree in _SYSTEM_TREES)
    return point == "/" or in_tree or mount.fs_type in _IMAGE_TYPES


def _layers(mount: Mount) -> Iterator[str]:
    if mount.fs_type == "overlay":
        for option in mount.options:
            key, _, value = option.partition("=")
            if key in ("lowerdir", "upperdir", "lowerdir+", "datadir+"):
                yield from (path for path in value.split(":") if path.startswith("/"))
