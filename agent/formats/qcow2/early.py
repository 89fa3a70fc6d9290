"""Storage for file bytes that came before the L2 table that maps them.

Used by `agent.formats.qcow2.forward`, which enforces the bound. The bytes are copies in memory; when there are too
many, the oldest move to a scratch area of the disk and the store keeps their disk offset. A segment of zeros takes
space in neither place.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.formats.extent import Write
from agent.formats.qcow2.tables import SECTOR, bit_groups
from agent.units import KiB, align_down, align_up, divide_up

# Bytes of memory that a segment takes besides its data, for its Python objects.
OVERHEAD = 256

# The longest segment in bytes, before the bound of the store makes it shorter.
_BLOCK = 256 * KiB
_UNCERTAIN_RANGES = 1024  # of less than 512 bytes each


@dataclass(slots=True)
class Segment:
    """File bytes [start, start + length): in memory (`data`), on the disk at `scratch`, or all zeros (both None)."""

    start: int
    length: int
    data: bytearray | None
    scratch: int | None = None
    used: int = 0
    """A bit for each sector that has been written to the guest disk and is not needed any more."""

    @property
    def end(self) -> int:
        """File offset of the first byte after the segment."""
        return self.start + self.length


class Piece(NamedTuple):
    """File bytes [start, end) of one segment; without a segment these bytes are not in the store."""

    start: int
    end: int
    segment: Segment | None

    @property
    def data(self) -> memoryview | None:
        """The bytes, if they are in memory; the view is valid until the segment is released."""
        if self.segment is None or self.segment.data is None:
            return None
        return memoryview(self.segment.data)[self.start - self.segment.start : self.end - self.segment.start]

    @property
    def scratch(self) -> int | None:
        """Disk offset of the bytes, if they were moved to scratch."""
        if self.segment is None or self.segment.scratch is None:
            return None
        return self.segment.scratch + self.start - self.segment.start


@dataclass(slots=True)
class Scratch:
    """Disk range [start, end) beyond the guest's end; [start, position) is in use."""

    start: int
    end: int
    position: int

    @classmethod
    def between(cls, start: int, end: int) -> "Scratch":
        """An unused area; of length 0 if `end` is not above `start`."""
        return cls(start, max(start, end), start)

    def allocate(self, length: int) -> int | None:
        """Reserve `length` bytes and return their disk offset, or None if not so many are free."""
        offset = self.position
        if offset + length > self.end:
            return None
        self.position = align_up(offset + length, SECTOR)
        return offset


class UncertainSectors:
    """The most recent parts of sectors that probably belong to a known compressed cluster but may belong to another.

    A writer that compresses several clusters at once can put one of a few bytes between two others, shortly before the
    table that maps it. Only the latest `_UNCERTAIN_RANGES` are kept, less than 512 KiB: to keep all of them would take
    more memory than such a rare case is worth.
    """

    def __init__(self) -> None:
        self._ranges: deque[tuple[int, bytes]] = deque(maxlen=_UNCERTAIN_RANGES)

    def add(self, start: int, data: memoryview) -> None:
        """Keep a copy of less than a sector; calls come in file order."""
        last_start, last = self._ranges[-1] if self._ranges else (0, b"")
        if last_start + len(last) == start:
            self._ranges[-1] = (last_start, last + data)
        else:
            self._ranges.append((start, bytes(data)))

    def read(self, start: int, end: int) -> bytes:
        """The longest beginning of the file range [start, end) that is kept; empty if `start` is not."""
        for offset, data in self._ranges:
            if offset <= start < offset + len(data):
                return data[start - offset : end - offset]
        return b""

    def clear(self) -> None:
        """Drop everything; called when all tables are known."""
        self._ranges.clear()


class EarlyStore:
    """Segments in file order. `size` is the memory that they take, in bytes."""

    def __init__(self, limit: int) -> None:
        # At most a quarter of the bound, so that some segments can move to scratch while others stay.
        self._block = max(min(_BLOCK, align_down(limit // 4, SECTOR)), SECTOR)
        self._segments: list[Segment] = []
        self._open = False
        self.size = 0

    def split(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Split a file range at the offsets where a segment has to end; `add` takes the parts."""
        while start < end:
            stop = min(end, start - start % self._block + self._block)
            yield start, stop
            start = stop

    def add(self, offset: int, data: memoryview) -> None:
        """Keep a copy of the bytes at file offset `offset`, which is not below the end of the last call's."""
        last = self._segments[-1] if self._segments and self._open else None
        if last is None or last.data is None or last.end != offset or offset % self._block == 0:
            self._close_last()
            self._segments.append(Segment(offset, len(data), bytearray(data)))
            self.size += OVERHEAD + len(data)
            self._open = True
        else:
            last.data += data
            last.length += len(data)
            self.size += len(data)

    def pieces(self, start: int, end: int) -> list[Piece]:
        """The file range [start, end) as consecutive pieces; those that are not in the store have no segment."""
        self._close_last()
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
        """The piece was written to the guest disk and is not needed any more.

        Once that is true of half of a segment's sectors, the other half is copied and the segment's memory is freed.
        """
        segment = piece.segment
        if segment is None or segment.data is None:
            return
        base = segment.start // SECTOR
        first = piece.start // SECTOR if piece.start == segment.start else divide_up(piece.start, SECTOR)
        last = divide_up(piece.end, SECTOR) if piece.end == segment.end else piece.end // SECTOR
        if last > first:
            segment.used |= ((1 << (last - first)) - 1) << (first - base)
        count = divide_up(segment.end, SECTOR) - base
        if segment.used.bit_count() * 2 >= count:
            index = bisect_right(self._segments, segment.start, key=lambda other: other.start) - 1
            rest = [_copy_part(segment, first, last) for first, last in _still_needed(segment, base, count)]
            self._segments[index : index + 1] = rest
            self.size += sum(OVERHEAD + part.length for part in rest) - OVERHEAD - segment.length

    def spill(self, scratch: Scratch, target: int) -> Iterator[Write]:
        """Move the oldest segments to the disk until the rest take at most `target` bytes, or the area is full."""
        self._close_last()
        segments, self._segments, self.size = self._segments, [], 0
        held = sum(segment.length + OVERHEAD for segment in segments if segment.data is not None)
        for segment in segments:
            offset = scratch.allocate(segment.length) if segment.data is not None and held > target else None
            if segment.data is not None and offset is not None:
                yield Write(offset, memoryview(segment.data))
                held -= segment.length + OVERHEAD
                segment.data, segment.scratch = None, offset
            self._append(segment)

    def clear(self) -> None:
        """Drop everything; called when all tables are known."""
        self._segments.clear()
        self._open = False
        self.size = 0

    def _close_last(self) -> None:
        """Make the last segment final: a `bytearray` with exported views cannot grow."""
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
        if last is not None and _is_continued_by(last, segment):
            last.length += segment.length
            return
        self._segments.append(segment)
        self.size += OVERHEAD + (segment.length if segment.data is not None else 0)


def _still_needed(segment: Segment, base: int, count: int) -> Iterator[tuple[int, int]]:
    """The file ranges of a segment's sectors that are still needed."""
    for first, length, is_used in bit_groups(segment.used, count):
        if not is_used:
            start = (base + first) * SECTOR
            yield max(start, segment.start), min(start + length * SECTOR, segment.end)


def _copy_part(segment: Segment, start: int, end: int) -> Segment:
    data = segment.data[start - segment.start : end - segment.start] if segment.data is not None else None
    return Segment(start, end - start, data)


def _is_continued_by(last: Segment, segment: Segment) -> bool:
    """Whether `segment` directly continues `last`, both being zeros or both on the disk."""
    if last.data is not None or segment.data is not None or last.end != segment.start:
        return False
    if last.scratch is None or segment.scratch is None:
        return last.scratch is segment.scratch
    return last.scratch + last.length == segment.scratch
