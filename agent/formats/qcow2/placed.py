"""Where on the guest disk the bytes are that have found their place.

Owned by the forward pass of `agent.formats.qcow2.forward`. A table may name a host cluster that has passed and that
another table had claimed: its bytes are then copied from the guest disk. They are never asked for again, because
nothing would say that they are the ones that were hashed.
"""

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

# The memory that one place takes, in bytes.
PLACE_BYTES = 24


class Place(NamedTuple):
    """File bytes [start, end) are on the guest disk from `guest` on."""

    start: int
    end: int
    guest: int


class PlacedRuns:
    """Places by their file offset, at most `limit` of them: what comes beyond is not noted.

    The stream brings them in the order of the file; a late table brings them out of order, and a new row begins.
    Rows of about the same length become one, so that there are never many, and a file that is built to make many
    costs little. Memory: `PLACE_BYTES` a place, and as much again while two rows become one.

    A compressed cluster is noted as the first byte of its stream, which tells it from all others.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: list[_Row] = []
        self._before = 0  # places in all rows but the last

    def add(self, start: int, end: int, guest: int) -> None:
        """File bytes [start, end) have been given for the guest disk at `guest`."""
        if not self._rows or start < self._rows[-1].starts[-1]:
            self._begin_row()
        row = self._rows[-1]
        if self._before + len(row.starts) < self._limit:
            row.add(start, end, guest)

    def _begin_row(self) -> None:
        rows = self._rows
        while len(rows) > 1 and len(rows[-2].starts) <= 2 * len(rows[-1].starts):
            last, before = rows.pop(), rows.pop()
            rows.append(_merge(before, last))
        self._before = sum(len(row.starts) for row in rows)
        if self._before < self._limit:
            rows.append(_Row())

    def find(self, position: int) -> Place | None:
        """Where the byte at `position` of the file is, and its neighbours; None if that is not known."""
        for row in self._rows:
            if (place := row.find(position)) is not None:
                return place
        return None

    def clear(self) -> None:
        """Forget everything: all tables are known."""
        self._rows.clear()
        self._before = 0


class _Row:
    """Places in the order of the file, none of which overlaps another."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.ends = array("Q")
        self.guests = array("Q")

    def places(self) -> Iterator[Place]:
        return map(Place, self.starts, self.ends, self.guests)

    def add(self, start: int, end: int, guest: int) -> None:
        """Add what is new of a place; `start` is not below that of the last one."""
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

    def find(self, position: int) -> Place | None:
        index = bisect_right(self.starts, position) - 1
        if index < 0 or self.ends[index] <= position:
            return None
        return Place(self.starts[index], self.ends[index], self.guests[index])


def _merge(first: _Row, second: _Row) -> _Row:
    row = _Row()
    for place in heapq.merge(first.places(), second.places()):
        row.add(*place)
    return row
