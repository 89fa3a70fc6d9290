"""A config drive that was made elsewhere: unpacked, and judged by its first bytes before it is written. Pure.

Called by `agent.deploy.target` with what a job brings in `configdrive.content`. Its files are not looked at: whoever
made it knows its readers.
"""

import binascii
import re
import struct
import zlib
from typing import Literal

from agent.errors import ConfigDriveContent
from agent.formats.configdrive import LABEL
from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.tables.superblock import LABEL_BYTES, sniff_filesystem, volume_label
from agent.model.job import MAX_DRIVE_BYTES
from agent.text import printable
from agent.units import format_size

_GZIP = b"\x1f\x8b"
# No filesystem and no gzip begins with so many letters.
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{64}")
_ISO_VOLUME = 32 * 1024  # ECMA-119, section 8.4: the primary volume descriptor
_ISO_SECTOR = 2048


def unpack(data: bytes) -> bytes:
    """The drive itself: `data`, or what is in it where that is base64 (as what is behind Ironic's URLs) or gzip.

    Raises:
        ConfigDriveContent: it is damaged, or longer than `MAX_DRIVE_BYTES`.
    """
    if _BASE64.match(data):
        try:
            data = binascii.a2b_base64(data)
        except binascii.Error:
            raise ConfigDriveContent(reason="it is damaged base64") from None
    drive = _gunzip(data) if data.startswith(_GZIP) else data
    if len(drive) > MAX_DRIVE_BYTES:
        raise ConfigDriveContent(reason=f"it is larger than {format_size(MAX_DRIVE_BYTES)}")
    return drive


def _gunzip(data: bytes) -> bytes:
    """All members of a gzip file, at most one byte more than `MAX_DRIVE_BYTES`."""
    drive, rest = bytearray(), data
    while rest and len(drive) <= MAX_DRIVE_BYTES:
        inflater = zlib.decompressobj(wbits=31)
        try:
            drive += inflater.decompress(rest, MAX_DRIVE_BYTES + 1 - len(drive))
        except zlib.error:
            raise ConfigDriveContent(reason="it is damaged gzip") from None
        if not inflater.eof and len(drive) <= MAX_DRIVE_BYTES:
            raise ConfigDriveContent(reason="it is gzip that was cut")
        rest = inflater.unused_data.lstrip(b"\0")  # RFC 1952 knows no padding, tapes do
    return bytes(drive)


def filesystem_of(drive: bytes) -> Literal["iso9660", "vfat"]:
    """Which filesystem the drive has.

    Raises:
        ConfigDriveContent: it is none that readers of config drives know, has another label, or was cut.
    """
    head = drive[:LABEL_BYTES]
    kind = sniff_filesystem(head)
    if kind not in ("iso9660", "vfat"):
        found = printable(kind or sniff(drive[:SNIFF_BYTES]))
        raise ConfigDriveContent(reason=f"it is neither an ISO 9660 nor a FAT filesystem but {found}")
    label = volume_label(head)
    if label is None or label.lower() != LABEL:
        told = "it has no label" if label is None else f"its label is {printable(label)}"
        raise ConfigDriveContent(reason=f"{told}, and readers look for {LABEL}")
    length = _iso_length(drive) if kind == "iso9660" else _fat_length(drive)
    if length > len(drive):
        raise ConfigDriveContent(reason=f"it has {len(drive)} bytes of the {length} bytes of its filesystem")
    return "iso9660" if kind == "iso9660" else "vfat"


def _iso_length(drive: bytes) -> int:
    """Bytes of the volume, in logical blocks of its own size (ECMA-119, sections 8.4.8 and 8.4.12).

    Of one that ends within the descriptor that tells them: those that it has at least.
    """
    if len(drive) < _ISO_VOLUME + _ISO_SECTOR:
        return _ISO_VOLUME + _ISO_SECTOR
    blocks, size = struct.unpack_from("<I44xH", drive, _ISO_VOLUME + 80)
    return int(blocks) * int(size)


def _fat_length(drive: bytes) -> int:
    """Bytes of the filesystem: the 16-bit number of sectors, or the 32-bit one where that is 0."""
    size, short, long = struct.unpack_from("<H6xH11xI", drive, 11)
    return int(size) * int(short or long)
