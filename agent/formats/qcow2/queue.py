"""The runs that are known and have not arrived: each chunk of the file is cut along them.

Owned by the decoder in `agent.formats.qcow2.decoder`. One cursor for each L2 table stands in a heap, keyed by where
its next run begins; a run that reaches beyond the chunk stays active. Runs may overlap: each takes its own
piece, so several guest clusters on one host cluster need no care.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from agent.errors import ImageMemory
from agent.formats.extent import Extent, Inflate, Write
from agent.formats.qcow2.cover import Cover
from agent.formats.qcow2.header import Qcow2Header
from agent.formats.qcow2.placed import PlacedRuns
from agent.formats.qcow2.tables import SECTOR, UNUSED, Cursor, Run

# The memory that one run takes, in bytes.
RUN_BYTES = 16
# A run that a chunk's end has cut is an object by itself, and takes as much as so many others. There are few of them,
# unless an image is made to have many.
ACTIVE_COST = 20
_SOME_ACTIVE = 1024 * ACTIVE_COST

_NOWHERE = 1 << 64  # behind every offset that an image can have


@dataclass(frozen=True, slots=True)
class Chunk:
    """File bytes [start, end) as they were fed; the view is valid during one call of `feed`."""

    start: int
    end: int
    data: memoryview

    def cut(self, start: int, end: int) -> memoryview:
        """The bytes of a file range, as far as it is in the chunk."""
        return self.data[max(start - self.start, 0) : max(end - self.start, 0)]


class RunQueue:
    """All runs ahead: at most `limit` of them, 16 bytes each, and the head of one compressed cluster."""

    def __init__(self, header: Qcow2Header, limit: int, places: int) -> None:
        self.placed = PlacedRuns(places)
        """Plain bytes that have been given, as long as gaps are noted."""
        self.inflated = PlacedRuns(places)
        """Compressed clusters that have been given, as long as gaps are noted."""
        self._header = header
        self._limit = limit
        self._cost = 0
        self._heap: list[tuple[int, int, Cursor]] = []
        self._pushed = 0
        self._due: list[Run] = []
        self._active: list[Run] = []
        # What active compressed clusters have had of the file, up to the end of the last chunk.
        self._tail = bytearray()
        self._tail_start = 0
        self._covered: Cover | None = None

    @property
    def size(self) -> int:
        """The memory that the runs take, in bytes."""
        return (self._cost + self._active_cost) * RUN_BYTES

    @property
    def _active_cost(self) -> int:
        return (len(self._active) + len(self._due)) * ACTIVE_COST

    def push(self, cursor: Cursor) -> None:
        """Add a table's runs; those that begin before the chunk have been taken already.

        Raises:
            ImageMemory: there are more runs than the limit.
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
        """Add a run that began before the chunk; of a compressed one, `prefix` has its bytes up to the chunk."""
        self._due.append(run)
        if len(prefix) > len(self._tail):
            self._tail = bytearray(prefix)
            self._tail_start = run.host

    def has_head(self, run: Run) -> bool:
        """Whether the bytes of a compressed cluster before the chunk are here, because another run wants them too."""
        return bool(self._tail) and self._tail_start <= run.host

    def begin(self, chunk: Chunk, *, note_gaps: bool) -> None:
        """A chunk has arrived. With `note_gaps`, `gaps` will tell what of it nobody wanted."""
        if self._heap and self._heap[0][0] < chunk.start:
            raise RuntimeError(f"the run at {self._heap[0][0]} was passed over")  # never write half of it
        self._due, self._active = self._active, []
        self._covered = Cover(chunk.start) if note_gaps else None
        if not self._tail:
            self._tail_start = chunk.start

    def place(self, chunk: Chunk) -> Iterator[Extent]:
        """Give what the chunk has of the runs that are known by now; may be called again when there are more."""
        while self._due:
            if (extent := self._cut(self._due.pop(), chunk)) is not None:
                yield extent
        while self._heap and self._heap[0][0] < chunk.end:
            if (extent := self._cut(self._next(), chunk)) is not None:
                yield extent

    def _next(self) -> Run:
        _, number, cursor = self._heap[0]
        run = cursor.take()
        host = cursor.next_host
        if host is None:
            heapq.heappop(self._heap)
            self._cost -= cursor.cost
        else:
            heapq.heapreplace(self._heap, (host, number, cursor))
        return run

    def _cut(self, run: Run, chunk: Chunk) -> Extent | None:
        if run.end > chunk.end:
            if self._cost + self._active_cost >= max(self._limit, _SOME_ACTIVE):
                raise ImageMemory(detail=f"too many clusters lie on one spot, at byte {run.host} of the file")
            self._active.append(run)
        self.cover(run.host, run.end, run.end - SECTOR if run.inflated > 0 else run.end)
        if run.inflated == 0:
            start = max(run.host, chunk.start)
            guest = run.guest + start - run.host
            if self._covered is not None:
                self.placed.add(start, min(run.end, chunk.end), guest)
            return Write(guest, chunk.cut(start, run.end))
        if run.inflated == UNUSED or run.end > chunk.end:
            return None
        if self._covered is not None:
            self.inflated.add(run.host, run.host + 1, run.guest)
        return self.inflate(run, self._compressed(run, chunk))

    def inflate(self, run: Run, data: memoryview) -> Inflate:
        """The extent of a compressed cluster whose bytes are there."""
        return Inflate(run.guest, run.inflated, data, self._header.codec, self._header.cluster_size)

    def _compressed(self, run: Run, chunk: Chunk) -> memoryview:
        if run.host >= chunk.start:
            return chunk.cut(run.host, run.end)
        return memoryview(bytes(self._tail[run.host - self._tail_start :]) + chunk.cut(chunk.start, run.end))

    def end(self, chunk: Chunk) -> None:
        """The chunk is over: keep what unfinished compressed clusters have had of it."""
        hosts = [run.host for run in self._active if run.inflated > 0]
        first = min(hosts, default=chunk.end)
        if first >= chunk.start:
            self._tail = bytearray(chunk.cut(first, chunk.end))
        else:
            del self._tail[: first - self._tail_start]
            self._tail += chunk.data
        self._tail_start = first

    # -- what nobody wanted

    def cover(self, start: int, end: int, sure: int) -> None:
        """File bytes [start, end) have an owner; those from `sure` on only perhaps."""
        if self._covered is not None:
            self._covered.add(start, end, sure)

    def gaps(self, chunk: Chunk) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The ranges of the chunk that no run and no table has covered, and those of which that is not sure.

        The last sector of a compressed cluster is its own as far as the next compressed cluster begins in it: up to
        there, only a tiny unknown one may stand between the two. When none is known that begins in it, the sector
        may hold the head of an unknown one: then it is a gap.
        """
        intervals = [] if self._covered is None else [self._covered.in_order()]
        # The next run of the heap begins behind the chunk, and what is left before it is a gap to its end.
        intervals.append(iter([(self._heap[0][0] if self._heap else _NOWHERE, chunk.end, chunk.end)]))
        gaps: list[tuple[int, int]] = []
        doubts: list[tuple[int, int]] = []
        sure = perhaps = chunk.start
        for start, this_sure, this_perhaps in chain(*intervals):
            if min(start, chunk.end) > sure:
                (gaps if start >= perhaps else doubts).append((sure, min(start, chunk.end)))
            sure, perhaps = max(sure, this_sure), max(perhaps, this_perhaps)
        return gaps, doubts

    # -- the end of the file

    def finish(self, position: int) -> Iterator[Extent]:
        """Give the compressed clusters whose last sector is cut by the end of the file at `position`."""
        active, self._active = self._active, []
        for run in active:
            if run.inflated > 0 and run.host < position and run.end - position < SECTOR:
                data = bytes(self._tail[run.host - self._tail_start :])
                yield self.inflate(run, memoryview(data))
            elif run.inflated != UNUSED:
                self._active.append(run)

    def missing(self) -> Run | None:
        """One run of the guest's bytes that has not arrived, if there is any."""
        while not self._active and self._heap:
            run = self._next()
            if run.inflated != UNUSED:
                self._active.append(run)
        return self._active[0] if self._active else None
