"""Disk formats with a table, early in the file, that tells where each block of the guest disk lies in it.

VHD, VHDX and VDI are such formats, and differ in the form of their tables only. Their decoders read that table and note
every block here; `BlockMap` checks where the blocks lie, and gives each as it passes. Blocks that lie in the file in
another order than on the guest disk are nothing special. VMDK has its own map (`agent.formats.vmdk.decoder`): its
grains lie on a grid, so that half the memory will do, which matters at 32 times as many of them.

When a decoder has raised, what it has given is no valid guest disk.
"""

import hashlib
import heapq
import sys
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.errors import ImageChanged, ImageUnsafe
from agent.formats.extent import Extent, ImageTooLarge, Write, Zero
from agent.formats.intake import Intake, Parser
from agent.units import KiB, divide_up

Steps = Generator[Extent | None, None, None]
"""A part of a decoder as `agent.formats.intake.Parser` runs it: yields extents, and None when it needs more bytes."""

MAX_STORED = 2**22
"""Blocks that a file may have: 8 bytes of memory each. 8 TiB of data in blocks of 2 MiB, 4 TiB in those of VDI."""
# A noted block is one number: where it lies in the file, and below that which block of the guest disk it is.
_GUEST_BITS = 26
MAX_BLOCKS = 1 << _GUEST_BITS
"""Blocks that a guest disk may have: 64 TiB in blocks of 1 MiB."""
_PLACE_BITS = 64 - _GUEST_BITS
# What is sorted at once; as a list these take 2.5 MiB.
_RUN = 64 * KiB

_TABLE_PIECE = 64 * KiB
_UNUSED_PIECE = b"\xff" * _TABLE_PIECE

_CONVERT = "Make the image anew: qemu-img convert writes the table before the blocks."


@dataclass(frozen=True, slots=True)
class Layout:
    """What is the same for all blocks of a file. In bytes."""

    capacity: int
    """Size of the guest disk, whose last block may extend beyond its end."""
    block_size: int
    unit: int
    """Blocks lie at multiples of this in the file."""
    lead: int = 0
    """Length of what stands before each block in the file and is no part of it."""

    @property
    def blocks(self) -> int:
        """Number of blocks of the guest disk."""
        return divide_up(self.capacity, self.block_size)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A range of the file that was read out of order. The stream has to bring the same bytes."""

    offset: int
    length: int
    digest: bytes


def digest_of(data: bytes | bytearray | memoryview = b"") -> "hashlib.blake2b":
    """The digest of a `Fetched`."""
    return hashlib.blake2b(data, digest_size=16)


class Zeros:
    """Merges adjacent zero ranges and clips them to the guest disk."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._start = self._end = 0

    def add(self, offset: int, length: int) -> Iterator[Zero]:
        """Add a range; yield the ones before it if it does not follow them."""
        if offset != self._end:
            yield from self.flush()
            self._start = offset
        self._end = offset + length

    def flush(self) -> Iterator[Zero]:
        """Yield what is left."""
        end = min(self._end, self._capacity)
        if self._start < end:
            yield Zero(self._start, end - self._start)
        self._start = self._end


class BlockMap:
    """Where the blocks of the guest disk lie in the file.

    Memory: 8 bytes a block of the file, at most 32 MiB, and 6 MiB while they are put in order.
    """

    def __init__(self, intake: Intake, layout: Layout, max_stored: int = MAX_STORED) -> None:
        """Raises ImageUnsafe (check `NAME_tables`) where the guest disk has more than 64 Mi blocks.

        Args:
            intake: the file.
            layout: of its blocks.
            max_stored: blocks that the file may have.
        """
        self._intake = intake
        self._layout = layout
        self._zeros = Zeros(layout.capacity)
        self._stored = array("Q")
        self._max_stored = max_stored
        self._ordered = True
        if layout.blocks > MAX_BLOCKS:
            raise self.refused(f"{layout.blocks} blocks of {layout.block_size} bytes, more than {MAX_BLOCKS}")

    @property
    def held(self) -> int:
        """Bytes of memory that it takes."""
        return len(self._stored) * self._stored.itemsize

    def note(self, block: int, place: int) -> None:
        """Note that block `block` of the guest disk lies in the file at `place`, counted in `Layout.unit`.

        Raises:
            ImageUnsafe: the file has too many blocks (check `NAME_tables`).
            ImageDamaged: that is no place in a file.
        """
        if place >> _PLACE_BITS:
            raise self._intake.damaged(
                f"block {block} lies at byte {place * self._layout.unit}, beyond any file"
            )
        packed = place << _GUEST_BITS | block
        if self._stored:
            self._ordered = self._ordered and packed > self._stored[-1]
        if len(self._stored) == self._max_stored:
            raise self.refused(f"more than {self._max_stored} blocks with data")
        self._stored.append(packed)

    def note_zeros(self, block: int, count: int = 1) -> Iterator[Zero]:
        """Note that the file does not have `count` blocks from `block` on: yields zeros, many blocks at once."""
        return self._zeros.add(block * self._layout.block_size, count * self._layout.block_size)

    def read_table(
        self, byte_order: Literal["big", "little"], place_of: Callable[[int], int | None]
    ) -> Steps:
        """Take a table of 32 bits for each block of the guest disk, and note what it says.

        Args:
            byte_order: that of the entries.
            place_of: gives the place that an entry means, as `note` takes it, or None for a block of zeros. An entry of
                nothing but ones means zeros.
        """
        block, count = 0, self._layout.blocks
        while block < count:
            data = yield from self._intake.take(min(4 * (count - block), _TABLE_PIECE), "its table")
            entries = array("I", bytes(data))
            if byte_order != sys.byteorder:
                entries.byteswap()
            if data == _UNUSED_PIECE:
                yield from self.note_zeros(block, len(entries))
            else:
                yield from self._note_entries(block, map(place_of, entries))
            block += len(entries)

    def _note_entries(self, first: int, places: Iterable[int | None]) -> Iterator[Zero]:
        for block, place in enumerate(places, first):
            if place is None:
                yield from self.note_zeros(block)
            else:
                self.note(block, place)

    def check(self, file_size: int | None, fetched: Sequence[Fetched] = ()) -> Iterator[Zero]:
        """Check all blocks, once every one has been noted and before the first is read; yields the last zeros.

        Args:
            file_size: length of the file, if known.
            fetched: what was read from behind the stream's position, in file order; no block may lie over it.

        Raises:
            ImageUnsafe: a block lies in what has passed (check `NAME_tables`).
            ImageDamaged: two blocks lie over each other, or one beyond the file.
        """
        self._sort()
        layout, start = self._layout, self._intake.offset
        end, tables = start, [*fetched]
        for offset, block in self._in_file_order():
            while tables and tables[0].offset < offset + layout.lead + layout.block_size:
                end = max(end, tables[0].offset + tables.pop(0).length)
            if offset < start:
                raise self.refused(
                    f"block {block} lies at byte {offset}, before the table's end at byte {start}"
                )
            if offset < end:
                raise self._intake.damaged(
                    f"block {block} at byte {offset} lies over what ends at byte {end}"
                )
            end = offset + layout.lead + layout.block_size
        if file_size is not None and end > file_size:
            raise self._intake.damaged(f"its last block ends at byte {end}, the file at byte {file_size}")
        return self._zeros.flush()

    def steps(self, fetched: Sequence[Fetched] = ()) -> Steps:
        """Give the blocks as they pass, and pass over what lies between them.

        Raises:
            ImageDamaged: the file ends before its last block does, or brings other bytes than were fetched.
        """
        intake, layout, ahead = self._intake, self._layout, [*fetched]
        for offset, block in self._in_file_order():
            while ahead and ahead[0].offset < offset:
                yield from self._compare(ahead.pop(0))
            yield from intake.skip(offset + layout.lead - intake.offset, "the space before a block")
            yield from self._write(block)
        for table in ahead:
            yield from self._compare(table)

    def refused(self, detail: str) -> ImageUnsafe:
        """The error for a table that could be right but is not supported."""
        return ImageUnsafe(check=f"{self._intake.content}_tables", detail=detail, hint=_CONVERT)

    def _sort(self) -> None:
        """Put the blocks in order, run by run; `_in_file_order` merges the runs."""
        if not self._ordered:
            for at in range(0, len(self._stored), _RUN):
                self._stored[at : at + _RUN] = array("Q", sorted(self._stored[at : at + _RUN]))

    def _in_file_order(self) -> Iterator[tuple[int, int]]:
        """Offset in the file and guest block of each."""
        view = memoryview(self._stored)
        runs = [view[at : at + _RUN] for at in range(0, len(view), _RUN)]
        unit, mask = self._layout.unit, MAX_BLOCKS - 1
        for packed in view if self._ordered else heapq.merge(*runs):
            yield (packed >> _GUEST_BITS) * unit, packed & mask

    def _write(self, block: int) -> Steps:
        intake, layout = self._intake, self._layout
        offset = block * layout.block_size
        end = min(offset + layout.block_size, layout.capacity)
        padding = offset + layout.block_size - end
        while offset < end:
            piece = yield from intake.some(end - offset, "a block")
            yield Write(offset, piece)
            offset += len(piece)
        yield from intake.skip(padding, "its last block")

    def _compare(self, table: Fetched) -> Steps:
        intake = self._intake
        yield from intake.skip(table.offset - intake.offset, "the space before a table")
        digest, left = digest_of(), table.length
        while left:
            piece = yield from intake.some(left, "a table")
            digest.update(piece)
            left -= len(piece)
        if digest.digest() != table.digest:
            raise ImageChanged(
                url="the image",
                detail=f"bytes {table.offset} to {intake.offset - 1} differ when read twice",
            )


class BlockDecoder:
    """A decoder of such a format; the formats themselves write `_file`."""

    notes: Sequence[str] = ()

    def __init__(self, content: str, disk_size: int) -> None:
        """`content` is the format's name; `disk_size` the target disk's length in bytes."""
        self._disk_size = disk_size
        self._intake = Intake(content)
        self._parser: Parser[Extent] = Parser(self._intake, self._file())
        self._map: BlockMap | None = None
        self._virtual_size: int | None = None

    @property
    def virtual_size(self) -> int | None:
        """Size of the guest disk in bytes; None until it is known."""
        return self._virtual_size

    @property
    def used_scratch(self) -> None:
        """Nothing waits on the disk."""

    @property
    def held(self) -> int:
        """Bytes that the map of the blocks takes."""
        return 0 if self._map is None else self._map.held

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes of the file and yield the extents that they complete; no range is yielded twice.

        Raises:
            ImageTooLarge: the guest disk is larger than `disk_size`.
            ImageType: this is another format.
            ImageUnsafe: a named check refused the image.
            ImageDamaged: it contradicts itself.
        """
        return self._parser.feed(data)

    def finish(self) -> Iterator[Extent]:
        """Yield the last extents; the file has ended.

        Raises:
            ImageDamaged: it is not whole.
        """
        return self._parser.finish()

    def _file(self) -> Steps:
        """Parse the file."""
        raise NotImplementedError

    def _begin(self, layout: Layout) -> BlockMap:
        """The map to note the blocks in; called once, when the header has been read and before the first extent.

        Raises:
            ImageTooLarge: the guest disk does not fit.
            ImageUnsafe: it has too many blocks.
        """
        self._fit(layout.capacity)
        self._map = BlockMap(self._intake, layout)
        return self._map

    def _fit(self, virtual_size: int) -> None:
        self._virtual_size = virtual_size
        if virtual_size > self._disk_size:
            raise ImageTooLarge(virtual_size)
