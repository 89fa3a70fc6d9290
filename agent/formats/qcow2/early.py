"""Bytes of the file that came before the table that says whose they are.

Owned by the decoder in `agent.formats.qcow2.decoder`. The store holds copies, in memory up to the bound that the
decoder keeps; beyond it the oldest move to a scratch area of the disk, and the store remembers where.
Stretches of zeros take no room in either place.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.formats.extent import Write
from agent.formats.qcow2.tables import SECTOR, stretches
from agent.units import KiB, align_down, align_up

# What a segment takes beside its bytes: the objects that it is made of.
OVERHEAD = 256

_BLOCK = 256 * KiB
_DOUBTS = 1024  # of at most 512 bytes each


@dataclass(slots=True)
class Segment:
    """File bytes [start, start + length): in memory (`data`), on the disk (`scratch`), or zeros (neither)."""

    start: int
    length: int
    data: bytearray | None
    scratch: int | None = None
    used: int = 0
    """The sectors that have found their place, a bit each."""

    @property
    def end(self) -> int:
        """File offset behind the segment."""
        return self.start + self.length


class Piece(NamedTuple):
    """File bytes [start, end) in one segment, or in none: then they were not kept."""

    start: int
    end: int
    segment: Segment | None

    @property
    def data(self) -> memoryview | None:
        """The bytes, where they are in memory; valid until the segment is released."""
        if self.segment is None or self.segment.data is None:
            return None
        return memoryview(self.segment.data)[self.start - self.segment.start : self.end - self.segment.start]

    @property
    def scratch(self) -> int | None:
        """Where the bytes are on the disk, if they are there."""
        if self.segment is None or self.segment.scratch is None:
            return None
        return self.segment.scratch + self.start - self.segment.start


@dataclass(slots=True)
class Scratch:
    """A range of the disk [start, end) beyond the guest's, used from its start up to `position`."""

    start: int
    end: int
    position: int

    @classmethod
    def between(cls, start: int, end: int) -> "Scratch":
        """An unused area; an empty one where `end` is not above `start`."""
        return cls(start, max(start, end), start)

    def take(self, length: int) -> int | None:
        """Offset of `length` free bytes, or None when so much is not left."""
        offset = self.position
        if offset + length > self.end:
            return None
        self.position = align_up(offset + length, SECTOR)
        return offset


class Doubts:
    """The latest few hundred KiB of what most likely belongs to a compressed cluster and may be another's.

    A writer that works on several clusters at once lets a tiny one stand between two others, shortly before its
    table. Keeping such places for ever would take more memory than they are worth.
    """

    def __init__(self) -> None:
        self._ranges: deque[tuple[int, bytes]] = deque(maxlen=_DOUBTS)

    def add(self, start: int, data: memoryview) -> None:
        """Keep less than a sector, in the order of the file."""
        last, before = self._ranges[-1] if self._ranges else (0, b"")
        if last + len(before) == start:
            self._ranges[-1] = (last, before + data)
        else:
            self._ranges.append((start, bytes(data)))

    def read(self, start: int, end: int) -> bytes:
        """As much of a file range as is here, from its start on."""
        for begin, data in self._ranges:
            if begin <= start < begin + len(data):
                return data[start - begin : end - begin]
        return b""

    def clear(self) -> None:
        """Forget everything: all tables are known."""
        self._ranges.clear()


class EarlyStore:
    """Segments in the order of the file. `size` is the memory that they take in bytes."""

    def __init__(self, limit: int) -> None:
        # A fraction of the bound, so that there is always something to move and something to keep.
        self._block = max(min(_BLOCK, align_down(limit // 4, SECTOR)), SECTOR)
        self._segments: list[Segment] = []
        self._open = False
        self.size = 0

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a range where a segment has to end; `add` takes such pieces."""
        while start < end:
            stop = min(end, start - start % self._block + self._block)
            yield start, stop
            start = stop

    def add(self, offset: int, data: memoryview) -> None:
        """Keep a copy; `offset` is not below the end of what was added before."""
        last = self._segments[-1] if self._segments and self._open else None
        if last is None or last.data is None or last.end != offset or offset % self._block == 0:
            self._seal()
            self._segments.append(Segment(offset, len(data), bytearray(data)))
            self.size += OVERHEAD + len(data)
            self._open = True
        else:
            last.data += data
            last.length += len(data)
            self.size += len(data)

    def pieces(self, start: int, end: int) -> list[Piece]:
        """What there is of a range, without gaps: pieces that were not kept have no segment."""
        self._seal()
        found = []
        index = bisect_right(self._segments, start, key=lambda segment: segment.end)
        while start < end:
            segment = self._segments[index] if index < len(self._segments) else None
            if segment is None or segment.start >= end:
                found.append(Piece(start, end, None))
                break
            if segment.start > start:
                found.append(Piece(start, segment.start, None))
            begin, start = max(start, segment.start), min(end, segment.end)
            found.append(Piece(begin, start, segment))
            index += 1
        return found

    def release(self, piece: Piece) -> None:
        """The piece has found its place. Once that holds for half of a segment's sectors, the others move."""
        segment = piece.segment
        if segment is None or segment.data is None:
            return
        base = segment.start // SECTOR
        first = piece.start // SECTOR if piece.start == segment.start else -(-piece.start // SECTOR)
        last = -(-piece.end // SECTOR) if piece.end == segment.end else piece.end // SECTOR
        if last > first:
            segment.used |= ((1 << (last - first)) - 1) << (first - base)
        count = -(-segment.end // SECTOR) - base
        if segment.used.bit_count() * 2 >= count:
            index = bisect_right(self._segments, segment.start, key=lambda other: other.start) - 1
            rest = [_part(segment, first, last) for first, last in _unused(segment, base, count)]
            self._segments[index : index + 1] = rest
            self.size += sum(OVERHEAD + part.length for part in rest) - OVERHEAD - segment.length

    def spill(self, scratch: Scratch, target: int) -> Iterator[Write]:
        """Move the oldest bytes to the disk until at most `target` bytes of memory are used, or the area is full."""
        self._seal()
        segments, self._segments, self.size = self._segments, [], 0
        held = sum(segment.length + OVERHEAD for segment in segments if segment.data is not None)
        for segment in segments:
            offset = scratch.take(segment.length) if segment.data is not None and held > target else None
            if segment.data is not None and offset is not None:
                yield Write(offset, memoryview(segment.data))
                held -= segment.length + OVERHEAD
                segment.data, segment.scratch = None, offset
            self._append(segment)

    def clear(self) -> None:
        """Forget everything: all tables are known, nothing else can be asked for."""
        self._segments.clear()
        self._open = False
        self.size = 0

    def _seal(self) -> None:
        """Let the last segment grow no more, so that views of it may be given away."""
        if not self._open:
            return
        self._open = False
        segment = self._segments.pop()
        self.size -= OVERHEAD + segment.length
        if segment.data == bytearray(segment.length):
            segment.data = None
        self._append(segment)

    def _append(self, segment: Segment) -> None:
        last = self._segments[-1] if self._segments else None
        if last is not None and _continues(last, segment):
            last.length += segment.length
            return
        self._segments.append(segment)
        self.size += OVERHEAD + (segment.length if segment.data is not None else 0)


def _unused(segment: Segment, base: int, count: int) -> Iterator[tuple[int, int]]:
    """The file ranges of the sectors that have not found their place."""
    for first, length, is_used in stretches(segment.used, count):
        if not is_used:
            start = (base + first) * SECTOR
            yield max(start, segment.start), min(start + length * SECTOR, segment.end)


def _part(segment: Segment, start: int, end: int) -> Segment:
    data = segment.data[start - segment.start : end - segment.start] if segment.data is not None else None
    return Segment(start, end - start, data)


def _continues(last: Segment, segment: Segment) -> bool:
    """Whether two segments without bytes in memory are one."""
    if last.data is not None or segment.data is not None or last.end != segment.start:
        return False
    if last.scratch is None or segment.scratch is None:
        return last.scratch is segment.scratch
    return last.scratch + last.length == segment.scratch
