"""Names the content of a file by its first bytes, never by a suffix or a Content-Type.

The names are shown in messages. Signatures are from each format's own specification.
"""

from agent.formats.archives.sparse import BLOCK
from agent.formats.archives.tar import header_checksum
from agent.formats.tables.read import TableError, read_table
from agent.formats.tables.superblock import sniff_filesystem

# The most that `sniff` looks at, from the file's start.
SNIFF_BYTES = 128 * 1024
# Length of the trailer that `is_dmg` and `is_vhd` look at, at the file's end.
END_BYTES = 512

_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb\x00\x00\x00\x01", "qcow"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"encrcdsa", "dmg"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (257, b"ustar", "tar"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    # A file may begin with skippable frames (RFC 8878, section 3.1.2), as pzstd writes them.
    *((0, bytes([number]) + b"\x2a\x4d\x18", "zstd") for number in range(0x50, 0x60)),
    (0, b"BZh", "bzip2"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"LZIP", "lzip"),
    (0, b"\x89LZO\0\r\n\x1a\n", "lzop"),
    (0, b"\x1f\x9d", "compress"),
    (0, b"070701", "cpio"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!", "rar"),
    (0, b"MSWIM\x00\x00\x00", "wim"),
    (0, b"\x7fELF", "elf"),
    (0, b"%PDF", "pdf"),
)
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body")


def sniff(head: bytes) -> str:
    """Name the content: `raw` if there is a partition table, else the format, the filesystem or the kind of text.

    Args:
        head: the file's first `SNIFF_BYTES` bytes, or all of a shorter file.
    """
    if not head:
        return "nothing"
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return "ova" if name == "tar" and _first_member_is_ovf(head) else name
    return (
        _table(head)
        or _lzma(head)
        or _old_tar(head)
        or sniff_filesystem(head)
        or _text(head)
        or ("zeros" if not any(head) else "unknown data")
    )


def _lzma(head: bytes) -> str | None:
    """Recognise .lzma, which has no signature, by its usual properties byte, a dictionary size of 2^n and the size."""
    dictionary, size = int.from_bytes(head[1:5], "little"), int.from_bytes(head[5:13], "little")
    usual = head[:1] == b"\x5d" and dictionary.bit_count() == 1 and dictionary >= 4096
    return "lzma" if usual and (size == 2**64 - 1 or size < 2**48) else None


def _old_tar(head: bytes) -> str | None:
    """Recognise a tar of the format v7, which has no magic, by the checksum of its first header."""
    if len(head) < BLOCK or not head[0] or any(head[257:265]):
        return None
    return (
        "tar" if head[148:156].strip(b" \0").lstrip(b"0") == b"%o" % header_checksum(head[:BLOCK]) else None
    )


def is_dmg(trailer: bytes) -> bool:
    """Whether a file that ends with `trailer` (`END_BYTES` long) is an Apple disk image, which has its magic there."""
    return len(trailer) == END_BYTES and trailer[:4] == b"koly"


def is_vhd(trailer: bytes) -> bool:
    """Whether a file that ends with `trailer` (`END_BYTES` long) is a VHD: a fixed one has its magic only there."""
    return len(trailer) == END_BYTES and trailer[:8] == b"conectix"


def _first_member_is_ovf(head: bytes) -> bool:
    return head[:100].split(b"\0", 1)[0].lower().endswith(b".ovf")


def _table(head: bytes) -> str | None:
    try:
        return None if read_table(head, None) is None else "raw"
    except TableError:
        # A damaged GPT is a partition table all the same; preflight reports what is wrong with it.
        return "raw"


def _text(head: bytes) -> str | None:
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_MARKUP):
        return "html"
    if start.startswith((b"<?xml", b"<error")):
        return "xml"
    if start.startswith((b"{", b"[")):
        return "json"
    try:
        text = head[:512].decode("ascii")
    except UnicodeDecodeError:
        return None
    return "text" if text.isprintable() or all(c.isprintable() or c in "\r\n\t" for c in text) else None
