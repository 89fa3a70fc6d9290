"""Reads and checks the header of a VMDK sparse extent and the text descriptor that is embedded in it.

Used by `agent.formats.vmdk.decoder`. Source: VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents" and "Text
Descriptor".
"""

import re
import struct
from dataclasses import dataclass

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.detect import sniff
from agent.units import KiB, MiB, divide_up

SECTOR = 512
GTES_PER_TABLE = 512  # entries of a grain table
TABLE_BYTES = GTES_PER_TABLE * 4
MAX_DESCRIPTOR = 64 * KiB
MAX_GRAINS = 2**28  # of the guest disk: 16 TiB at the usual 64 KiB

# magic, version, flags, capacity, grain size, the descriptor's offset and size, entries of a grain table, offsets of
# the redundant and the primary grain directory, overhead, unclean shutdown, four line end characters, compression;
# offsets and sizes in sectors
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_MAGIC = b"KDMV"
_TEXT_MAGIC = b"# Disk DescriptorFile"
_COWD_MAGIC = b"COWD"
_GD_AT_END = 2**64 - 1

# A transfer in text mode would have changed these.
_LINE_ENDS = b"\n \r\n"
_HAS_LINE_ENDS, _REDUNDANT, _ZEROED_GRAINS, _COMPRESSED, _MARKERS = 1, 2, 4, 1 << 16, 1 << 17
_KNOWN_FLAGS = _HAS_LINE_ENDS | _REDUNDANT | _ZEROED_GRAINS | _COMPRESSED | _MARKERS
_DEFLATE = 1
_MIN_GRAIN, _MAX_GRAIN = 4 * KiB, 2 * MiB

_ACCESS = ("RW", "RDONLY", "NOACCESS")
_EXTENT = re.compile(r'(\w+)\s+(\d{1,19})\s+(\w+)(?:\s+"(.*)"(?:\s+(\d{1,19}).*)?)?')
_CREATE_TYPE = re.compile(rb'(?mi)^createType\s*=\s*"?(\w{1,40})')
_CREATE_TYPES = ("monolithicsparse", "streamoptimized")
_NO_PARENT = "ffffffff"

_JOIN_HINT = (
    "Make one file of it where the descriptor and all its extents lie: qemu-img convert -O vmdk -o "
    "subformat=streamOptimized DESCRIPTOR.vmdk image.vmdk. One flat extent (NAME-flat.vmdk) is a raw image as it is: "
    "type raw."
)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a sparse extent. Offsets and sizes are in bytes."""

    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    gd_offset: int | None
    """Offset of the grain directory; None if only the footer gives it."""
    overhead: int
    """Offset of the first grain: what comes before is metadata."""
    compressed: bool
    zeroed_grains: bool
    """Whether the entry 1 of a grain table means a grain of zeros."""

    @property
    def grains(self) -> int:
        """Number of grains of the guest disk; the last one may extend beyond its end."""
        return divide_up(self.capacity, self.grain_size)

    @property
    def tables(self) -> int:
        """Number of grain tables, and of entries in the grain directory."""
        return divide_up(self.grains, GTES_PER_TABLE)

    @property
    def table_span(self) -> int:
        """Guest bytes that one grain table maps."""
        return GTES_PER_TABLE * self.grain_size


def parse_header(sector: bytes) -> Header:
    """Read the first sector of a sparse extent, or its footer, which has the same layout.

    A file that is shorter than a sector is taken as well: a descriptor may be.

    Raises:
        ImageType: it is of another format.
        ImageUnsafe: the disk is in other files (check `vmdk_extent`), has a version, flags or compression that are not
            supported (check `unknown_features`), or tables beyond the bounds (check `vmdk_tables`).
        ImageDamaged: the header contradicts itself.
    """
    _check_magic(sector)
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


def _check_magic(sector: bytes) -> None:
    if sector.startswith(_TEXT_MAGIC):
        raise _extent_refused(
            f"the VMDK is only a descriptor{_type_of(sector)}: its extents are in other files"
        )
    if sector.startswith(_COWD_MAGIC):
        raise _extent_refused("the VMDK is an extent of ESX (COWD), whose descriptor is in another file")
    if len(sector) >= len(_MAGIC) and not sector.startswith(_MAGIC):
        raise ImageType(found=sniff(sector), expected="vmdk")
    if len(sector) < SECTOR:
        raise _damaged(f"it ends at byte {len(sector)}, within its header")


def check_layout(header: Header) -> None:
    """Check the order of the parts of the file, which are read as a stream: header, descriptor, tables, grains.

    Raises:
        ImageUnsafe: there is no descriptor in the file, or one of more than 64 KiB (check `vmdk_extent`).
        ImageDamaged: the descriptor overlaps the tables or the grains.
    """
    if header.descriptor_offset == 0 or header.descriptor_size == 0:
        raise _extent_refused("the VMDK has no descriptor: it is one extent of a disk of several files")
    if header.descriptor_size > MAX_DESCRIPTOR:
        raise ImageUnsafe(check="vmdk_extent", detail=f"a descriptor of {header.descriptor_size} bytes")
    end = header.descriptor_offset + header.descriptor_size
    if header.overhead < end or (header.gd_offset is not None and header.gd_offset < end):
        raise _damaged("its descriptor lies over its tables or grains")


def check_descriptor(data: bytes) -> None:
    """Check that the embedded descriptor describes a disk that consists of this file alone.

    Raises:
        ImageUnsafe: it names a parent (check `backing_file`) or other files (check `vmdk_extent`).
        ImageDamaged: it is not a descriptor.
    """
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    # Some tools write "DescriptorFile" as two words.
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
        raise _extent_refused(
            f"a VMDK of type {create_type[:80]!r}; expected streamOptimized or monolithicSparse"
        )
    if len(extents) != 1:
        raise _extent_refused(f"the VMDK has {len(extents)} extents, not one")
    _check_extent(extents[0])


def _split(line: str) -> tuple[str, str, str]:
    return ("", "", "") if line.startswith("#") else line.partition("=")


def _check_extent(line: str) -> None:
    """Check the one extent. Its file name may differ from this file's, which may have been renamed; a path may not."""
    match = _EXTENT.fullmatch(line)
    if match is None:
        raise _damaged(f"its extent line {line[:80]!r} cannot be read")
    access, _, kind, name, offset = match.groups()
    elsewhere = not name or "/" in name or "\\" in name or name == ".." or int(offset or 0) != 0
    if access.upper() == "NOACCESS" or kind.upper() != "SPARSE" or elsewhere:
        raise _extent_refused(f"the VMDK is made of another file: {line[:200]}")


def _type_of(descriptor: bytes) -> str:
    """What a descriptor of its own says of its type, in words; empty where that stands further behind."""
    match = _CREATE_TYPE.search(descriptor)
    return f" of type {match[1].decode()!r}" if match else ""


def _extent_refused(detail: str) -> ImageUnsafe:
    return ImageUnsafe(check="vmdk_extent", detail=detail, hint=_JOIN_HINT)


def _damaged(reason: str) -> ImageDamaged:
    return ImageDamaged(format="vmdk", reason=reason)
