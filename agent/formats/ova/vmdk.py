"""VMDK in one forward pass: streamOptimized by its grain markers, monolithicSparse by its grain tables.

Both may lay a grain directory and its tables in front (qemu-img does); streamOptimized may also lay them behind the
grains, with a footer that says where (VMware does). Grains that the file does not have are zeros. The tables and the
markers must agree: what another reader would read by the one is what this decoder has given by the other.

Source: VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents" and "Stream-Optimized Compressed Sparse Extents".
"""

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from agent.errors import ImageUnsafe
from agent.formats.extent import Extent, ImageTooLarge, Inflate, Write, Zero
from agent.formats.intake import Intake, Parser
from agent.formats.ova.vmdk_header import (
    GTES_PER_TABLE,
    SECTOR,
    TABLE_BYTES,
    Header,
    check_descriptor,
    check_layout,
    parse_header,
)

# A grain table's entry for zeros, where the header allows it.
_ZEROED = 1
# Grains that a monolithicSparse file may hold: 512 GiB of data at the usual 64 KiB, 32 MiB of index.
MAX_FILE_GRAINS = 2**23

# A grain directory may be so much longer than the disk needs.
_SPARE_SECTORS = 1
_MARKER = struct.Struct("<QI")
_EOS, _GRAIN_TABLE, _GRAIN_DIRECTORY, _FOOTER, _PROGRESS = range(5)
# vSphere writes markers of progress, of which its specification says nothing. What is larger than this, in sectors,
# is no length: VirtualBox passes over the marker alone, and reads those images.
_MAX_PROGRESS = 128
_TABLE = struct.Struct(f"<{GTES_PER_TABLE}I")
_NO_GRAINS = bytes(TABLE_BYTES)

_Steps = Generator[Extent | None, None, None]
_Place = Callable[[int, tuple[int, ...]], None]


class VmdkDecoder:
    """Decodes one VMDK file.

    Memory: a grain (4 MiB at most); the grain directory (1 MiB for 8 TiB, and 11 MiB for a moment while its tables are
    put in order); for streamOptimized a bit for each grain and 32 bytes for each table (24 MiB for 8 TiB), touched only
    where there are grains; for monolithicSparse 4 bytes for each grain of the file (32 MiB at most).
    """

    notes: Sequence[str] = ()

    def __init__(self, disk_size: int) -> None:
        """`disk_size` in bytes: no larger guest disk is accepted."""
        self._disk_size = disk_size
        self._intake = Intake("vmdk")
        self._parser: Parser[Extent] = Parser(self._intake, self._file())
        self._header: Header | None = None

    @property
    def virtual_size(self) -> int | None:
        """The capacity of the header, in bytes; known before the first extent is given."""
        return None if self._header is None else self._header.capacity

    @property
    def used_scratch(self) -> None:
        """Nothing waits on the disk."""

    @property
    def held(self) -> int:
        """No more than the class says, which is a few MiB."""
        return 0

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes.

        A range may be given as zeros first and as a grain later, where a streamOptimized file does not have its grains
        in ascending order; nothing else is given twice.

        Raises:
            ImageTooLarge: the guest disk is larger than `disk_size`.
            ImageType: this is no VMDK.
            ImageUnsafe: parent, other files, or beyond the bounds.
            ImageDamaged: the file contradicts itself.
        """
        return self._parser.feed(data)

    def finish(self) -> Iterator[Extent]:
        """The file has ended.

        Raises:
            ImageDamaged: it is not whole, or its tables do not agree with its grains.
        """
        return self._parser.finish()

    def _file(self) -> _Steps:
        intake = self._intake
        header = parse_header(bytes((yield from intake.take(SECTOR, "its header"))))
        check_layout(header)
        yield from intake.skip(header.descriptor_offset - intake.offset, "the space before its descriptor")
        check_descriptor(bytes((yield from intake.take(header.descriptor_size, "its descriptor"))))
        if header.capacity > self._disk_size:
            raise ImageTooLarge(header.capacity)
        self._header = header
        yield from (_Stream if header.compressed else _Sparse)(header, intake).steps()


class _Tables:
    """The grain directory and the grain tables that lie before the grains."""

    def __init__(self, header: Header, intake: Intake) -> None:
        self._header = header
        self._intake = intake
        self._zeros = _Zeros(header.capacity)

    def steps(self, place: _Place) -> _Steps:
        """Read them in the order of the file: give what they map to nothing as zeros, and `place` the entries of each
        table (its number and the entries, as sectors) that maps something.
        """
        header, intake = self._header, self._intake
        yield from self._seek(header.gd_offset or 0, 4 * header.tables, "the grain directory")
        directory = yield from read_directory(header, intake)
        for index, sector in enumerate(directory):
            if sector == 0:
                yield from self._zeros.add(index * header.table_span, header.table_span)
        for packed in sorted(sector << 32 | index for index, sector in enumerate(directory) if sector):
            index = packed & 0xFFFFFFFF
            yield from self._seek((packed >> 32) * SECTOR, TABLE_BYTES, f"grain table {index}")
            data = yield from intake.take(TABLE_BYTES, "a grain table")
            if data == _NO_GRAINS:
                yield from self._zeros.add(index * header.table_span, header.table_span)
                continue
            entries = read_table(header, index, data)
            place(index, entries)
            yield from self._gaps(index, entries)
        yield from self._zeros.flush()

    def _seek(self, offset: int, length: int, what: str) -> Generator[None, None, None]:
        intake = self._intake
        if offset < intake.offset or offset + length > self._header.overhead:
            raise ImageUnsafe(
                check="vmdk_tables",
                detail=f"{what} at byte {offset} is not between byte {intake.offset} and the grains at byte "
                f"{self._header.overhead}",
            )
        yield from intake.skip(offset - intake.offset, f"the space before {what}")

    def _gaps(self, index: int, entries: tuple[int, ...]) -> Iterator[Zero]:
        grain = self._header.grain_size
        base = index * self._header.table_span
        for slot, sector in enumerate(entries):
            if sector == 0:
                yield from self._zeros.add(base + slot * grain, grain)


class _Zeros:
    """Merges zero ranges that touch, and cuts them at the end of the disk."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._start = self._end = 0

    def add(self, offset: int, length: int) -> Iterator[Zero]:
        if offset != self._end:
            yield from self.flush()
            self._start = offset
        self._end = offset + length

    def flush(self) -> Iterator[Zero]:
        end = min(self._end, self._capacity)
        if self._start < end:
            yield Zero(self._start, end - self._start)
        self._start = self._end


def read_directory(header: Header, intake: Intake) -> Generator[None, None, "array[int]"]:
    """Take the grain directory: for each table the sector where it lies, 0 for none."""
    data = yield from intake.take(4 * header.tables, "the grain directory")
    directory = array("I", bytes(data))
    if sys.byteorder == "big":
        directory.byteswap()
    return directory


def read_table(header: Header, index: int, data: memoryview) -> tuple[int, ...]:
    """The entries of a grain table within the disk: the sector of each grain, 0 for zeros."""
    entries = _TABLE.unpack(data)[: header.grains - index * GTES_PER_TABLE]
    if header.zeroed_grains:
        entries = tuple(0 if sector == _ZEROED else sector for sector in entries)
    return entries


class _Sparse:
    """Uncompressed grains, found by the tables in front of them."""

    def __init__(self, header: Header, intake: Intake) -> None:
        self._header = header
        self._intake = intake
        # For each grain of the file, counted from the end of the overhead: 1 + the guest's grain, or 0.
        self._owners = array("I")

    def steps(self) -> _Steps:
        intake = self._intake
        yield from _Tables(self._header, intake).steps(self._place)
        yield from intake.skip(
            self._header.overhead - intake.offset, "the space before its grains", may_end=not self._owners
        )
        at = 0
        while at < len(self._owners):
            count = self._run(at)
            if self._owners[at]:
                yield from self._give(self._owners[at] - 1, count)
            else:
                yield from intake.skip(count * self._header.grain_size, "its grains")
            at += count
        while not (yield from intake.at_end()):
            yield from intake.some(self._header.grain_size, "what no table names")

    def _place(self, index: int, entries: tuple[int, ...]) -> None:
        header, owners = self._header, self._owners
        for slot, sector in enumerate(entries):
            if sector == 0:
                continue
            at, rest = divmod(sector * SECTOR - header.overhead, header.grain_size)
            if at < 0 or rest or at >= MAX_FILE_GRAINS:
                raise ImageUnsafe(check="vmdk_tables", detail=f"a grain at sector {sector} is out of bounds")
            if at >= len(owners):
                owners.frombytes(bytes(owners.itemsize * (at + 1 - len(owners))))
            if owners[at]:
                raise self._intake.damaged(f"two grains of the disk lie at sector {sector}")
            owners[at] = index * GTES_PER_TABLE + slot + 1

    def _run(self, at: int) -> int:
        """How many grains from there on belong together: side by side on the guest disk too, or unused."""
        owners, first = self._owners, self._owners[at]
        step = 1 if first else 0
        count = 1
        while at + count < len(owners) and owners[at + count] == first + step * count:
            count += 1
        return count

    def _give(self, grain: int, count: int) -> _Steps:
        header, intake = self._header, self._intake
        offset = grain * header.grain_size
        end = min(offset + count * header.grain_size, header.capacity)
        padding = offset + count * header.grain_size - end
        while offset < end:
            piece = yield from intake.some(end - offset, "its grains")
            yield Write(offset, piece)
            offset += len(piece)
        yield from intake.skip(padding, "its last grain", may_end=True)


class _Stream:
    """Compressed grains, each behind a marker that says where it belongs."""

    def __init__(self, header: Header, intake: Intake) -> None:
        self._header = header
        self._intake = intake
        self._tables_first = header.gd_offset is not None and header.gd_offset < header.overhead
        self._seen = bytearray(-(-header.grains // 8))
        self._frontier = 0
        # A table's fingerprint is the sum of hashes of its slots and their sectors; here by what the markers say ...
        self._given = _numbers(header.tables)
        # ... and here by what the tables say: by number, or first by where they lie.
        self._expected = _numbers(header.tables)
        self._table_sectors = _numbers(0)
        self._table_prints = _numbers(0)
        self._directory: array[int] | None = None
        self._directory_offset: int | None = header.gd_offset
        self._footer_seen = False

    def steps(self) -> _Steps:
        header, intake = self._header, self._intake
        if self._tables_first:
            yield from _Tables(header, intake).steps(self._expect)
        yield from intake.skip(header.overhead - intake.offset, "the space before its grains")
        # Where the tables come first they prove that nothing is missing; qemu-img then writes no end marker.
        while not self._tables_first or not (yield from intake.at_end()):
            value, size = _MARKER.unpack((yield from intake.take(_MARKER.size, "its markers")))
            if size:
                yield from self._grain(value, size)
                continue
            rest = yield from intake.take(SECTOR - _MARKER.size, "a marker")
            kind = int.from_bytes(rest[:4], "little")
            if kind == _EOS and value == 0:
                break
            yield from self._metadata(kind, value)
        if self._tables_first:
            yield from self._zeros_to_end()
        self._compare()
        if not self._tables_first and self._frontier < header.capacity:
            yield Zero(self._frontier, header.capacity - self._frontier)

    def _zeros_to_end(self) -> Generator[None, None, None]:
        """qemu-img fills up a last grain that the disk's end cuts, as if it were not compressed."""
        intake = self._intake
        while not (yield from intake.at_end()):
            if bytes((yield from intake.some(self._header.grain_size, "the end"))).strip(b"\0"):
                raise intake.damaged(f"garbage follows its last grain, before byte {intake.offset}")

    def _expect(self, index: int, entries: tuple[int, ...]) -> None:
        self._expected[index] = _fingerprint(entries)

    def _grain(self, sector: int, size: int) -> _Steps:
        header, intake = self._header, self._intake
        at = (intake.offset - _MARKER.size) // SECTOR
        offset = sector * SECTOR
        grain, rest = divmod(offset, header.grain_size)
        if rest or offset >= header.capacity or size > 2 * header.grain_size or self._footer_seen:
            raise intake.damaged(f"the marker at sector {at} names sector {sector} and {size} bytes")
        self._mark(grain, at)
        length = min(header.grain_size, header.capacity - offset)
        data = yield from intake.take(size, f"the grain at sector {at}")
        if not self._tables_first:
            if offset > self._frontier:
                yield Zero(self._frontier, offset - self._frontier)
            self._frontier = max(self._frontier, offset + length)
        yield Inflate(offset, length, data, "zlib", header.grain_size)
        padding = -(_MARKER.size + size) % SECTOR
        yield from intake.skip(padding, "a grain's padding", may_end=self._tables_first)

    def _mark(self, grain: int, at: int) -> None:
        byte, bit = grain >> 3, 1 << (grain & 7)
        if self._seen[byte] & bit:
            raise self._intake.damaged(f"grain {grain} comes a second time, at sector {at}")
        self._seen[byte] |= bit
        index, slot = divmod(grain, GTES_PER_TABLE)
        self._given[index] = (self._given[index] + _slot_print(slot, at)) & _PRINT_MASK

    def _metadata(self, kind: int, sectors: int) -> Generator[None, None, None]:
        """A grain table, the grain directory, the footer or a mark of progress, behind its marker."""
        header, intake = self._header, self._intake
        at = intake.offset
        if kind > _PROGRESS:
            raise ImageUnsafe(
                check="unknown_features",
                detail=f"the marker before byte {at} has the unknown type {kind}",
                hint="qemu-img reads such an image by its tables alone: qemu-img convert -O qcow2 IMAGE NEW.qcow2.",
            )
        if kind == _PROGRESS and not self._footer_seen:
            yield from intake.skip(sectors * SECTOR if sectors <= _MAX_PROGRESS else 0, "a mark of progress")
            return
        lengths = {_GRAIN_TABLE: TABLE_BYTES, _GRAIN_DIRECTORY: 4 * header.tables, _FOOTER: SECTOR}
        length = lengths.get(kind)
        # Some tools end with an empty table for grains behind the disk's end, which makes the directory longer.
        spare = _SPARE_SECTORS if kind == _GRAIN_DIRECTORY else 0
        if length is None or not 0 <= sectors - -(-length // SECTOR) <= spare or self._footer_seen:
            raise intake.damaged(f"the marker before byte {at} has the type {kind} and {sectors} sectors")
        if kind == _GRAIN_TABLE:
            data = yield from intake.take(length, "a grain table")
            self._keep_table(at, data)
        elif kind == _GRAIN_DIRECTORY:
            directory = yield from read_directory(header, intake)
            if header.gd_offset in (None, at):
                self._directory, self._directory_offset = directory, at
        else:
            self._check_footer((yield from intake.take(length, "the footer")))
        yield from intake.skip(sectors * SECTOR - length, "the grain directory")

    def _keep_table(self, at: int, data: memoryview) -> None:
        if len(self._table_sectors) > 2 * self._header.tables:
            raise self._intake.damaged(f"it has more than {2 * self._header.tables} grain tables")
        self._table_sectors.append(at // SECTOR)
        self._table_prints.append(_fingerprint(read_table(self._header, 0, data)))

    def _check_footer(self, sector: memoryview) -> None:
        footer = parse_header(bytes(sector))
        if replace(footer, gd_offset=self._header.gd_offset) != self._header:
            raise self._intake.damaged("its footer contradicts its header")
        if footer.gd_offset != self._directory_offset:
            raise self._intake.damaged("its footer does not say where the grain directory is")
        self._footer_seen = True

    def _compare(self) -> None:
        """Raises ImageDamaged unless the tables name the grains that were given, where they were."""
        if not self._tables_first:
            if self._directory is None or not (self._footer_seen or self._header.gd_offset):
                raise self._intake.damaged("it ends without grain directory and footer")
            for index, sector in enumerate(self._directory):
                self._expected[index] = self._print_of(index, sector) if sector else 0
        for index, (given, expected) in enumerate(zip(self._given, self._expected, strict=True)):
            if given != expected:
                raise self._intake.damaged(f"grain table {index} does not name the grains that the file has")

    def _print_of(self, index: int, sector: int) -> int:
        at = bisect_left(self._table_sectors, sector)
        if at == len(self._table_sectors) or self._table_sectors[at] != sector:
            raise self._intake.damaged(f"grain table {index} is not at sector {sector}")
        return self._table_prints[at]


_PRINT_MASK = 2**64 - 1


def _numbers(count: int) -> "array[int]":
    return array("Q", bytes(8 * count))


def _slot_print(slot: int, sector: int) -> int:
    return hash((slot, sector)) & _PRINT_MASK


def _fingerprint(entries: tuple[int, ...]) -> int:
    total = sum(_slot_print(slot, sector) for slot, sector in enumerate(entries) if sector)
    return total & _PRINT_MASK
