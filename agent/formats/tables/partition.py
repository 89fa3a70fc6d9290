"""What GPT and MBR have in common: a partition in bytes, the fault of a table, and where tables may lie.

Pure; anyone may use it. Nothing is kept here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.units import MiB

# MBR, GPT header and boot code must lie within this many first bytes of the disk: they are held back until the commit.
HEAD = MiB
# The entries of a GPT may lie behind it, where the boot loader of a board has the first MiB for itself: without the
# header nothing finds them. They must lie within what preflight examines.
TABLE_REACH = 10 * MiB


class TableError(ValueError):
    """A partition table is damaged, or cannot be changed as asked; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a table. `start` and `size` in bytes.

    `type` is an upper-case GUID (GPT) or two upper-case hexadecimal digits (MBR). `number` is the one that
    the kernel gives: the entry's place plus one, and 5 upwards for logical partitions.
    """

    number: int
    start: int
    size: int
    type: str
    name: str = ""
    is_esp: bool = False
    is_extended: bool = False
    attributes: int = 0

    @property
    def end(self) -> int:
        """The first byte behind the partition."""
        return self.start + self.size


def first_overlap(ranges: Iterable[tuple[int, int]]) -> int | None:
    """Where the first range starts that overlaps an earlier one, or None; ranges are (start, end)."""
    reached = 0
    for start, end in sorted(ranges):
        if start < reached:
            return start
        reached = end
    return None
