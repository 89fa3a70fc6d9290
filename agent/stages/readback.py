"""Read-back: everything that was written is read from the device and compared, while the disk still cannot boot.

The image in a stage of its own; what finish adds to it, at the end of that. Only where it was asked for. The disk is
flushed and all caches of the system are dropped; what is read goes past the page cache. The ends that are held in
memory are compared from there: the commit writes them, and reads them back. A cache in the disk itself is beyond
reach: docs/reliability.md says what it can hide.
"""

from collections.abc import Callable

from agent.errors import DiskReadback
from agent.host.faults import disk_fault
from agent.stages.held_ends import HeldEnds
from agent.stages.machine import OpenDisk
from agent.transfer.record import Difference, Record, compare
from agent.units import MiB

STEP = MiB


class ReadingBack:
    """How far the reading is, of all disks together. `stop` and `share` may be called by any thread."""

    def __init__(self, total: int) -> None:
        """Args:
        total: bytes to be read.
        """
        self._total = total
        self._done: dict[str, int] = {}
        self._stopped = False

    def passed(self, path: str) -> Callable[[int], None]:
        """What the reading of this disk tells how much it has read."""

        def count(length: int) -> None:
            if self._stopped:
                raise Stopped
            self._done[path] = self._done.get(path, 0) + length

        return count

    def stop(self) -> None:
        """End the reading soon."""
        self._stopped = True

    def share(self) -> float:
        """From 0 to 1."""
        return sum(self._done.values()) / self._total if self._total else 0.0


class Stopped(Exception):
    """The deployment was cancelled."""


def read_back(record: Record, disk: OpenDisk, held: HeldEnds, passed: Callable[[int], None]) -> None:
    """Compare one disk with the record of what was written to it. Blocking; memory: 1 MiB.

    Args:
        record: of the writing.
        disk: that was written.
        held: its ends.
        passed: is called with the number of bytes that were read; may raise, to end it.

    Raises:
        DiskReadback: it does not give back the same.
        DiskIo: it failed.
    """
    low, high = len(held.head), held.tail_offset

    def read(offset: int, length: int) -> memoryview:
        end = offset + length
        if low <= offset and end <= high:
            return disk.read_back(offset, length)
        inside = max(offset, low), min(end, high)
        parts = [
            bytes(held.head[offset : min(end, low)]) if offset < low else b"",
            bytes(disk.read_back(inside[0], inside[1] - inside[0])) if inside[0] < inside[1] else b"",
            bytes(held.tail[max(offset - high, 0) : end - high]) if end > high else b"",
        ]
        return memoryview(b"".join(parts))

    try:
        disk.drop_cache()
        compare(record, read, STEP, passed)
    except Difference as found:
        raise DiskReadback(device=disk.path, start=found.start, end=found.end) from None
    except OSError as error:
        raise disk_fault(disk.path, error) from error
