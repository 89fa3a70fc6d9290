"""Decodes the grains of a streamOptimized VMDK: compressed, each behind a marker with its place on the guest disk.

Used by `agent.formats.vmdk.decoder`. The grain tables come before the grains (qemu-img) or after them, with a footer
that gives the offset of their directory (VMware). They must agree with the markers: a reader that uses the tables would
read what this decoder has yielded by the markers. Source: VMware, Virtual Disk Format 5.0, "Stream-Optimized Compressed
Sparse Extents".
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Generator
from dataclasses import replace

from agent.errors import ImageUnsafe
from agent.formats.blocks import Steps
from agent.formats.extent import Inflate, Zero
from agent.formats.intake import Intake
from agent.formats.vmdk.header import GTES_PER_TABLE, SECTOR, TABLE_BYTES, Header, parse_header
from agent.formats.vmdk.tables import LeadingTables, take_grain_directory, unpack_grain_table
from agent.units import divide_up

# A grain directory may be this much longer than the disk needs.
_SPARE_SECTORS = 1
_MARKER = struct.Struct("<QI")
_EOS, _GRAIN_TABLE, _GRAIN_DIRECTORY, _FOOTER, _PROGRESS = range(5)
# vSphere writes progress markers, which the specification does not describe. A larger size than this, in sectors, is
# not a length: VirtualBox skips the marker alone, and reads those images.
_MAX_PROGRESS = 128
_HASH_MASK = 2**64 - 1


class StreamGrains:
    """The grains of one streamOptimized file."""

    def __init__(self, header: Header, intake: Intake) -> None:
        self._header = header
        self._intake = intake
        self._tables_first = header.gd_offset is not None and header.gd_offset < header.overhead
        self._seen_grains = bytearray(divide_up(header.grains, 8))
        self._yielded_end = 0
        # For each grain table a hash of its entries (`_table_hash`), from the markers and from the tables themselves.
        self._marker_hashes = _numbers(header.tables)
        self._table_hashes = _numbers(header.tables)
        # Tables after the grains: the sector and the hash of each, until the directory gives their indices.
        self._trailing_sectors = _numbers(0)
        self._trailing_hashes = _numbers(0)
        self._directory: array[int] | None = None
        self._directory_offset: int | None = header.gd_offset
        self._footer_seen = False

    def steps(self) -> Steps:
        """Read the file from the end of its descriptor to its own end."""
        header, intake = self._header, self._intake
        if self._tables_first:
            yield from LeadingTables(header, intake).steps(self._note_table)
        yield from intake.skip(header.overhead - intake.offset, "the space before its grains")
        # Tables that come first prove that no grain is missing; qemu-img then writes no end-of-stream marker.
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
            yield from self._take_padding()
        self._compare()
        if not self._tables_first and self._yielded_end < header.capacity:
            yield Zero(self._yielded_end, header.capacity - self._yielded_end)

    def _take_padding(self) -> Generator[None, None, None]:
        """Take the zeros with which qemu-img pads a last grain that extends beyond the end of the disk."""
        intake = self._intake
        while not (yield from intake.at_end()):
            if bytes((yield from intake.some(self._header.grain_size, "the end"))).strip(b"\0"):
                raise intake.damaged(f"garbage follows its last grain, before byte {intake.offset}")

    def _note_table(self, index: int, entries: tuple[int, ...]) -> None:
        self._table_hashes[index] = _table_hash(entries)

    def _grain(self, sector: int, size: int) -> Steps:
        header, intake = self._header, self._intake
        file_sector = (intake.offset - _MARKER.size) // SECTOR
        offset = sector * SECTOR
        grain, rest = divmod(offset, header.grain_size)
        if rest or offset >= header.capacity or size > 2 * header.grain_size or self._footer_seen:
            raise intake.damaged(f"the marker at sector {file_sector} names sector {sector} and {size} bytes")
        self._note_grain(grain, file_sector)
        length = min(header.grain_size, header.capacity - offset)
        data = yield from intake.take(size, f"the grain at sector {file_sector}")
        if not self._tables_first:
            if offset > self._yielded_end:
                yield Zero(self._yielded_end, offset - self._yielded_end)
            self._yielded_end = max(self._yielded_end, offset + length)
        yield Inflate(offset, length, data, "zlib", header.grain_size)
        padding = -(_MARKER.size + size) % SECTOR
        yield from intake.skip(padding, "a grain's padding", may_end=self._tables_first)

    def _note_grain(self, grain: int, file_sector: int) -> None:
        byte, bit = grain >> 3, 1 << (grain & 7)
        if self._seen_grains[byte] & bit:
            raise self._intake.damaged(f"grain {grain} comes a second time, at sector {file_sector}")
        self._seen_grains[byte] |= bit
        index, slot = divmod(grain, GTES_PER_TABLE)
        total = self._marker_hashes[index] + _entry_hash(slot, file_sector)
        self._marker_hashes[index] = total & _HASH_MASK

    def _metadata(self, kind: int, sectors: int) -> Generator[None, None, None]:
        """Take what follows a metadata marker: a grain table, the grain directory, the footer, or progress data."""
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
        # Some tools add an empty table for grains beyond the disk's end, which makes the directory longer.
        spare = _SPARE_SECTORS if kind == _GRAIN_DIRECTORY else 0
        if length is None or not 0 <= sectors - divide_up(length, SECTOR) <= spare or self._footer_seen:
            raise intake.damaged(f"the marker before byte {at} has the type {kind} and {sectors} sectors")
        if kind == _GRAIN_TABLE:
            data = yield from intake.take(length, "a grain table")
            self._keep_table(at, data)
        elif kind == _GRAIN_DIRECTORY:
            directory = yield from take_grain_directory(header, intake)
            if header.gd_offset in (None, at):
                self._directory, self._directory_offset = directory, at
        else:
            self._check_footer((yield from intake.take(length, "the footer")))
        yield from intake.skip(sectors * SECTOR - length, "the grain directory")

    def _keep_table(self, at: int, data: memoryview) -> None:
        if len(self._trailing_sectors) > 2 * self._header.tables:
            raise self._intake.damaged(f"it has more than {2 * self._header.tables} grain tables")
        self._trailing_sectors.append(at // SECTOR)
        self._trailing_hashes.append(_table_hash(unpack_grain_table(self._header, 0, data)))

    def _check_footer(self, sector: memoryview) -> None:
        footer = parse_header(bytes(sector))
        if replace(footer, gd_offset=self._header.gd_offset) != self._header:
            raise self._intake.damaged("its footer contradicts its header")
        if footer.gd_offset != self._directory_offset:
            raise self._intake.damaged("its footer does not say where the grain directory is")
        self._footer_seen = True

    def _compare(self) -> None:
        """Compare the tables with the markers.

        Raises:
            ImageDamaged: the tables do not map exactly the grains that the markers gave, or are missing.
        """
        if not self._tables_first:
            if self._directory is None or not (self._footer_seen or self._header.gd_offset):
                raise self._intake.damaged("it ends without grain directory and footer")
            for index, sector in enumerate(self._directory):
                self._table_hashes[index] = self._trailing_hash(index, sector) if sector else 0
        hashes = zip(self._marker_hashes, self._table_hashes, strict=True)
        for index, (by_markers, by_table) in enumerate(hashes):
            if by_markers != by_table:
                raise self._intake.damaged(f"grain table {index} does not name the grains that the file has")

    def _trailing_hash(self, index: int, sector: int) -> int:
        position = bisect_left(self._trailing_sectors, sector)
        if position == len(self._trailing_sectors) or self._trailing_sectors[position] != sector:
            raise self._intake.damaged(f"grain table {index} is not at sector {sector}")
        return self._trailing_hashes[position]


def _numbers(count: int) -> "array[int]":
    return array("Q", bytes(8 * count))


def _entry_hash(slot: int, sector: int) -> int:
    return hash((slot, sector)) & _HASH_MASK


def _table_hash(entries: tuple[int, ...]) -> int:
    """The sum of the hashes of a table's entries: the same in whatever order the grains come."""
    total = sum(_entry_hash(slot, sector) for slot, sector in enumerate(entries) if sector)
    return total & _HASH_MASK
