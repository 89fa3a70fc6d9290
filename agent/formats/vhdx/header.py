"""Reads the header section of a VHDX: which of its two headers holds, and where its table and its metadata lie.

Used by `agent.formats.vhdx.decoder`. Source: Microsoft, [MS-VHDX], section 2.2.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.detect import sniff
from agent.units import KiB, MiB

SECTION_BYTES = 1 * MiB
"""Length of the header section. Behind it everything lies at whole MiB."""
USED_BYTES = 320 * KiB
"""The part of it that is read."""

_SIGNATURE = b"vhdxfile"
_HEADERS = (64 * KiB, 128 * KiB)
_HEADER_BYTES = 4 * KiB
# signature, checksum, sequence number, GUIDs of the file's and the data's last change and of the log; version of the
# log and of the format, length and offset of the log
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_NO_LOG = bytes(16)

_REGION_TABLES = (192 * KiB, 256 * KiB)
_REGION_TABLE_BYTES = 64 * KiB
_REGION_TABLE = struct.Struct("<4sII4x")  # signature, checksum, entries
_REGION = struct.Struct("<16sQII")  # GUID, offset, length, whether it has to be understood
_MAX_REGIONS = 2047
_REQUIRED = 1
_BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_CHECKSUM_OFFSET = 4


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A range of the file, in bytes."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Regions:
    """What lies in the file besides blocks of the guest disk."""

    bat: Region
    """The table of the blocks."""
    metadata: Region
    all: tuple[Region, ...]
    """These, the log and whatever else there is; in file order, disjoint."""

    def unknown_before(self, region: Region) -> int:
        """How many bytes between the header section and `region` are none of these: they may be blocks."""
        known = sum(other.length for other in self.all if other.offset < region.offset)
        return region.offset - SECTION_BYTES - known


def damaged(reason: str) -> ImageDamaged:
    """The error for a VHDX that contradicts itself."""
    return ImageDamaged(format="vhdx", reason=reason)


def read_section(data: bytes, file_size: int | None) -> Regions:
    """Read the file's first `USED_BYTES` bytes.

    Raises:
        ImageType: it is of another format.
        ImageUnsafe: the log has to be replayed (check `vhdx_log`), or there is what has to be understood and is not
            (check `unknown_features`).
        ImageDamaged: no header or no table of regions has its checksum, or regions lie where they cannot.
    """
    if not data.startswith(_SIGNATURE):
        raise ImageType(found=sniff(data), expected="vhdx")
    log = _read_header(data)
    for offset in _REGION_TABLES:
        table = data[offset : offset + _REGION_TABLE_BYTES]
        if table.startswith(b"regi") and _has_checksum(table):
            return _read_regions(table, log, file_size)
    raise damaged("neither copy of the table of its regions is whole")


def _read_header(data: bytes) -> Region:
    """Check the header that holds, and tell where the log is."""
    headers = [data[offset : offset + _HEADER_BYTES] for offset in _HEADERS]
    valid = [header for header in headers if _is_header(header)]
    if not valid:
        raise damaged("neither of its headers is whole")
    sequences = [_HEADER.unpack_from(header)[2] for header in valid]
    # Disk2vhd writes two that are the same.
    if len(valid) == 2 and sequences[0] == sequences[1] and valid[0] != valid[1]:
        raise damaged("its two headers differ and have the same number")
    newest = valid[sequences.index(max(sequences))]
    _, _, _, _, _, log_guid, log_version, _, log_length, log_offset = _HEADER.unpack_from(newest)
    if log_guid != _NO_LOG:
        raise ImageUnsafe(
            check="vhdx_log",
            detail="the VHDX was not closed: changes that are only in its log have to be carried out first",
            hint="Close the virtual machine that uses it, and open and close it once there or in Hyper-V "
            "(or: qemu-img check -r all IMAGE); then upload it again.",
        )
    if log_version:
        raise ImageUnsafe(check="unknown_features", detail=f"a VHDX with a log of version {log_version}")
    return Region(log_offset, log_length)


def _is_header(header: bytes) -> bool:
    version = _HEADER.unpack_from(header)[7]
    return header.startswith(b"head") and version == 1 and _has_checksum(header)


def _read_regions(table: bytes, log: Region, file_size: int | None) -> Regions:
    _, _, count = _REGION_TABLE.unpack_from(table)
    if count > _MAX_REGIONS:
        raise damaged(f"it has {count} regions, more than {_MAX_REGIONS}")
    found: dict[bytes, Region] = {}
    for index in range(count):
        guid, offset, length, required = _REGION.unpack_from(table, _REGION_TABLE.size + index * _REGION.size)
        if guid in found:
            raise damaged(f"the region {UUID(bytes_le=guid)} is there twice")
        if required & _REQUIRED and guid not in (_BAT, _METADATA):
            raise ImageUnsafe(
                check="unknown_features", detail=f"a VHDX with the region {UUID(bytes_le=guid)}"
            )
        found[guid] = Region(offset, length)
    if _BAT not in found or _METADATA not in found:
        raise damaged("it has no table of its blocks, or no metadata")
    regions = sorted([*found.values(), *([log] if log.length else [])])
    _check_places(regions, file_size)
    return Regions(found[_BAT], found[_METADATA], tuple(regions))


def _check_places(regions: Sequence[Region], file_size: int | None) -> None:
    end = SECTION_BYTES
    for region in regions:
        if region.offset % MiB or region.length % MiB or not region.length:
            raise damaged(f"a region of {region.length} bytes at byte {region.offset}: not whole MiB")
        if region.offset < end:
            raise damaged(f"a region at byte {region.offset} lies over what ends at byte {end}")
        end = region.end
    if file_size is not None and end > file_size:
        raise damaged(f"its last region ends at byte {end}, the file at byte {file_size}")


def _has_checksum(data: bytes) -> bool:
    checksum = int.from_bytes(data[_CHECKSUM_OFFSET : _CHECKSUM_OFFSET + 4], "little")
    blanked = data[:_CHECKSUM_OFFSET] + bytes(4) + data[_CHECKSUM_OFFSET + 4 :]
    return crc32c(blanked) == checksum


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of up to some 64 KiB: byte by byte, a few milliseconds. No library that is here has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(map(_crc_entry, range(256)))
