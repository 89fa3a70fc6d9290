"""The VHDX decoder: takes the file once, in order, and fetches what comes too late where it can.

Metadata and table come before the blocks in what Hyper-V and qemu-img make; the table may move to the end of the file
when the disk is enlarged. What comes behind blocks is fetched, and the stream has to bring the same bytes later:
nothing that was not hashed decides where a block goes. `header` finds both, `metadata` tells the disk's size, and
`agent.formats.blocks` keeps the map. Source: Microsoft, [MS-VHDX].
"""

import sys
from array import array
from collections.abc import Generator, Iterator

from agent.errors import ImageUnsafe
from agent.formats.blocks import BlockDecoder, BlockMap, Fetched, Layout, Steps, digest_of
from agent.formats.extent import Extent, Fetch, Zero
from agent.formats.vhdx.header import USED_BYTES, Region, Regions, damaged, read_section
from agent.formats.vhdx.metadata import TABLE_BYTES, Disk, items_end, read_disk, read_items
from agent.units import MiB

_ENTRY = 8  # length of an entry of the table
_STATE = 7
_PRESENT, _PARTIAL, _INVALID = 6, 7, 4
_RESERVED = 0xFFFF8
_PLACE_SHIFT = 20  # the place of a block is counted in MiB
_PIECE = 1 * MiB
# A table that comes before the metadata is held until these are known: the table of 2 Mi blocks at most.
_MAX_HELD = 16 * MiB
# Where nothing can be fetched, so much of unknown use is passed over in front of a table. If it was a block, the image
# is refused, and within the first 12 MiB that is before the first write.
_MAX_GAP = 8 * MiB

Bytes = Generator[Extent | None, None, bytes]


class VhdxDecoder(BlockDecoder):
    """Decodes a VHDX.

    Memory: the map of the blocks, 8 bytes a block of the file (0.5 MiB for 2 TiB of data in blocks of 32 MiB; at most
    32 MiB); the metadata, at most 2 MiB; a table that comes before the metadata as a whole, at most 16 MiB.

    Sectors of the guest disk may have 512 or 4096 bytes. The decoder gives bytes and does not care; the partition table
    of the image does, and is compared with the target disk elsewhere.

    Args:
        size: length of the file in bytes, or None.
        disk_size: length of the target disk in bytes; a larger guest disk is refused.
        can_fetch: whether the caller tries to answer `Fetch`.
    """

    def __init__(self, size: int | None, disk_size: int, can_fetch: bool) -> None:
        super().__init__("vhdx", disk_size)
        self._size = size
        self._can_fetch = can_fetch
        self._fetched: list[Fetched] = []
        self._waiting = 0

    @property
    def held(self) -> int:
        """Bytes that the map of the blocks takes, and the table while it waits for the metadata."""
        return super().held + self._waiting

    def _file(self) -> Steps:
        intake = self._intake
        section = bytes((yield from intake.take(USED_BYTES, "its header")))
        regions = read_section(section, self._size)
        bat, metadata, held = regions.bat, regions.metadata, b""
        stream = self._passes(regions, metadata)
        if stream and bat.offset < metadata.offset:
            if bat.length <= _MAX_HELD:
                self._waiting = bat.length
                held = yield from self._from_stream(bat.offset, bat.length)
            elif self._can_fetch:
                stream = False
            else:
                raise _too_late(metadata)
        disk = yield from self._disk(metadata, stream)
        blocks = self._begin(Layout(disk.size, disk.block_size, MiB))
        if disk.entries * _ENTRY > bat.length:
            raise damaged(f"its table has {bat.length} bytes for {disk.entries} entries")
        yield from self._table(blocks, disk, regions, held)
        held, self._waiting = b"", 0
        self._fetched.sort(key=lambda fetched: fetched.offset)
        yield from blocks.check(self._size, self._fetched)
        yield from blocks.steps(self._fetched)
        while not (yield from intake.at_end()):
            yield from intake.some(1 << 30, "what no block needs")

    def _disk(self, metadata: Region, stream: bool) -> Generator[Extent | None, None, Disk]:
        table = yield from self._read(metadata.offset, TABLE_BYTES, stream)
        items = read_items(table)
        rest = yield from self._read(metadata.offset + TABLE_BYTES, items_end(items) - TABLE_BYTES, stream)
        return read_disk(items, table + rest)

    def _table(self, blocks: BlockMap, disk: Disk, regions: Regions, held: bytes) -> Steps:
        """Read the table, or take the one that was held, and note what it says."""
        region, length = regions.bat, disk.entries * _ENTRY
        stream = not held and self._passes(regions, region)
        for at in range(0, length, _PIECE):
            if held:
                piece = held[at : min(at + _PIECE, length)]
            else:
                piece = yield from self._read(region.offset + at, min(_PIECE, length - at), stream)
            yield from _note(blocks, disk, at // _ENTRY, piece)

    def _passes(self, regions: Regions, region: Region) -> bool:
        """Whether a region is taken from the stream as it passes: False if it is fetched.

        Raises:
            ImageUnsafe: neither can be (check `vhdx_tables`).
        """
        gap = regions.unknown_before(region)
        if gap and not self._can_fetch and gap > _MAX_GAP:
            raise _too_late(region)
        return not gap or not self._can_fetch

    def _read(self, offset: int, length: int, stream: bool) -> Bytes:
        return (yield from (self._from_stream if stream else self._fetch)(offset, length))

    def _from_stream(self, offset: int, length: int) -> Bytes:
        intake = self._intake
        yield from intake.skip(offset - intake.offset, "the space before its tables")
        return bytes((yield from intake.take(length, "its tables")))

    def _fetch(self, offset: int, length: int) -> Bytes:
        fetch = Fetch(offset, length)
        yield fetch
        if fetch.data is None:
            raise _too_late(Region(offset, length))
        if len(fetch.data) != length:
            raise damaged(f"it ends at byte {offset + len(fetch.data)}, within its tables")
        self._fetched.append(Fetched(offset, length, digest_of(fetch.data).digest()))
        return fetch.data


def _note(blocks: BlockMap, disk: Disk, first: int, piece: bytes) -> Iterator[Zero]:
    """Note the blocks of a piece of the table that begins with entry `first`."""
    group = disk.chunk + 1
    entries = array("Q", piece)
    if sys.byteorder == "big":
        entries.byteswap()
    block = first - first // group
    if not any(entries):
        last = first + len(entries)
        yield from blocks.note_zeros(block, last - last // group - block)
        return
    for index, entry in enumerate(entries, first):
        if index % group == disk.chunk:
            continue
        state = entry & _STATE
        if entry & _RESERVED or state == _INVALID:
            raise damaged(f"the entry {entry:#x} of block {block} means nothing")
        if state == _PARTIAL:
            raise ImageUnsafe(
                check="backing_file",
                detail=f"parts of block {block} are in a file that this is the difference to",
            )
        if state == _PRESENT:
            blocks.note(block, entry >> _PLACE_SHIFT)
        else:
            # Not present, undefined, zero, unmapped: qemu reads zeros of all of them.
            yield from blocks.note_zeros(block)
        block += 1


def _too_late(region: Region) -> ImageUnsafe:
    return ImageUnsafe(
        check="vhdx_tables",
        detail=f"its tables come too late, at byte {region.offset}, and cannot be fetched",
        hint="Serve the image uncompressed from a server with byte ranges, or make it anew "
        "(qemu-img convert -O vhdx IMAGE image.vhdx), which puts its tables first.",
    )
