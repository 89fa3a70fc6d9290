"""What GPT and MBR have in common: a partition in bytes, the error for a bad table, and where tables may lie."""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.units import MiB

# MBR, GPT header and boot code lie within this many bytes at the start of the disk, which are written last (the
# commit).
HEAD_BYTES = MiB
# The entries of a GPT may lie beyond that, for boards whose boot loader occupies the first MiB; without the header
# nothing finds them. They must end within this many bytes, which is what preflight examines.
TABLE_REACH = 10 * MiB


class TableError(ValueError):
    """A partition table is damaged, or a change of it is not possible; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. `start` and `size` are in bytes.

    `type` is an upper-case GUID (GPT) or two upper-case hexadecimal digits (MBR). `number` is the kernel's: the index
    of the entry plus one, or from 5 on for logical partitions.
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
        """Offset of the first byte after the partition."""
        return self.start + self.size


def first_overlap(ranges: Iterable[tuple[int, int]]) -> int | None:
    """The start of the first range (start, end) that overlaps an earlier one, or None."""
    reached = 0
    for start, end in sorted(ranges):
        if start < reached:
            return start
        reached = end
    return None
