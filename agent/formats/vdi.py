"""The VDI decoder, in one forward pass: VirtualBox's disk images, dynamic and static.

A header, the table of the blocks, and the blocks, whose places the table counts from the first one on. Source:
VirtualBox, src/VBox/Storage/VDICore.h; the bounds are qemu's (block/vdi.c), which reads blocks of 1 MiB only.
"""

import struct

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.blocks import BlockDecoder, Layout, Steps
from agent.formats.detect import sniff
from agent.units import MiB, align_up, divide_up

_HEADER_BYTES = 512
_SECTOR = 512
_BLOCK = MiB

# signature, version, length of the header, type, flags, comment, offsets of the table and of the first block, geometry,
# size of a sector, unused, size of the disk, size of a block, extra bytes before each, blocks, of which there are,
# UUIDs: of the image, its last snapshot, the parent, the parent's last snapshot
_HEADER = struct.Struct("<64x4sIIII256xII12xI4xQIIII16s16s16s16s")
_SIGNATURE = b"\x7f\x10\xda\xbe"
_VERSION = 0x00010001
_DYNAMIC, _STATIC, _UNDO, _DIFFERENCING = 1, 2, 3, 4
_NO_UUID = bytes(16)

# From here on an entry of the table is no place: a block of zeros, or (with one more) one that was never written.
_ZERO = 0xFFFFFFFE


class VdiDecoder(BlockDecoder):
    """Decodes a VDI.

    Memory: the map of the blocks, 8 bytes a block of the file (16 MiB for 2 TiB of data; at most 32 MiB).

    Nothing stands behind the last block that would tell a whole file: that all blocks are there is what shows it.
    """

    def __init__(self, disk_size: int) -> None:
        """`disk_size` is the target disk's length in bytes; a larger guest disk is refused."""
        super().__init__("vdi", disk_size)

    def _file(self) -> Steps:
        intake = self._intake
        data = bytes((yield from intake.take(_HEADER_BYTES, "its header")))
        table_offset, data_offset, capacity = read_header(data)
        layout = Layout(capacity, _BLOCK, _SECTOR)
        blocks = self._begin(layout)
        yield from intake.skip(table_offset - intake.offset, "the space before its table")
        first = data_offset // _SECTOR
        yield from blocks.read_table(
            "little", lambda entry: None if entry >= _ZERO else first + entry * (_BLOCK // _SECTOR)
        )
        yield from blocks.check(None)
        yield from blocks.steps()
        while not (yield from intake.at_end()):
            yield from intake.some(1 << 30, "what no block needs")


def read_header(data: bytes) -> tuple[int, int, int]:
    """Read and check a header: the offsets of the table and of the first block, and the size of the guest disk.

    Raises:
        ImageType: it is of another format.
        ImageUnsafe: the disk has a parent (check `backing_file`), a version or type that is not supported (check
            `unknown_features`), or another form of blocks (check `vdi_tables`).
        ImageDamaged: the table lies over the header or over the blocks.
    """
    fields = _HEADER.unpack_from(data)
    signature, version, _, kind, _, table_offset, data_offset, sector, capacity, block, extra, count = fields[
        :12
    ]
    _, _, link, parent = fields[13:]
    if signature != _SIGNATURE:
        raise ImageType(found=sniff(data), expected="vdi")
    if version != _VERSION:
        raise ImageUnsafe(
            check="unknown_features", detail=f"VDI version {version >> 16}.{version & 0xFFFF}, not 1.1"
        )
    if kind in (_UNDO, _DIFFERENCING) or link != _NO_UUID or parent != _NO_UUID:
        raise ImageUnsafe(check="backing_file", detail="the VDI is only the difference to another file")
    if kind not in (_DYNAMIC, _STATIC):
        raise ImageUnsafe(check="unknown_features", detail=f"a VDI of type {kind}")
    if (sector, block, extra) != (_SECTOR, _BLOCK, 0):
        raise ImageUnsafe(
            check="vdi_tables",
            detail=f"blocks of {block} bytes with {extra} more before each, and sectors of {sector}; only blocks of "
            f"{_BLOCK} and sectors of {_SECTOR} are supported",
        )
    if table_offset % _SECTOR or data_offset % _SECTOR:
        raise ImageUnsafe(
            check="vdi_tables",
            detail=f"its table is at byte {table_offset}, its first block at {data_offset}: no multiples of {_SECTOR}",
        )
    # VBoxManage makes disks of any number of bytes; whole sectors are what a machine sees of them.
    capacity = align_up(capacity, _SECTOR)
    if divide_up(capacity, _BLOCK) > count:
        raise ImageUnsafe(
            check="vdi_tables", detail=f"a table of {count} blocks for a disk of {capacity} bytes"
        )
    if table_offset < _HEADER_BYTES or data_offset < table_offset + 4 * count:
        raise ImageDamaged(
            format="vdi",
            reason=f"its table of {count} entries at byte {table_offset} does not fit between the header and the first "
            f"block at byte {data_offset}",
        )
    return table_offset, data_offset, capacity
