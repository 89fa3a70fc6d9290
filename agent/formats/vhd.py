"""The VHD decoder, in one forward pass: fixed and dynamic disks.

A fixed VHD is the guest disk with a footer of 512 bytes behind it; a dynamic one begins with a copy of the footer, a
header and the table of its blocks, and ends with the footer too. Whether a file was cut is seen by its footer. Source:
Microsoft, Virtual Hard Disk Image Format Specification 1.0; the size of the guest disk as qemu 10 takes it
(block/vpc.c).
"""

import struct
from dataclasses import dataclass
from typing import Literal

from agent.errors import ImageDamaged, ImageUnsafe
from agent.formats.blocks import BlockDecoder, Layout, Steps
from agent.formats.extent import ImageTooLarge, Write
from agent.units import align_down, align_up, divide_up

FOOTER_BYTES = 512
SECTOR = 512

# cookie, features, version, offset of the dynamic header, time, creator: application, version and host, original and
# current size, cylinders, heads, sectors of a track, type, checksum
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII")
_FOOTER_CHECKSUM = 64
_COOKIE = b"conectix"
_TYPES: dict[int, Literal["fixed", "dynamic"]] = {2: "fixed", 3: "dynamic"}
_DIFFERENCING = 4

# cookie, unused, offset of the table, version, entries of the table, size of a block, checksum
_HEADER = struct.Struct(">8sQQIIII")
_HEADER_BYTES = 1024
_HEADER_CHECKSUM = 36
_HEADER_COOKIE = b"cxsparse"

_VERSION = 1  # the upper half of the version fields
_MAX_SECTORS = 0xFF000000  # 2040 GiB
_MAX_GEOMETRY = 65535 * 16 * 255
# Virtual PC, and qemu without force_size, take the geometry for the size of the disk; Hyper-V, Azure, XenServer,
# VirtualBox and the rest the size in the footer. So does qemu since 10.0; before, it knew some of these only.
_TAKE_GEOMETRY = (b"vpc ", b"qemu")

_FREE = 0xFFFFFFFF
# A fixed disk is given up to a multiple of this, because the disk may have such sectors.
_ALIGNMENT = 4096


@dataclass(frozen=True, slots=True)
class Footer:
    """What a footer tells, once it has been checked. In bytes."""

    kind: Literal["fixed", "dynamic"]
    virtual_size: int
    header_offset: int
    """Offset of the dynamic header; without meaning for a fixed disk."""

    @property
    def whole(self) -> tuple[str, int]:
        """What both footers of a dynamic disk have to agree in."""
        return self.kind, self.virtual_size


class VhdDecoder(BlockDecoder):
    """Decodes a VHD.

    Memory: the map of the blocks, 8 bytes a block of the file (8 MiB for 2 TiB of data in blocks of 2 MiB; at most 32
    MiB); for a fixed disk less than 8 KiB.

    The virtual size of a fixed disk is known at its end. Until then it is taken to be the file without its footer.

    Args:
        size: length of the file in bytes, or None.
        disk_size: length of the target disk in bytes; a larger guest disk is refused.
    """

    def __init__(self, size: int | None, disk_size: int) -> None:
        super().__init__("vhd", disk_size)
        self._size = size

    def _file(self) -> Steps:
        first = yield from self._intake.up_to(FOOTER_BYTES)
        yield from self._dynamic(first) if first.startswith(_COOKIE) else self._fixed(first)

    # -- dynamic -------------------------------------------------------------------------------------------------

    def _dynamic(self, first: bytes) -> Steps:
        intake = self._intake
        footer = read_footer(first, "the copy of its footer")
        if footer.kind != "dynamic":
            raise intake.damaged("it begins with the footer of a fixed disk")
        if not intake.offset <= footer.header_offset < 1 << 63:
            raise _refused(f"its header lies at byte {footer.header_offset}")
        yield from intake.skip(footer.header_offset - intake.offset, "the space before its header")
        data = bytes((yield from intake.take(_HEADER_BYTES, "its header")))
        table_offset, entries, layout = read_header(data, footer.virtual_size)
        blocks = self._begin(layout)
        if not intake.offset <= table_offset < 1 << 63:
            raise _refused(f"its table lies at byte {table_offset}, before byte {intake.offset}")
        yield from intake.skip(table_offset - intake.offset, "the space before its table")
        yield from blocks.read_table("big", lambda sector: None if sector == _FREE else sector)
        yield from intake.skip(4 * (entries - layout.blocks), "its table")
        yield from blocks.check(None if self._size is None else self._size - FOOTER_BYTES)
        yield from blocks.steps()
        last = b""
        while not (yield from intake.at_end()):
            piece = yield from intake.some(1 << 30, "its footer")
            last = (last + bytes(piece[-FOOTER_BYTES:]))[-FOOTER_BYTES:]
        if read_footer(last, "its footer").whole != footer.whole:
            raise intake.damaged("its footer contradicts the copy at its beginning")

    # -- fixed ---------------------------------------------------------------------------------------------------

    def _fixed(self, first: bytes) -> Steps:
        """Give everything but the last 512 bytes, and check these."""
        intake = self._intake
        if self._size is not None:
            self._fit(max(self._size - FOOTER_BYTES, 0))
        offset, held = 0, first + (yield from intake.up_to(_ALIGNMENT - len(first)))
        while not (yield from intake.at_end()):
            piece = yield from intake.some(1 << 30, "its content")
            # What lies before `cut` cannot be the footer. It begins with what was held.
            cut = max(align_down(intake.offset - FOOTER_BYTES, _ALIGNMENT), offset)
            if cut > self._disk_size:
                raise ImageTooLarge(cut)
            from_held = min(cut - offset, len(held))
            from_piece = cut - offset - from_held
            if from_held:
                yield Write(offset, memoryview(held)[:from_held])
            if from_piece:
                yield Write(offset + from_held, piece[:from_piece])
            held = held[from_held:] + bytes(piece[from_piece:])
            offset = cut
        data, last = held[:-FOOTER_BYTES], held[-FOOTER_BYTES:]
        footer = read_footer(last, "its footer")
        end = offset + len(data)
        if footer.kind != "fixed":
            raise intake.damaged("it ends with the footer of a dynamic disk, and does not begin with one")
        if end < footer.virtual_size:
            raise intake.damaged(f"its disk has {footer.virtual_size} bytes, of which the file has {end}")
        self._fit(end)
        self._virtual_size = footer.virtual_size
        if data:
            yield Write(offset, memoryview(data))


def read_footer(data: bytes, what: str) -> Footer:
    """Read and check a footer; `what` names it in messages.

    Raises:
        ImageUnsafe: the disk has a parent (check `backing_file`), an unknown version or type (check
            `unknown_features`), or is larger than the format allows (check `virtual_size`).
        ImageDamaged: this is no footer, or it was changed.
    """
    if len(data) < FOOTER_BYTES or not data.startswith(_COOKIE):
        raise _damaged(f"{what} is not there: the file was cut, or is no VHD")
    fields = _FOOTER.unpack_from(data)
    _, _, version, header_offset, _, creator, _, _, _, size, cylinders, heads, sectors, kind, checksum = (
        fields
    )
    if _checksum(data, _FOOTER_CHECKSUM) != checksum:
        raise _damaged(f"the checksum of {what} is wrong")
    if kind == _DIFFERENCING:
        raise ImageUnsafe(check="backing_file", detail="the VHD is only the difference to another file")
    if version >> 16 != _VERSION or kind not in _TYPES:
        raise ImageUnsafe(check="unknown_features", detail=f"VHD version {version:#x}, type {kind}")
    geometry, sectors_in_all = cylinders * heads * sectors, size // SECTOR
    if creator in _TAKE_GEOMETRY and geometry != _MAX_GEOMETRY:
        sectors_in_all = geometry
    if sectors_in_all > _MAX_SECTORS:
        raise ImageUnsafe(
            check="virtual_size", detail=f"a VHD of {sectors_in_all} sectors, more than {_MAX_SECTORS}"
        )
    return Footer(_TYPES[kind], sectors_in_all * SECTOR, header_offset)


def read_header(data: bytes, virtual_size: int) -> tuple[int, int, Layout]:
    """Read and check a dynamic header: the offset of the table, its entries, and the layout of the blocks.

    Raises:
        ImageUnsafe: an unknown version (check `unknown_features`), a size of blocks that is not supported (check
            `vhd_tables`).
        ImageDamaged: this is no header, it was changed, or the table is too short for the disk.
    """
    cookie, _, table_offset, version, entries, block_size, checksum = _HEADER.unpack_from(data)
    if cookie != _HEADER_COOKIE:
        raise _damaged("it has no header where its footer says")
    if _checksum(data, _HEADER_CHECKSUM) != checksum:
        raise _damaged("the checksum of its header is wrong")
    if version >> 16 != _VERSION:
        raise ImageUnsafe(check="unknown_features", detail=f"a VHD with a header of version {version:#x}")
    if block_size < SECTOR or block_size & (block_size - 1):
        raise _refused(f"blocks of {block_size} bytes")
    if entries * block_size < virtual_size:
        raise _damaged(
            f"its table has {entries} entries, the disk {divide_up(virtual_size, block_size)} blocks"
        )
    # Before each block a bit for each of its sectors. qemu does not read it either: what was not written is zeros.
    lead = align_up(divide_up(block_size, 8 * SECTOR), SECTOR)
    return table_offset, entries, Layout(virtual_size, block_size, SECTOR, lead)


def _checksum(data: bytes, at: int) -> int:
    """The one's complement of the sum of all bytes but those of the checksum itself."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def _damaged(reason: str) -> ImageDamaged:
    return ImageDamaged(format="vhd", reason=reason)


def _refused(detail: str) -> ImageUnsafe:
    return ImageUnsafe(check="vhd_tables", detail=detail)
