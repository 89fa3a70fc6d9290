"""What a process holds, and whether it has come to hold more."""

import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.units import KiB, MiB

STACK = resource.getrlimit(resource.RLIMIT_STACK)[0]
"""Bytes of a thread's stack, reserved and hardly used."""
# What may come on top between warm-up and end, over dozens of jobs: far less than one of anything for each job. A
# traceback that the garbage collector has not come by yet may hold a buffer of the pool or two.
MORE_FILES, MORE_THREADS, MORE_MAPS, MORE_MEMORY, MORE_SHARED = 4, 2, 10, 16 * MiB, 8 * MiB
WARM_UP = 10
"""Jobs of a life until everything that is loaded or started once has been."""


@dataclass(frozen=True)
class Holdings:
    """What a process holds while it has nothing to do."""

    resident: int
    """Bytes in memory."""
    shared: int
    """Of these, in shared anonymous mappings: the pool's buffers, and what unaligned writes bounce off."""
    data: int
    """Bytes of writable private mappings, above all the heaps, without the threads' stacks."""
    maps: int
    """Mappings, without those of the stacks."""
    threads: int
    children: int
    files: Mapping[int, str] = field(repr=False)

    def summary(self) -> str:
        return (
            f"resident {self.resident / MiB:.1f} MiB, shared {self.shared / MiB:.1f} MiB, "
            f"data {self.data / MiB:.1f} MiB, {self.maps} mappings, {len(self.files)} descriptors, "
            f"{self.threads} threads, {self.children} children"
        )


def holdings_of(pid: int) -> Holdings:
    """Look at a process."""
    status = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        status[name] = value.split()
    maps = _text(Path(f"/proc/{pid}/maps")).splitlines()
    # glibc keeps up to 40 MiB of stacks for the next threads, so their number says more than their memory.
    stacks = sum(map(_is_stack, maps))
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    children = sum(len(_text(task / "children").split()) for task in tasks)
    return Holdings(
        resident=int(status["VmRSS"][0]) * KiB,
        shared=int(status["RssShmem"][0]) * KiB,
        data=int(status["VmData"][0]) * KiB - stacks * STACK,
        maps=len(maps) - 2 * stacks,
        threads=int(status["Threads"][0]),
        children=children,
        files=dict(_files(Path(f"/proc/{pid}/fd"))),
    )


def _is_stack(mapping: str) -> bool:
    """Whether a line of /proc/PID/maps may be a thread's stack; the page that guards it has a line of its own."""
    place, access, *_, last = mapping.split()
    begin, end = (int(at, 16) for at in place.split("-"))
    return access == "rw-p" and end - begin == STACK and last == "0"  # no inode, and no name behind it


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
        return ""


def _files(directory: Path) -> Iterator[tuple[int, str]]:
    for path in directory.iterdir():
        try:
            yield int(path.name), str(path.readlink())
        except FileNotFoundError:
            continue


def assert_nothing_grew(idle: Sequence[Holdings]) -> None:
    """Compare what was held behind each job of a life."""
    warm, end = idle[WARM_UP], idle[-1]
    told = f"warm: {warm.summary()}; end: {end.summary()}"
    assert len(end.files) - len(warm.files) <= MORE_FILES, end.files
    assert end.threads - warm.threads <= MORE_THREADS, told
    assert end.maps - warm.maps <= MORE_MAPS, told
    assert end.data - warm.data <= MORE_MEMORY, told
    assert max(holdings.shared for holdings in idle) <= MORE_SHARED, told
    assert end.resident - warm.resident <= MORE_MEMORY, told
