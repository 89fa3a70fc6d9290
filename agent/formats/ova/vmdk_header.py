"""What a VMDK says about itself: the header of a sparse extent and the text descriptor within it.

Pure; for `agent.formats.ova.vmdk`. Source: VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents" and "Text
Descriptor".
"""

import re
import struct
from dataclasses import dataclass

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.detect import sniff
from agent.units import KiB, MiB

SECTOR = 512
GTES_PER_TABLE = 512
TABLE_BYTES = GTES_PER_TABLE * 4
MAX_DESCRIPTOR = 64 * KiB
MAX_GRAINS = 2**28

# magic, version, flags, capacity, grain size, descriptor's offset and size, entries of a grain table, offsets of the
# redundant and of the primary grain directory, overhead, unclean shutdown, four line ends, compression
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_MAGIC = b"KDMV"
_TEXT_MAGIC = b"# Disk DescriptorFile"
_GD_AT_END = 2**64 - 1

# A text transfer would have changed these.
_LINE_ENDS = b"\n \r\n"
_HAS_LINE_ENDS, _REDUNDANT, _ZEROED_GRAINS, _COMPRESSED, _MARKERS = 1, 2, 4, 1 << 16, 1 << 17
_KNOWN_FLAGS = _HAS_LINE_ENDS | _REDUNDANT | _ZEROED_GRAINS | _COMPRESSED | _MARKERS
_DEFLATE = 1
_MIN_GRAIN, _MAX_GRAIN = 4 * KiB, 2 * MiB

_ACCESS = ("RW", "RDONLY", "NOACCESS")
_EXTENT = re.compile(r'(\w+)\s+(\d{1,19})\s+(\w+)(?:\s+"(.*)"(?:\s+(\d{1,19}).*)?)?')
_CREATE_TYPES = ("monolithicsparse", "streamoptimized")
_NO_PARENT = "ffffffff"


@dataclass(frozen=True, slots=True)
class Header:
    """A sparse extent's header. Offsets and sizes in bytes."""

    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    gd_offset: int | None
    """Where the grain directory lies; None where only the footer tells."""
    overhead: int
    """Where the grains begin."""
    compressed: bool
    zeroed_grains: bool
    """Whether a grain table's entry of 1 stands for zeros."""

    @property
    def grains(self) -> int:
        """Grains of the disk; the last one may be cut."""
        return -(-self.capacity // self.grain_size)

    @property
    def tables(self) -> int:
        """Grain tables, which is the number of entries of the grain directory."""
        return -(-self.grains // GTES_PER_TABLE)

    @property
    def table_span(self) -> int:
        """Bytes of the guest disk that one grain table maps."""
        return GTES_PER_TABLE * self.grain_size


def parse_header(sector: bytes) -> Header:
    """Read the first sector of a sparse extent (or its footer, which is alike).

    Raises:
        ImageType: this is another format.
        ImageUnsafe: the disk is in other files (check `vmdk_extent`), or needs what this reader does not know.
        ImageDamaged: the header contradicts itself.
    """
    if sector.startswith(_TEXT_MAGIC):
        raise ImageUnsafe(
            check="vmdk_extent", detail="the VMDK is only a descriptor: its extents are in other files"
        )
    if not sector.startswith(_MAGIC):
        raise ImageType(found=sniff(sector), expected="vmdk")
    fields = _HEADER.unpack_from(sector)
    _, version, flags, capacity, grain, desc_offset, desc_size, gtes, _, gd, overhead = fields[:11]
    line_ends, compression = fields[12:]
    if not 1 <= version <= 3 or flags & ~_KNOWN_FLAGS:
        raise ImageUnsafe(check="unknown_features", detail=f"VMDK version {version} with flags {flags:#x}")
    if flags & _HAS_LINE_ENDS and line_ends != _LINE_ENDS:
        raise _damaged("its line ends were converted: it went through a text transfer")
    compressed = bool(flags & _COMPRESSED)
    if compressed != bool(flags & _MARKERS) or compression != (_DEFLATE if compressed else 0):
        raise ImageUnsafe(
            check="unknown_features", detail=f"compression {compression} with flags {flags:#x} in a VMDK"
        )
    if not _MIN_GRAIN <= grain * SECTOR <= _MAX_GRAIN or grain & (grain - 1) or gtes != GTES_PER_TABLE:
        raise ImageUnsafe(
            check="vmdk_tables", detail=f"grains of {grain} sectors in tables of {gtes} entries"
        )
    if not 0 < capacity <= MAX_GRAINS * grain:
        raise ImageUnsafe(check="vmdk_tables", detail=f"a capacity of {capacity} sectors")
    if gd == _GD_AT_END and not compressed:
        raise _damaged("only a compressed extent may have its grain directory at the end")
    return Header(
        capacity=capacity * SECTOR,
        grain_size=grain * SECTOR,
        descriptor_offset=desc_offset * SECTOR,
        descriptor_size=desc_size * SECTOR,
        gd_offset=None if gd == _GD_AT_END else gd * SECTOR,
        overhead=overhead * SECTOR,
        compressed=compressed,
        zeroed_grains=bool(flags & _ZEROED_GRAINS),
    )


def check_layout(header: Header) -> None:
    """Refuse a header whose parts are not where a stream can use them: header, descriptor, tables, grains.

    Raises:
        ImageUnsafe: there is no descriptor within the file (check `vmdk_extent`).
        ImageDamaged: the parts overlap.
    """
    if header.descriptor_offset == 0 or header.descriptor_size == 0:
        raise ImageUnsafe(
            check="vmdk_extent",
            detail="the VMDK has no descriptor: it is one extent of a disk of several files",
        )
    if header.descriptor_size > MAX_DESCRIPTOR:
        raise ImageUnsafe(check="vmdk_extent", detail=f"a descriptor of {header.descriptor_size} bytes")
    end = header.descriptor_offset + header.descriptor_size
    if header.overhead < end or (header.gd_offset is not None and header.gd_offset < end):
        raise _damaged("its descriptor lies over its tables or grains")


def check_descriptor(data: bytes) -> None:
    """Refuse an embedded descriptor unless this file is the whole disk.

    Raises:
        ImageUnsafe: it names a parent (check `backing_file`) or other files (check `vmdk_extent`).
        ImageDamaged: it is no descriptor.
    """
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    # Some tools write it in three words.
    if not text.lower().startswith(("# disk descriptorfile", "# disk descriptor file")):
        raise _damaged("it has no descriptor where its header says")
    lines = [line.strip() for line in text.splitlines()]
    extents = [line for line in lines if line.upper().startswith(_ACCESS)]
    settings = {key.strip().lower(): value.strip().strip('"') for key, _, value in map(_split, lines)}
    parent = settings.get("parentcid", _NO_PARENT).lower()
    if parent != _NO_PARENT or "parentfilenamehint" in settings:
        hint = settings.get("parentfilenamehint", parent)
        raise ImageUnsafe(check="backing_file", detail=f"the VMDK is only the difference to {hint!r}")
    create_type = settings.get("createtype", "")
    if create_type.lower() not in _CREATE_TYPES:
        raise ImageUnsafe(
            check="vmdk_extent",
            detail=f"a VMDK of type {create_type!r}; expected streamOptimized or monolithicSparse",
        )
    if len(extents) != 1:
        raise ImageUnsafe(check="vmdk_extent", detail=f"the VMDK has {len(extents)} extents, not one")
    _check_extent(extents[0])


def _split(line: str) -> tuple[str, str, str]:
    return ("", "", "") if line.startswith("#") else line.partition("=")


def _check_extent(line: str) -> None:
    """An embedded extent is this file under some name, for images get renamed; a path can only be another file."""
    match = _EXTENT.fullmatch(line)
    if match is None:
        raise _damaged(f"its extent line {line[:80]!r} cannot be read")
    access, _, kind, name, offset = match.groups()
    elsewhere = not name or "/" in name or "\\" in name or name == ".." or int(offset or 0) != 0
    if access.upper() == "NOACCESS" or kind.upper() != "SPARSE" or elsewhere:
        raise ImageUnsafe(check="vmdk_extent", detail=f"the VMDK is made of another file: {line[:200]}")


def _damaged(reason: str) -> ImageDamaged:
    return ImageDamaged(format="vmdk", reason=reason)
