"""Where file bytes have been written on the guest disk, for clusters that two tables map.

Used by `agent.formats.qcow2.forward`. When an L2 table maps a host cluster that has already passed and was written for
another table, its bytes are copied from the guest disk. They are not fetched from the source again: nothing could prove
that those bytes are the ones that were hashed.
"""

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

# Bytes of memory that one range takes: three 64-bit numbers.
PLACE_BYTES = 24


class PlacedRange(NamedTuple):
    """File bytes [start, end) are on the guest disk at offset `guest`."""

    start: int
    end: int
    guest: int


class PlacedRanges:
    """Written ranges by file offset, at most `limit` of them; further ones are dropped.

    The stream adds ranges in file order. A late table adds them out of order: then a new sorted part begins, and parts
    of about equal length are merged, which bounds the number of parts to the logarithm of the number of ranges (as in
    a log-structured merge tree), whatever file is built to cause many. Memory: `PLACE_BYTES` a range, and as much again
    while two parts are merged.

    A compressed cluster is noted by the first byte of its stream only, which identifies it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[_SortedRanges] = []
        self._before = 0  # ranges in all parts but the last

    def add(self, start: int, end: int, guest: int) -> None:
        """Note that the file bytes [start, end) were written to the guest disk at offset `guest`."""
        if not self._parts or start < self._parts[-1].starts[-1]:
            self._begin_part()
        part = self._parts[-1]
        if self._before + len(part.starts) < self._limit:
            part.add(start, end, guest)

    def _begin_part(self) -> None:
        parts = self._parts
        while len(parts) > 1 and len(parts[-2].starts) <= 2 * len(parts[-1].starts):
            last, before = parts.pop(), parts.pop()
            parts.append(_merge(before, last))
        self._before = sum(len(part.starts) for part in parts)
        if self._before < self._limit:
            parts.append(_SortedRanges())

    def find(self, position: int) -> PlacedRange | None:
        """The range that has the byte at file offset `position`, or None."""
        for part in self._parts:
            if (placed := part.find(position)) is not None:
                return placed
        return None

    def clear(self) -> None:
        """Drop everything; called when all tables are known."""
        self._parts.clear()
        self._before = 0


class _SortedRanges:
    """Disjoint ranges in file order."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.ends = array("Q")
        self.guests = array("Q")

    def ranges(self) -> Iterator[PlacedRange]:
        return map(PlacedRange, self.starts, self.ends, self.guests)

    def add(self, start: int, end: int, guest: int) -> None:
        """Add the part of a range that is not in here; `start` is not below that of the last one."""
        last = self.ends[-1] if self.ends else -1
        if end <= last:
            return
        if start <= last:
            start, guest = last, guest + last - start
            if guest == self.guests[-1] + last - self.starts[-1]:
                self.ends[-1] = end
                return
        self.starts.append(start)
        self.ends.append(end)
        self.guests.append(guest)

    def find(self, position: int) -> PlacedRange | None:
        index = bisect_right(self.starts, position) - 1
        if index < 0 or self.ends[index] <= position:
            return None
        return PlacedRange(self.starts[index], self.ends[index], self.guests[index])


def _merge(first: _SortedRanges, second: _SortedRanges) -> _SortedRanges:
    part = _SortedRanges()
    for placed in heapq.merge(first.ranges(), second.ranges()):
        part.add(*placed)
    return part
