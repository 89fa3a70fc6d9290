"""What was written, remembered in a few MiB: enough to tell whether a disk gives back the same. Pure, but for the sink.

The disk is divided into regions, each with a sum of what lies in it. The sum is linear: that of a region is the sum of
what each write contributes by its place, so writes may come in any order and of any length, and zeros contribute
nothing. Bytes that are written once more take the contribution of the old ones out first; these are read for that.

The sum is CRC-32 and Adler-32 of the whole region, both without their initial values, of which each is linear over
another field: 64 bits in all. A disk is no adversary, but fails in ways that CRCs were made for; one that lies on
purpose could answer the reading and lie later. Both together cost 0.3 ms of each MiB; a keyed digest of the library
would cost ten times that, in the thread that writes.
"""

import functools
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent.transfer.sink import Sink
from agent.units import MiB

MAX_REGIONS = 256 * 1024
MIN_REGION = MiB
UNITS = 2048
"""Of a region that is not complete yet, what has been written is known by so many units."""
MAX_PARTIAL = 16 * 1024
"""Regions that are not complete yet, of which that is known: 0.4 KiB each."""
MAX_SPLIT = 4096
"""Units of which only a part has been written."""

_ADLER = 65521
_BASE = 0xFFFFFFFF

_NONE, _PARTIAL, _WHOLE, _UNSURE = range(4)
"""How much of a region has been written. Unsure: it is not known, for too many were partial at once."""

Range = tuple[int, int]
"""A range [start, end) in bytes."""

Sum = tuple[int, int, int]
"""The CRC, and the two halves of the Adler sum."""

NOTHING: Sum = (0, 0, 0)
"""The sum of zeros, of any number of them."""


def contribution(data: memoryview | bytes, after: int) -> Sum:
    """What bytes add to the sum of a region that goes on for `after` bytes behind them."""
    library = _library()
    crc = library.crc32(data, _BASE) ^ _BASE
    halves = library.adler32(data, 0)
    low, high = halves & 0xFFFF, halves >> 16
    return library.crc32_combine(crc, 0, after), low, (high + after * low) % _ADLER


@functools.cache
def _library() -> Any:
    from isal import isal_zlib  # noqa: PLC0415 - only where something is read back

    return isal_zlib


def combined(one: Sum, other: Sum) -> Sum:
    """The sum of both."""
    return one[0] ^ other[0], (one[1] + other[1]) % _ADLER, (one[2] + other[2]) % _ADLER


def without(one: Sum, other: Sum) -> Sum:
    """The sum of the one, less the other."""
    return one[0] ^ other[0], (one[1] - other[1]) % _ADLER, (one[2] - other[2]) % _ADLER


class Record:
    """The sums of a disk, and which bytes of it they are of. Not safe in several threads at once.

    Memory: 9 bytes a region, of which there are at most `MAX_REGIONS`, and at most 7 MiB for those that are not
    complete.
    """

    def __init__(
        self,
        size: int,
        *,
        region: int = MIN_REGION,
        max_partial: int = MAX_PARTIAL,
        max_split: int = MAX_SPLIT,
    ) -> None:
        """Nothing has been written.

        Args:
            size: of the disk, in bytes.
            region: the least length of a region; a power of two, `UNITS` or more.
            max_partial: see `MAX_PARTIAL`.
            max_split: see `MAX_SPLIT`.
        """
        self.size = size
        self.region = region
        self._max_partial = max_partial
        self._max_split = max_split
        while size > self.region * MAX_REGIONS:
            self.region *= 2
        self._unit = self.region // UNITS
        self.reset()

    def reset(self) -> None:
        """Forget everything: it is written from the beginning."""
        count = -(-self.size // self.region)
        self._crc = array("I", bytes(4 * count))
        self._low = array("H", bytes(2 * count))
        self._high = array("H", bytes(2 * count))
        self._state = bytearray(count)
        self._masks: dict[int, int] = {}
        """Of a partial region: which units are covered wholly, a bit for each."""
        self._split: dict[int, dict[int, list[Range]]] = {}
        """Of a partial region: of each unit that is covered in part, what of it is."""
        self._split_count = 0

    # -- what was written --------------------------------------------------------------------------------

    def pieces(self, offset: int, length: int) -> Iterator[Range]:
        """A range, cut at the ends of regions."""
        end = offset + length
        while offset < end:
            cut = min(end, (offset // self.region + 1) * self.region)
            yield offset, cut
            offset = cut

    def after(self, end: int) -> int:
        """For how many bytes the region of the byte before `end` goes on behind it."""
        return -end % self.region

    def overlap(self, start: int, end: int) -> list[Range]:
        """Which bytes of a piece, which lies in one region, were written before. Of an unsure region none is known."""
        number = start // self.region
        state = self._state[number]
        if state == _WHOLE or (state == _UNSURE and (start, end) == self.bounds(number)):
            return [(start, end)]
        if state != _PARTIAL:
            return []
        first, last = start // self._unit, -(-end // self._unit)
        if number not in self._split and not self._masks[number] & self._bits(number, first, last):
            return []
        known = self._ranges_in(number)
        return [(max(low, start), min(high, end)) for low, high in known if low < end and start < high]

    def replaces_all(self, start: int, end: int) -> bool:
        """Whether a piece lies over all that was written in its region."""
        number = start // self.region
        if (start, end) == self.bounds(number):
            return True
        return self._state[number] != _UNSURE and all(
            start <= low and high <= end for low, high in self._ranges_in(number)
        )

    def clear(self, start: int) -> None:
        """The region of this byte holds nothing that was written before."""
        number = start // self.region
        self._put(number, NOTHING)
        self._forget(number)
        self._state[number] = _NONE

    def add(self, start: int, end: int, added: Sum, removed: Sum = NOTHING) -> None:
        """A piece, which lies in one region, has been written.

        Args:
            start: its first byte.
            end: behind its last one.
            added: what it contributes.
            removed: what those of its bytes contributed that had been written before.
        """
        number = start // self.region
        self._put(number, without(combined(self.sum_of(number), added), removed))
        self._cover(number, start, end)

    def settle(self, end: int) -> None:
        """All bytes before `end` have been written, or were zeroed: whatever is not known to be is known now."""
        whole = end // self.region
        for number in [number for number in self._masks if number < whole]:
            self._forget(number)
        self._state[:whole] = bytes([_WHOLE]) * whole
        if end % self.region:
            if self._state[whole] == _UNSURE:
                self._state[whole] = _NONE
            self._cover(whole, whole * self.region, end)

    def _put(self, number: int, total: Sum) -> None:
        self._crc[number], self._low[number], self._high[number] = total

    def _cover(self, number: int, start: int, end: int) -> None:
        low, high = self.bounds(number)
        if (start, end) == (low, high):
            self._forget(number)
            self._state[number] = _WHOLE
        if self._state[number] in (_WHOLE, _UNSURE):
            return
        if self._state[number] == _NONE and len(self._masks) >= self._max_partial:
            self._state[number] = _UNSURE
            return
        self._state[number] = _PARTIAL
        self._masks.setdefault(number, 0)
        first, last = -(-start // self._unit), end // self._unit
        if first > last:  # within one unit
            self._cover_part(number, start, end)
        else:
            self._cover_units(number, first, last)
            self._cover_part(number, start, min(first * self._unit, end))
            self._cover_part(number, max(last * self._unit, start), end)
        if self._state[number] == _PARTIAL:
            units = -(-(high - low) // self._unit)
            if self._masks[number] == (1 << units) - 1:
                self._forget(number)
                self._state[number] = _WHOLE

    def _bits(self, number: int, first: int, last: int) -> int:
        return ((1 << (last - first)) - 1) << (first - number * UNITS)

    def _cover_units(self, number: int, first: int, last: int) -> None:
        self._masks[number] |= self._bits(number, first, last)
        split = self._split.get(number, {})
        for unit in [unit for unit in split if first <= unit < last]:
            del split[unit]
            self._split_count -= 1
        if not split:
            self._split.pop(number, None)

    def _cover_part(self, number: int, start: int, end: int) -> None:
        """Some bytes of one unit."""
        if start >= end or self._state[number] != _PARTIAL:
            return
        unit = start // self._unit
        if self._masks[number] & self._bits(number, unit, unit + 1):
            return
        split = self._split.get(number, {})
        ranges = merged([*split.get(unit, ()), (start, end)])
        if ranges == [(unit * self._unit, min((unit + 1) * self._unit, self.size))]:
            self._cover_units(number, unit, unit + 1)
        elif unit in split or self._split_count < self._max_split:
            self._split_count += unit not in split
            self._split.setdefault(number, split)[unit] = ranges
        else:
            self._forget(number)
            self._state[number] = _UNSURE

    def _forget(self, number: int) -> None:
        self._masks.pop(number, None)
        self._split_count -= len(self._split.pop(number, ()))

    # -- what has to be there ------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many regions there are."""
        return len(self._state)

    def bounds(self, number: int) -> Range:
        """The range of a region."""
        return number * self.region, min((number + 1) * self.region, self.size)

    def sum_of(self, number: int) -> Sum:
        """The sum of a region."""
        return self._crc[number], self._low[number], self._high[number]

    def ranges(self, number: int) -> list[Range]:
        """What of a region was written, in order: all of it where that is not known."""
        return [self.bounds(number)] if self._state[number] == _UNSURE else self._ranges_in(number)

    def _ranges_in(self, number: int) -> list[Range]:
        if self._state[number] == _WHOLE:
            return [self.bounds(number)]
        if self._state[number] != _PARTIAL:
            return []
        base, unit = number * UNITS, self._unit
        found = [(start * unit, min(end * unit, self.size)) for start, end in runs(self._masks[number], base)]
        for ranges in self._split.get(number, {}).values():
            found += ranges
        return merged(found)

    def total(self) -> int:
        """Bytes that were written."""
        return sum(end - start for number in range(len(self)) for start, end in self.ranges(number))


def runs(mask: int, base: int) -> Iterator[Range]:
    """The runs of bits that are set, as [start, end) counted from `base`."""
    at = 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        ones = (~mask & (mask + 1)).bit_length() - 1
        yield base + at + zeros, base + at + zeros + ones
        at += zeros + ones
        mask >>= ones


def merged(ranges: Sequence[Range]) -> list[Range]:
    """The same bytes in as few ranges as there can be, in order."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif start < end:
            found.append((start, end))
    return found


class Recorder:
    """A sink that has a record made of all that passes to another one.

    As with that one, `write` may be called by several threads at once, `start` and `finish` by one.
    """

    def __init__(self, inner: Sink, record: Record) -> None:
        self._inner = inner
        self._record = record
        self._lock = threading.Lock()
        """Held while the record is changed."""
        self._flight = threading.Lock()
        """Held while writes are begun or waited for."""
        self.size = inner.size

    def write(self, offset: int, data: memoryview) -> None:
        """Record and write."""
        self._take(offset, len(data), data)
        self._inner.write(offset, data)

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        """Record and begin. Of two that overlap the later one is begun when the earlier one is written."""
        done = 0
        for index, (offset, data) in enumerate(writes):
            if self._is_new(offset, len(data)):
                self._take(offset, len(data), data)
                continue
            self._begin(writes[done:index])
            done = index
            self._take(offset, len(data), data)
        self._begin(writes[done:])

    def finish(self) -> None:
        """Wait for the inner sink."""
        with self._flight:
            self._inner.finish()

    def zero(self, offset: int, length: int) -> None:
        """Record and zero."""
        self._take(offset, length, None)
        self._inner.zero(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Read from the inner sink."""
        return self._inner.read(offset, length)

    def _begin(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        if writes:
            with self._flight:
                self._inner.start(writes)

    def _is_new(self, offset: int, length: int) -> bool:
        with self._lock:
            return not any(
                self._record.overlap(start, end) for start, end in self._record.pieces(offset, length)
            )

    def _take(self, offset: int, length: int, data: memoryview | None) -> None:
        """Record bytes, or zeros. What was written there before is still on the disk, and goes out of the sums."""
        record = self._record
        for start, end in record.pieces(offset, min(length, record.size - offset)):
            added = NOTHING
            if data is not None:
                added = contribution(data[start - offset : end - offset], record.after(end))
            with self._lock:
                old = record.overlap(start, end)
                if old and record.replaces_all(start, end):
                    record.clear(start)
                    old = []
                removed = self._contributions(old)
                record.add(start, end, added, removed)

    def _contributions(self, ranges: Sequence[Range]) -> Sum:
        total = NOTHING
        if ranges:
            with self._flight:
                self._inner.finish()
        for start, end in ranges:
            total = combined(
                total, contribution(self._inner.read(start, end - start), self._record.after(end))
            )
        return total


class Difference(Exception):
    """What was read is not what was written: somewhere in the range [start, end)."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(f"bytes {start} to {end}")
        self.start, self.end = start, end


Read = Callable[[int, int], memoryview]
"""Reads so many bytes at an offset; what it gave before may be overwritten."""


def compare(record: Record, read: Read, step: int, passed: Callable[[int], None]) -> None:
    """Read everything that was written, in order, and compare it with the record.

    Args:
        record: of the writing.
        read: reads at most `step` bytes.
        step: a divisor of the regions' length.
        passed: is called with the number of bytes that were read; may raise, to end it.

    Raises:
        Difference: with the range of the first region that differs.
    """
    for number in range(len(record)):
        ranges = record.ranges(number)
        total = NOTHING
        for start, end in ranges:
            at = start
            while at < end:
                cut = min(end, (at // step + 1) * step)
                total = combined(total, contribution(read(at, cut - at), record.after(cut)))
                passed(cut - at)
                at = cut
        if ranges and total != record.sum_of(number):
            raise Difference(ranges[0][0], ranges[-1][1])
