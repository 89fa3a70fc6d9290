"""The queue of runs (contiguous mapped clusters) that have not arrived yet; each chunk of the file is cut along them.

Used by `agent.formats.qcow2.forward`. A heap holds one cursor for each L2 table, keyed by the host offset of the
table's next run; a run that continues beyond the chunk stays active. Runs may overlap: each yields its own extent, so
several guest clusters on one host cluster are no special case.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from agent.errors import ImageMemory
from agent.formats.extent import Extent, Inflate, Write
from agent.formats.qcow2.cover import OwnedRanges
from agent.formats.qcow2.header import Qcow2Header
from agent.formats.qcow2.placed import PlacedRanges
from agent.formats.qcow2.tables import SECTOR, UNUSED, Run, RunCursor

# Bytes of memory that one run takes in the arrays of `L2Table`.
RUN_BYTES = 16
# An active run is an object of its own and takes as much memory as this many runs in an array. Few runs are active at a
# time, unless an image was built to have many.
ACTIVE_COST = 20
_MIN_ACTIVE_LIMIT = 1024 * ACTIVE_COST

_BEYOND_FILE = 1 << 64  # larger than any host offset


@dataclass(frozen=True, slots=True)
class Chunk:
    """File bytes [start, end); the view is valid during one call of `feed`."""

    start: int
    end: int
    data: memoryview

    def cut(self, start: int, end: int) -> memoryview:
        """The part of the file range [start, end) that is in the chunk."""
        return self.data[max(start - self.start, 0) : max(end - self.start, 0)]


class RunQueue:
    """The runs ahead of the stream.

    Args:
        header: the image's header.
        limit: the largest number of runs, `RUN_BYTES` of memory each.
        places: the largest number of written ranges, and of compressed clusters, that are noted for a later table.
    """

    def __init__(self, header: Qcow2Header, limit: int, places: int) -> None:
        self.placed = PlacedRanges(places)
        """Where uncompressed bytes were written; kept while tables are missing."""
        self.placed_compressed = PlacedRanges(places)
        """Where compressed clusters were written; kept while tables are missing."""
        self._header = header
        self._limit = limit
        self._cost = 0
        self._heap: list[tuple[int, int, RunCursor]] = []
        self._pushed = 0
        self._due: list[Run] = []
        self._active: list[Run] = []
        # File bytes from the start of the first active compressed cluster to the end of the last chunk.
        self._tail = bytearray()
        self._tail_start = 0
        self._owned: OwnedRanges | None = None

    @property
    def size(self) -> int:
        """Bytes of memory that the runs take."""
        return (self._cost + self._active_cost) * RUN_BYTES

    @property
    def _active_cost(self) -> int:
        return (len(self._active) + len(self._due)) * ACTIVE_COST

    def push(self, cursor: RunCursor) -> None:
        """Add a table's runs; the caller has taken those that begin before the chunk.

        Raises:
            ImageMemory: more runs than the limit.
        """
        host = cursor.next_host
        if host is None:
            return
        self._cost += cursor.cost
        if self._cost > self._limit:
            raise ImageMemory(detail=f"more than {self._limit} runs of clusters wait for their bytes")
        self._pushed += 1
        heapq.heappush(self._heap, (host, self._pushed, cursor))

    def resume(self, run: Run, prefix: bytes = b"") -> None:
        """Add a run that began before the chunk; for a compressed cluster `prefix` is the part before the chunk."""
        self._due.append(run)
        if len(prefix) > len(self._tail):
            self._tail = bytearray(prefix)
            self._tail_start = run.host

    def holds_start_of(self, run: Run) -> bool:
        """Whether the part of a compressed cluster before the chunk is held already, for another run."""
        return bool(self._tail) and self._tail_start <= run.host

    def begin(self, chunk: Chunk, *, find_gaps: bool) -> None:
        """Begin a chunk. With `find_gaps`, the ranges that have an owner are noted, so that `gaps` can be called."""
        if self._heap and self._heap[0][0] < chunk.start:
            # Part of it would not be written.
            raise RuntimeError(f"the run at {self._heap[0][0]} was passed over")
        self._due, self._active = self._active, []
        self._owned = OwnedRanges(chunk.start) if find_gaps else None
        if not self._tail:
            self._tail_start = chunk.start

    def place(self, chunk: Chunk) -> Iterator[Extent]:
        """Yield the extents of the known runs in the chunk; may be called again after more runs were added."""
        while self._due:
            if (extent := self._cut_out(self._due.pop(), chunk)) is not None:
                yield extent
        while self._heap and self._heap[0][0] < chunk.end:
            if (extent := self._cut_out(self._take_next(), chunk)) is not None:
                yield extent

    def _take_next(self) -> Run:
        _, number, cursor = self._heap[0]
        run = cursor.take()
        host = cursor.next_host
        if host is None:
            heapq.heappop(self._heap)
            self._cost -= cursor.cost
        else:
            heapq.heapreplace(self._heap, (host, number, cursor))
        return run

    def _cut_out(self, run: Run, chunk: Chunk) -> Extent | None:
        if run.end > chunk.end:
            if self._cost + self._active_cost >= max(self._limit, _MIN_ACTIVE_LIMIT):
                raise ImageMemory(detail=f"too many clusters lie on one spot, at byte {run.host} of the file")
            self._active.append(run)
        self.mark_owned(run.host, run.end, run.end - SECTOR if run.inflated > 0 else run.end)
        if run.inflated == 0:
            start = max(run.host, chunk.start)
            guest = run.guest + start - run.host
            if self._owned is not None:
                self.placed.add(start, min(run.end, chunk.end), guest)
            return Write(guest, chunk.cut(start, run.end))
        if run.inflated == UNUSED or run.end > chunk.end:
            return None
        if self._owned is not None:
            self.placed_compressed.add(run.host, run.host + 1, run.guest)
        return self.inflate(run, self._compressed(run, chunk))

    def inflate(self, run: Run, data: memoryview) -> Inflate:
        """The extent of a compressed cluster; `data` is all of it, and possibly the rest of its last sector."""
        return Inflate(run.guest, run.inflated, data, self._header.codec, self._header.cluster_size)

    def _compressed(self, run: Run, chunk: Chunk) -> memoryview:
        if run.host >= chunk.start:
            return chunk.cut(run.host, run.end)
        return memoryview(bytes(self._tail[run.host - self._tail_start :]) + chunk.cut(chunk.start, run.end))

    def end(self, chunk: Chunk) -> None:
        """End the chunk: keep the part of it that unfinished compressed clusters need."""
        hosts = [run.host for run in self._active if run.inflated > 0]
        first = min(hosts, default=chunk.end)
        if first >= chunk.start:
            self._tail = bytearray(chunk.cut(first, chunk.end))
        else:
            del self._tail[: first - self._tail_start]
            self._tail += chunk.data
        self._tail_start = first

    # -- bytes without a known owner

    def mark_owned(self, start: int, end: int, certain_end: int) -> None:
        """Note that the file bytes [start, end) have an owner; from `certain_end` on that is only possible."""
        if self._owned is not None:
            self._owned.add(start, end, certain_end)

    def gaps(self, chunk: Chunk) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The ranges (start, end) of the chunk that belong to no known run or table, and those that are uncertain.

        Uncertain are bytes in the last sector of a compressed cluster before the start of the next known one: only a
        compressed cluster of a few bytes that is not known yet could lie there. If no known cluster begins in that
        sector, it may hold the beginning of a cluster of any length that is not known yet: then it is a gap.
        """
        intervals = [] if self._owned is None else [self._owned.in_order()]
        # The next run of the heap begins after the chunk: this interval closes the last gap at the chunk's end.
        intervals.append(iter([(self._heap[0][0] if self._heap else _BEYOND_FILE, chunk.end, chunk.end)]))
        gaps: list[tuple[int, int]] = []
        uncertain: list[tuple[int, int]] = []
        certain_end = possible_end = chunk.start
        for start, next_certain_end, next_possible_end in chain(*intervals):
            if min(start, chunk.end) > certain_end:
                (gaps if start >= possible_end else uncertain).append((certain_end, min(start, chunk.end)))
            certain_end = max(certain_end, next_certain_end)
            possible_end = max(possible_end, next_possible_end)
        return gaps, uncertain

    # -- the end of the file

    def finish(self, position: int) -> Iterator[Extent]:
        """Yield the compressed clusters whose last sector is cut off by the end of the file at `position`."""
        active, self._active = self._active, []
        for run in active:
            if run.inflated > 0 and run.host < position and run.end - position < SECTOR:
                data = bytes(self._tail[run.host - self._tail_start :])
                yield self.inflate(run, memoryview(data))
            elif run.inflated != UNUSED:
                self._active.append(run)

    def missing(self) -> Run | None:
        """A run of guest data that has not arrived, or None."""
        while not self._active and self._heap:
            run = self._take_next()
            if run.inflated != UNUSED:
                self._active.append(run)
        return self._active[0] if self._active else None
