"""The VMDK decoder, in one forward pass: streamOptimized (compressed) and monolithicSparse (uncompressed) files.

A monolithicSparse file is decoded here, by the grain tables before its grains; a streamOptimized file by
`agent.formats.vmdk.stream`. Grains that the file does not have are zeros. Used for a bare VMDK, and by the OVA decoder.
Source: VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents".
"""

from array import array
from collections.abc import Iterator, Sequence

from agent.errors import ImageUnsafe
from agent.formats.blocks import Steps
from agent.formats.extent import Extent, ImageTooLarge, Write
from agent.formats.intake import Intake, Parser
from agent.formats.vmdk.header import (
    GTES_PER_TABLE,
    SECTOR,
    Header,
    check_descriptor,
    check_layout,
    parse_header,
)
from agent.formats.vmdk.stream import StreamGrains
from agent.formats.vmdk.tables import LeadingTables

# The bound on the grains of a monolithicSparse file: 512 GiB of data at the usual 64 KiB, 32 MiB of memory.
MAX_FILE_GRAINS = 2**23


class VmdkDecoder:
    """Decodes one VMDK file.

    Memory: one grain (at most 4 MiB); the grain directory (1 MiB for a disk of 8 TiB, 11 MiB while it is sorted); for
    streamOptimized a bit for each grain of the disk and 32 bytes for each grain table (24 MiB for 8 TiB, of which only
    the pages of existing grains are touched); for monolithicSparse 4 bytes for each grain of the file (at most 32 MiB).
    """

    notes: Sequence[str] = ()

    def __init__(self, disk_size: int) -> None:
        """`disk_size` is the target disk's length in bytes; a larger guest disk is refused."""
        self._disk_size = disk_size
        self._intake = Intake("vmdk")
        self._parser: Parser[Extent] = Parser(self._intake, self._file())
        self._header: Header | None = None

    @property
    def virtual_size(self) -> int | None:
        """The capacity in the header, in bytes; known before the first extent is yielded."""
        return None if self._header is None else self._header.capacity

    @property
    def used_scratch(self) -> None:
        """Nothing waits on the disk."""

    @property
    def held(self) -> int:
        """0: rarely more than a few MiB; the class docstring gives the bounds."""
        return 0

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes of the file and yield the extents that they complete.

        If the grains of a streamOptimized file are not in ascending order, a range may be yielded as zeros first and as
        a grain later; otherwise nothing is yielded twice.

        Raises:
            ImageTooLarge: the guest disk is larger than `disk_size`.
            ImageType: this is not a VMDK.
            ImageUnsafe: the disk has a parent or other files, or exceeds a bound.
            ImageDamaged: the file contradicts itself.
        """
        return self._parser.feed(data)

    def finish(self) -> Iterator[Extent]:
        """Yield the last extents; the file has ended.

        Raises:
            ImageDamaged: it is truncated, or its tables do not agree with its grains.
        """
        return self._parser.finish()

    def _file(self) -> Steps:
        intake = self._intake
        header = parse_header((yield from intake.up_to(SECTOR)))
        check_layout(header)
        yield from intake.skip(header.descriptor_offset - intake.offset, "the space before its descriptor")
        check_descriptor(bytes((yield from intake.take(header.descriptor_size, "its descriptor"))))
        if header.capacity > self._disk_size:
            raise ImageTooLarge(header.capacity)
        self._header = header
        yield from (StreamGrains if header.compressed else _SparseGrains)(header, intake).steps()


class _SparseGrains:
    """The grains of a monolithicSparse file: uncompressed, and mapped by the tables before them."""

    def __init__(self, header: Header, intake: Intake) -> None:
        self._header = header
        self._intake = intake
        # For each grain of the file, from `Header.overhead` on: 1 + the guest's grain, or 0 for none.
        self._guest_grains = array("I")

    def steps(self) -> Steps:
        intake = self._intake
        yield from LeadingTables(self._header, intake).steps(self._note_table)
        yield from intake.skip(
            self._header.overhead - intake.offset,
            "the space before its grains",
            may_end=not self._guest_grains,
        )
        grain = 0
        while grain < len(self._guest_grains):
            count = self._count_contiguous(grain)
            if self._guest_grains[grain]:
                yield from self._write(self._guest_grains[grain] - 1, count)
            else:
                yield from intake.skip(count * self._header.grain_size, "its grains")
            grain += count
        while not (yield from intake.at_end()):
            yield from intake.some(self._header.grain_size, "what no table names")

    def _note_table(self, index: int, entries: tuple[int, ...]) -> None:
        header, guest_grains = self._header, self._guest_grains
        for slot, sector in enumerate(entries):
            if sector == 0:
                continue
            grain, rest = divmod(sector * SECTOR - header.overhead, header.grain_size)
            if grain < 0 or rest or grain >= MAX_FILE_GRAINS:
                raise ImageUnsafe(check="vmdk_tables", detail=f"a grain at sector {sector} is out of bounds")
            if grain >= len(guest_grains):
                guest_grains.frombytes(bytes(guest_grains.itemsize * (grain + 1 - len(guest_grains))))
            if guest_grains[grain]:
                raise self._intake.damaged(f"two grains of the disk lie at sector {sector}")
            guest_grains[grain] = index * GTES_PER_TABLE + slot + 1

    def _count_contiguous(self, first: int) -> int:
        """How many grains from file grain `first` on are contiguous on the guest disk too, or are all unused."""
        guest_grains, guest = self._guest_grains, self._guest_grains[first]
        step = 1 if guest else 0
        count = 1
        while first + count < len(guest_grains) and guest_grains[first + count] == guest + step * count:
            count += 1
        return count

    def _write(self, grain: int, count: int) -> Steps:
        header, intake = self._header, self._intake
        offset = grain * header.grain_size
        end = min(offset + count * header.grain_size, header.capacity)
        padding = offset + count * header.grain_size - end
        while offset < end:
            piece = yield from intake.some(end - offset, "its grains")
            yield Write(offset, piece)
            offset += len(piece)
        yield from intake.skip(padding, "its last grain", may_end=True)
