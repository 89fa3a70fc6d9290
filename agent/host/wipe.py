"""Makes a disk unbootable and takes the signatures of what was on it away.

Used by the claim stage, by the runner after a failure, and by the erasure of disks. The disk is open and claimed
already. Every function blocks; errors are OSError with the path in it. When one is raised, the first sector is zero if
any other was.
"""

from collections.abc import Callable
from typing import Protocol

from agent.formats.tables.existing import read_existing
from agent.formats.tables.layout import Ranges, stale_signature_ranges
from agent.units import MiB

END_BYTES = MiB
"""Length of either end of a disk; all partition tables and boot code lie within them."""


class Wipeable(Protocol):
    """What is asked of a disk; see `agent.host.disk.TargetDisk`."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sector_size(self) -> int | None:
        """Logical sector size in bytes; None for a regular file."""

    def zero(self, offset: int, length: int) -> None:
        """Make the range read back as zeros."""

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes."""

    def flush(self) -> None:
        """Make everything written durable."""

    def reread_partitions(self) -> bool:
        """Tell the kernel about a changed table; False where it cannot."""


def wipe_metadata(disk: Wipeable, settle: Callable[[], None]) -> None:
    """Zero both ends, flush, and only then the signatures of the partitions that were there.

    Args:
        disk: at least twice `END_BYTES` long, or all of it is zeroed.
        settle: waits for what the system does when the kernel finds the partitions gone.
    """
    stale = stale_ranges(disk)
    wipe_ends(disk)
    for offset, length in stale:
        disk.zero(offset, length)
    disk.flush()
    if disk.reread_partitions():
        settle()


def stale_ranges(disk: Wipeable) -> Ranges:
    """The ranges of the old partitions' signatures; none where neither copy of their table can be read."""
    old = read_existing(disk.read, disk.size, disk.sector_size)
    return () if old.table is None else stale_signature_ranges(old.table, disk.size, old.logicals)


def wipe_ends(disk: Wipeable) -> None:
    """Zero the first and the last MiB and flush: the disk cannot boot from here on.

    The first sector goes first, and for good, before any other is touched: a power cut in the middle of the rest finds
    no firmware that would boot what is left.
    """
    first = min(disk.sector_size or 512, disk.size)
    head = min(END_BYTES, disk.size)
    disk.zero(0, first)
    disk.flush()
    disk.zero(first, head - first)
    tail = max(disk.size - END_BYTES, 0)
    disk.zero(tail, disk.size - tail)
    disk.flush()
