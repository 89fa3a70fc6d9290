"""The grain directory and the grain tables of a VMDK, and the zeros that they leave.

Used by `agent.formats.vmdk.decoder` (monolithicSparse) and `agent.formats.vmdk.stream` (streamOptimized). Source:
VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents".
"""

import struct
import sys
from array import array
from collections.abc import Callable, Generator, Iterator

from agent.errors import ImageUnsafe
from agent.formats.blocks import Steps, Zeros
from agent.formats.extent import Zero
from agent.formats.intake import Intake
from agent.formats.vmdk.header import GTES_PER_TABLE, SECTOR, TABLE_BYTES, Header

# The entry of a grain table for a grain of zeros, where the header allows it.
_ZEROED = 1
_TABLE = struct.Struct(f"<{GTES_PER_TABLE}I")
_NO_GRAINS = bytes(TABLE_BYTES)


class LeadingTables:
    """Reads a grain directory and grain tables that come before the grains."""

    def __init__(self, header: Header, intake: Intake) -> None:
        self._header = header
        self._intake = intake
        self._zeros = Zeros(header.capacity)

    def steps(self, note_table: Callable[[int, tuple[int, ...]], None]) -> Steps:
        """Read the tables in file order and yield as zeros what they do not map.

        Args:
            note_table: called for each table that maps grains, with its index and its entries (sectors).

        Raises:
            ImageUnsafe: a table is not between the descriptor and the grains (check `vmdk_tables`).
        """
        header, intake = self._header, self._intake
        yield from self._seek(header.gd_offset or 0, 4 * header.tables, "the grain directory")
        directory = yield from take_grain_directory(header, intake)
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
            entries = unpack_grain_table(header, index, data)
            note_table(index, entries)
            yield from self._unmapped(index, entries)
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

    def _unmapped(self, index: int, entries: tuple[int, ...]) -> Iterator[Zero]:
        grain = self._header.grain_size
        base = index * self._header.table_span
        for slot, sector in enumerate(entries):
            if sector == 0:
                yield from self._zeros.add(base + slot * grain, grain)


def take_grain_directory(header: Header, intake: Intake) -> Generator[None, None, "array[int]"]:
    """Take the grain directory: the sector of each grain table, 0 for none."""
    data = yield from intake.take(4 * header.tables, "the grain directory")
    directory = array("I", bytes(data))
    if sys.byteorder == "big":
        directory.byteswap()
    return directory


def unpack_grain_table(header: Header, index: int, data: memoryview) -> tuple[int, ...]:
    """The entries of grain table `index` within the guest disk: the sector of each grain, 0 for zeros."""
    entries = _TABLE.unpack(data)[: header.grains - index * GTES_PER_TABLE]
    if header.zeroed_grains:
        entries = tuple(0 if sector == _ZEROED else sector for sector in entries)
    return entries
