"""A stretch of the file in slices: fetched ahead by several connections, delivered in order. Pure.

Memory: a slice has a cell while bytes of it are there. The cells are cut from buffers that are borrowed, and given back
as soon as all their cells are free. The last cell is kept until the slice at the front, for which all wait, has one.
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from agent.transfer.pool import Buffer
from agent.units import MiB

SLICE = MiB
"""Small, because each connection holds one in memory; connections ask for the next ones before they need them."""


class Lender(Protocol):
    """Lends memory; the buffer pool."""

    @property
    def lends(self) -> bool:
        """Whether there is any to spare, now and then."""

    def lend(self) -> Buffer | None:
        """A buffer, or None where there is none to spare."""

    def take_back(self, buffer: Buffer) -> None:
        """Has the buffer again."""


@dataclass(slots=True, eq=False)
class Slice:
    """A range of the file."""

    start: int
    length: int
    cell: memoryview | None = None
    filled: int = 0
    taken: bool = False
    """Whether a connection has it."""

    @property
    def missing(self) -> tuple[int, int]:
        """The first byte that is still to come, and the one behind the last."""
        return self.start + self.filled, self.start + self.length

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return self.filled == self.length


class Cells:
    """Memory for slices, `SLICE` bytes each."""

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self._free: dict[Buffer, list[memoryview]] = {}
        self._of: dict[int, Buffer] = {}  # by the id of a cell that is in use

    def reserve(self) -> bool:
        """Borrow as much as is needed to bring anything; False if there is none to spare."""
        if not self._free:
            self._borrow()
        return bool(self._free)

    def take(self, *, last: bool) -> memoryview | None:
        """A cell, or None. Only who is told to take the last one gets it."""
        if sum(map(len, self._free.values())) <= (0 if last else 1):
            self._borrow()
        if sum(map(len, self._free.values())) <= (0 if last else 1):
            return None
        # From the fullest buffer, so that others become free as a whole.
        buffer = min(
            (one for one, cells in self._free.items() if cells), key=lambda one: len(self._free[one])
        )
        cell = self._free[buffer].pop()
        self._of[id(cell)] = buffer
        return cell

    def give(self, cell: memoryview) -> None:
        """A cell is not needed any more."""
        buffer = self._of.pop(id(cell))
        self._free[buffer].append(cell)
        if len(self._free[buffer]) == len(buffer.view) // SLICE and len(self._free) > 1:
            self._return(buffer)

    def close(self) -> None:
        """Give all memory back, cells in use included: nobody may write to them any more."""
        self._of.clear()
        for buffer in tuple(self._free):
            self._return(buffer)

    def _borrow(self) -> None:
        buffer = self._lender.lend()
        if buffer is None:
            return
        count = len(buffer.view) // SLICE
        self._free[buffer] = [buffer.view[at * SLICE : (at + 1) * SLICE] for at in range(count)]
        if not count:
            self._return(buffer)

    def _return(self, buffer: Buffer) -> None:
        del self._free[buffer]
        self._lender.take_back(buffer)


class Line:
    """The bytes from `start` up to, not including, `stop`, delivered from the front."""

    def __init__(self, start: int, stop: int, cells: Cells) -> None:
        self.start = start
        self._next = start
        self._stop = stop
        self._cells = cells
        self._line: deque[Slice] = deque()  # all that were handed out and are not delivered, in order
        self._delivered = 0  # bytes of the one at the front
        self._done = 0  # bytes of those before it

    @property
    def front(self) -> Slice | None:
        """The one to be delivered next; None where none was handed out."""
        return self._line[0] if self._line else None

    @property
    def at_end(self) -> bool:
        """Whether all has been delivered."""
        return not self._line and self._next == self._stop

    @property
    def ahead(self) -> int:
        """Bytes that have come and are not delivered."""
        return sum(one.filled for one in self._line) - self._delivered

    @property
    def received(self) -> int:
        """Bytes that have come."""
        return self._done + self._delivered + self.ahead

    def put_back(self) -> Slice | None:
        """The first one that a connection had and has no more."""
        return next((one for one in self._line if not one.taken and not one.complete), None)

    def take(self, *, new: bool = True) -> Slice | None:
        """The first one that no connection has.

        Args:
            new: whether one may be taken that no connection had before.
        """
        one = self.put_back()
        if one is None and new and self._next < self._stop:
            one = Slice(self._next, min(SLICE, self._stop - self._next))
            self._next += one.length
            self._line.append(one)
        if one is not None:
            one.taken = True
        return one

    def give_cell(self, one: Slice) -> bool:
        """Give a slice memory, before its first byte; False where there is none now."""
        front = self.front
        if one.cell is None:
            # What the front has becomes free for the one behind it.
            one.cell = self._cells.take(last=one is front or (front is not None and front.cell is not None))
        return one.cell is not None

    def deliver(self, view: memoryview) -> int:
        """Put into the view what has come of the slices at the front that are complete."""
        count = 0
        while count < len(view) and self._line and self._line[0].complete:
            one = self._line[0]
            cell = one.cell
            if cell is None:
                raise RuntimeError("a slice without memory is complete")
            part = min(len(view) - count, one.length - self._delivered)
            view[count : count + part] = cell[self._delivered : self._delivered + part]
            count += part
            self._delivered += part
            if self._delivered == one.length:
                self._delivered = 0
                self._done += one.length
                self._line.popleft()
                one.cell = None
                self._cells.give(cell)
        return count

    def close(self) -> None:
        """Forget everything; no connection may be at work any more."""
        for one in self._line:
            one.cell = None
        self._line.clear()
        self._cells.close()
