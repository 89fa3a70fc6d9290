"""The byte ranges of one chunk of a qcow2 file that belong to a known table or cluster.

Used by `agent.formats.qcow2.queue` to find the rest of the chunk, which has to wait for its table. The L2 entry of a
compressed cluster gives its length in sectors of 512 bytes, so its last sector may also hold the beginning of the next
compressed cluster: each range therefore has two ends, one that is certain and one that is possible.

Ranges that are added in file order are merged where they touch or overlap: a file that maps a million guest clusters to
one host cluster costs one range.
"""

from array import array
from collections.abc import Iterator, Sequence

from agent.errors import ImageMemory

# The bound on separate ranges: 24 bytes of memory each, twice that while they are sorted. The smallest cluster measured
# in an image of qemu-img takes 20 bytes (zstd, one repeated byte): a chunk of 4 MiB holds fewer of those than this.
MAX_RANGES = 256 * 1024


class OwnedRanges:
    """The owned ranges of the chunk that begins at file offset `start`."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._starts = array("Q")
        self._certain_ends = array("Q")
        self._ends = array("Q")
        self._ordered = True

    def add(self, start: int, end: int, certain_end: int) -> None:
        """Mark the file bytes [start, end) as owned; from `certain_end` on they may belong to something else.

        Raises:
            ImageMemory: more than `MAX_RANGES` separate ranges.
        """
        start = max(start, self._start)
        certain_end, end = max(start, certain_end), max(start, end)
        if self._starts and start >= self._starts[-1]:
            if start <= self._certain_ends[-1]:
                self._certain_ends[-1] = max(self._certain_ends[-1], certain_end)
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
        self._certain_ends.append(certain_end)
        self._ends.append(end)

    def in_order(self) -> Iterator[tuple[int, int, int]]:
        """All ranges as (start, certain end, possible end), sorted by start."""
        order: Sequence[int] = range(len(self._starts))
        if not self._ordered:
            order = array("Q", sorted(order, key=self._starts.__getitem__))
        for index in order:
            yield self._starts[index], self._certain_ends[index], self._ends[index]
