"""How much memory this process may still take: what the kernel says is available, and what its control groups allow."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from agent.units import KiB

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Bytes that can be taken without swapping and without passing a limit (`MemoryMax=` of systemd); 0 where unknown.

    Page cache counts as available: the kernel gives it up first. Of control groups those of version 2 are asked.
    """
    room = [_in_machine(_read(proc / "meminfo"))]
    for group in _groups_of(_read(proc / "self/cgroup")):
        directory = cgroups / group.relative_to("/")
        limit, used = _read(directory / "memory.max").strip(), _read(directory / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            room.append(int(limit) - int(used) + _cached(_read(directory / "memory.stat")))
    return max(min(room), 0)


def total_memory(proc: Path = _PROC) -> int:
    """Bytes of memory that the machine has; 0 where unknown."""
    return _numbers(_read(proc / "meminfo")).get("MemTotal:", 0) * KiB


def _in_machine(meminfo: str) -> int:
    """`MemAvailable:   123 kB`, in bytes."""
    value = _numbers(meminfo).get("MemAvailable:", 0)
    return value * KiB


def _cached(stat: str) -> int:
    numbers = _numbers(stat)
    return numbers.get("active_file", 0) + numbers.get("inactive_file", 0)


def _numbers(text: str) -> Mapping[str, int]:
    """The first two words of each line, where the second is a number."""
    words = (line.split() for line in text.splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _groups_of(cgroup: str) -> Iterator[PurePosixPath]:
    """The control group of version 2 (the line `0::/PATH`), and those that it is in."""
    for line in cgroup.splitlines():
        if line.startswith("0::/"):
            path = PurePosixPath(line.removeprefix("0::"))
            yield from (path, *path.parents)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # no /proc or no control groups, or none of version 2: then they set no limit that could be known
