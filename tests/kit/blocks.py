"""VHD, VHDX and VDI made by hand, in layouts that no tool makes, and what a decoder makes of a file."""

import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from agent.formats.extent import Decoder, Extent, Fetch, Write, Zero
from agent.formats.vhdx.header import crc32c
from agent.units import KiB, MiB

FREE = 0xFFFFFFFF


Step = int | Literal["edges"] | None
"""Length of the pieces in which a file is fed; None for the whole at once, `edges` for single bytes wherever something
may begin or end (at whole MiB), and 64 KiB elsewhere."""
EDGE = 2 * KiB


def pieces(data: bytes, step: Step) -> Iterator[bytes]:
    """The file in pieces."""
    at = 0
    while at < len(data):
        if step == "edges":
            near = min(at % MiB, -at % MiB) < EDGE
            length = 1 if near else min(64 * KiB, -(at + EDGE) % MiB + 1)
        else:
            length = step or len(data)
        yield data[at : at + length]
        at += length


def decode(
    decoder: Decoder, data: bytes, step: Step = None, fetched: bytes | None = None
) -> tuple[bytes, int]:
    """The guest disk, written to a dirty one, and how many bytes were given for it.

    Args:
        decoder: a new one.
        data: the file.
        step: how it is fed. A piece is spoilt after its use.
        fetched: what a `Fetch` is answered from; None where it cannot be.
    """
    disk = bytearray()
    given = 0

    def apply(extents: Iterator[Extent]) -> None:
        nonlocal given
        for extent in extents:
            if isinstance(extent, Fetch):
                end = extent.offset + extent.length
                extent.data = None if fetched is None else fetched[extent.offset : end]
                continue
            assert isinstance(extent, Write | Zero)
            content = bytes(extent.data) if isinstance(extent, Write) else bytes(extent.length)
            if len(disk) < extent.offset + len(content):
                disk.extend(b"\xa5" * (extent.offset + len(content) - len(disk)))
            disk[extent.offset : extent.offset + len(content)] = content
            given += len(content)

    for piece in pieces(data, step):
        buffer = bytearray(piece)
        apply(decoder.feed(memoryview(buffer)))
        buffer[:] = b"\xee" * len(buffer)
    apply(decoder.finish())
    size = decoder.virtual_size
    assert size is not None
    assert len(disk) <= size
    return bytes(disk.ljust(size, b"\xa5")), given


def guest(size: int, seed: int = 3) -> bytes:
    """A disk with runs of random bytes and of zeros that keep to no boundaries, many of them longer than a block."""
    source = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        run = source.randrange(1, 3 * MiB // 2)
        out += source.choice([source.randbytes(run), bytes(run)])
    return bytes(out[:size])


def block_of(number: int, size: int) -> bytes:
    """A block that differs from all others."""
    return (b"%08d" % number) * (size // 8)


# -- VHD -----------------------------------------------------------------------------------------------------

VHD_BLOCK = 4 * KiB
"""So short that its bitmap is one sector."""


def _ones_complement(data: bytes) -> int:
    return ~sum(data) & 0xFFFFFFFF


def vhd_footer(size: int, kind: int, **changes: object) -> bytes:
    """The footer of a VHD; `changes` are its fields, of which `checksum` is put in last."""
    fields: dict[str, object] = {
        "cookie": b"conectix",
        "features": 2,
        "version": 0x00010000,
        "header": 512 if kind == 3 else 2**64 - 1,
        "time": 0,
        "creator": b"win ",
        "creator_version": 0x000A0000,
        "host": b"Wi2k",
        "original": size,
        "size": size,
        "cylinders": 1,
        "heads": 4,
        "sectors": 17,
        "kind": kind,
        "checksum": 0,
        "uuid": bytes(range(16)),
    } | changes
    packed = struct.pack(">8sIIQI4sI4sQQHBBII16s", *fields.values()).ljust(512, b"\0")
    checksum = changes.get("checksum", _ones_complement(packed))
    return packed[:64] + struct.pack(">I", checksum) + packed[68:]


def vhd_header(entries: int, **changes: object) -> bytes:
    """The header of a dynamic VHD."""
    fields: dict[str, object] = {
        "cookie": b"cxsparse",
        "unused": 2**64 - 1,
        "table": 1536,
        "version": 0x00010000,
        "entries": entries,
        "block_size": VHD_BLOCK,
        "checksum": 0,
    } | changes
    packed = struct.pack(">8sQQIIII", *fields.values()).ljust(1024, b"\0")
    checksum = changes.get("checksum", _ones_complement(packed))
    return packed[:36] + struct.pack(">I", checksum) + packed[40:]


def vhd(
    places: Sequence[int], *, footer: bytes | None = None, last: bytes | None = None, **header: object
) -> bytes:
    """A dynamic VHD: block N lies at sector `places[N]`, its bitmap in front, and holds `block_of(N)`.

    Args:
        places: `FREE` for a block that the file does not have. The table is at byte 1536, of 512 bytes at least.
        footer: the copy at the beginning.
        last: the footer at the end, if it is another.
        header: changes in the header.
    """
    footer = vhd_footer(len(places) * VHD_BLOCK, 3) if footer is None else footer
    table = struct.pack(f">{len(places)}I", *places)
    head = footer + vhd_header(len(places), **header) + table + b"\xff" * (-len(table) % 512)
    data = bytearray(head)
    for number, place in enumerate(places):
        if place * 512 < 2**30:
            _put(data, place * 512, b"\xff" * 512 + block_of(number, VHD_BLOCK))
    # Last: where a block lies over it, this is what was meant.
    data[: len(head)] = head
    return bytes(data) + (footer if last is None else last)


def _put(data: bytearray, offset: int, content: bytes) -> None:
    data.extend(b"\xdb" * (offset + len(content) - len(data)))
    data[offset : offset + len(content)] = content


# -- VDI -----------------------------------------------------------------------------------------------------

VDI_BLOCK = MiB


def vdi(places: Sequence[int], size: int | None = None, **changes: object) -> bytes:
    """A VDI: block N is the `places[N]`-th of the file and holds `block_of(N)`. `changes` are fields of the header."""
    fields: dict[str, object] = {
        "signature": b"\x7f\x10\xda\xbe",
        "version": 0x00010001,
        "length": 400,
        "kind": 1,
        "flags": 0,
        "table": 512,
        "data": 1024,
        "sector": 512,
        "size": len(places) * VDI_BLOCK if size is None else size,
        "block": VDI_BLOCK,
        "extra": 0,
        "blocks": len(places),
        "allocated": 0,
        "image": bytes(range(16)),
        "snapshot": bytes(range(16)),
        "link": bytes(16),
        "parent": bytes(16),
    } | changes
    head = b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0")
    head += struct.pack("<4sIIII256xII12xI4xQIIII16s16s16s16s", *fields.values())
    data = bytearray(head.ljust(512, b"\0"))
    data += struct.pack(f"<{len(places)}I", *places).ljust(512, b"\0")
    for number, place in enumerate(places):
        if place < 1024:
            _put(data, 1024 + place * VDI_BLOCK, block_of(number, VDI_BLOCK))
    return bytes(data)


# -- VHDX ----------------------------------------------------------------------------------------------------

BAT_GUID = "2dc27766-f623-4200-9d64-115e9bfd4a08"
METADATA_GUID = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
PARAMETERS = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
VIRTUAL_SIZE = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
SECTOR_SIZE = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
PHYSICAL_SECTOR_SIZE = "cda348c7-445d-4471-9cc9-e9885251c556"
PAGE_83 = "beca12ab-b2e6-4523-93ef-c309e000c746"
PARENT = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
PRESENT = 6
VHDX_BLOCK = MiB


def _sealed(data: bytes, length: int) -> bytes:
    """A structure with its checksum, which stands behind its signature."""
    data = data.ljust(length, b"\0")
    return data[:4] + struct.pack("<I", crc32c(data)) + data[8:]


@dataclass
class Vhdx:
    """A VHDX of which every part can be changed. Places are in MiB; the block at `places[N]` holds `block_of(N)`."""

    places: Sequence[int]
    """0 for a block that the file does not have."""
    size: int = 0
    log: int = 1
    bat: int = 3
    metadata: int = 2
    bat_length: int = 1
    block_size: int = VHDX_BLOCK
    sector_size: int = 512
    flags: int = 0
    states: Mapping[int, int] = field(default_factory=dict)
    """States of blocks, where another than present or not present; may have other bits too."""
    log_guid: bytes = bytes(16)
    sequences: tuple[int, int] = (7, 8)
    regions: Sequence[tuple[str, int, int, int]] = ()
    """More of them: GUID, place, length in MiB, flags."""
    items: Sequence[tuple[str, bytes, int]] = ()
    """More of the metadata's: GUID, content, flags."""
    without: Sequence[str] = ()
    """GUIDs of regions and items that are left out, unless they are among those."""

    def header(self, sequence: int, log_guid: bytes) -> bytes:
        packed = struct.pack(
            "<4sIQ16s16s16sHHIQ",
            b"head",
            0,
            sequence,
            bytes(16),
            bytes(16),
            log_guid,
            0,
            1,
            MiB,
            self.log * MiB,
        )
        return _sealed(packed, 4 * KiB)

    def region_table(self) -> bytes:
        regions = [
            (BAT_GUID, self.bat, self.bat_length, 1),
            (METADATA_GUID, self.metadata, 1, 1),
        ]
        regions = [*(region for region in regions if region[0] not in self.without), *self.regions]
        packed = struct.pack("<4sII4x", b"regi", 0, len(regions))
        for guid, place, length, flags in regions:
            packed += struct.pack("<16sQII", UUID(guid).bytes_le, place * MiB, length * MiB, flags)
        return _sealed(packed, 64 * KiB)

    def metadata_region(self) -> bytes:
        size = self.size or len(self.places) * self.block_size
        items = [
            (PARAMETERS, struct.pack("<II", self.block_size, self.flags), 4),
            (VIRTUAL_SIZE, struct.pack("<Q", size), 6),
            (SECTOR_SIZE, struct.pack("<I", self.sector_size), 6),
            (PHYSICAL_SECTOR_SIZE, struct.pack("<I", 4096), 6),
            (PAGE_83, bytes(range(16)), 6),
        ]
        items = [*(item for item in items if item[0] not in self.without), *self.items]
        table, body = struct.pack("<8s2xH20x", b"metadata", len(items)), b""
        for guid, content, flags in items:
            table += struct.pack("<16sIII4x", UUID(guid).bytes_le, 64 * KiB + len(body), len(content), flags)
            body += content
        return table.ljust(64 * KiB, b"\0") + body

    def table(self) -> bytes:
        chunk = 2**23 * self.sector_size // self.block_size
        out = bytearray()
        for number, place in enumerate(self.places):
            state = self.states.get(number, PRESENT if place else 0)
            out += struct.pack("<Q", place << 20 | state)
            if number % chunk == chunk - 1:
                out += bytes(8)
        return bytes(out)

    def build(self) -> bytes:
        data = bytearray(b"vhdxfile".ljust(MiB, b"\0"))
        _put(data, 64 * KiB, self.header(self.sequences[0], bytes(16)))
        _put(data, 128 * KiB, self.header(self.sequences[1], self.log_guid))
        for offset in (192 * KiB, 256 * KiB):
            _put(data, offset, self.region_table())
        _put(data, self.log * MiB, bytes(MiB))
        for number, place in enumerate(self.places):
            if place and place < 2**10:
                _put(data, place * MiB, block_of(number, self.block_size))
        # Last: in a file where something lies over them, they are what was meant.
        _put(data, self.metadata * MiB, self.metadata_region().ljust(MiB, b"\0"))
        _put(data, self.bat * MiB, self.table().ljust(self.bat_length * MiB, b"\0"))
        return bytes(data)
