"""Which bytes of a chunk of a qcow2 file have an owner, and which have none that is known yet.

Owned by the run queue of `agent.formats.qcow2.queue`. A compressed cluster owns its last sector only perhaps: the next
one may begin in it. Ranges that come in the order of the file become one where they meet, so that a file in which a
million runs lie on one spot costs no more than one.
"""

from array import array
from collections.abc import Iterator, Sequence

from agent.errors import ImageMemory

# At most so many ranges that do not meet, 24 bytes each and twice as much while they are put in order. A cluster of one
# repeated byte takes 20 bytes in an image of qemu-img (zstd): 4 MiB of such clusters are fewer.
MAX_RANGES = 256 * 1024


class Cover:
    """The ranges of one chunk that begins at `start` in the file."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._starts = array("Q")
        self._sures = array("Q")
        self._ends = array("Q")
        self._ordered = True

    def add(self, start: int, end: int, sure: int) -> None:
        """File bytes [start, end) have an owner; those from `sure` on only perhaps.

        Raises:
            ImageMemory: there are more than `MAX_RANGES`.
        """
        start = max(start, self._start)
        sure, end = max(start, sure), max(start, end)
        if self._starts and start >= self._starts[-1]:
            if start <= self._sures[-1]:
                self._sures[-1] = max(self._sures[-1], sure)
                self._ends[-1] = max(self._ends[-1], end)
                return
        elif self._starts:
            self._ordered = False
        if len(self._starts) == MAX_RANGES:
            raise ImageMemory(
                detail=f"more than {MAX_RANGES} compressed clusters stand within a few MiB, before the tables",
                hint="Convert the image: qemu-img convert -O qcow2 IMAGE NEW.qcow2.",
            )
        self._starts.append(start)
        self._sures.append(sure)
        self._ends.append(end)

    def in_order(self) -> Iterator[tuple[int, int, int]]:
        """All ranges (start, sure, end), in the order of their starts."""
        order: Sequence[int] = range(len(self._starts))
        if not self._ordered:
            order = array("Q", sorted(order, key=self._starts.__getitem__))
        for at in order:
            yield self._starts[at], self._sures[at], self._ends[at]
