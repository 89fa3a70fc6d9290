"""Inflates one compressed cluster or grain, and holds it to all that it says of itself.

A stream has to end where the cluster does: what a changed bit makes longer or shorter is damage, though the wanted
bytes be there. zlib and zstd streams may also have a checksum, which stands behind their last byte. Every call may be
made in a thread of its own.
"""

import threading

import zstandard
from isal import igzip_lib, isal_zlib

from agent.errors import ImageDamaged
from agent.formats.extent import Codec, Inflate
from agent.units import MiB

# RFC 8878: a skippable frame's magic has any last four bits; a block's header and a checksum have so many bytes.
_ZSTD_SKIPPABLE = 0x184D2A50
_ZSTD_BLOCK_HEADER = 3
_ZSTD_REPEATED = 1
_ZSTD_CHECKSUM = 4

_local = threading.local()


def inflate(extent: Inflate, target: memoryview) -> None:
    """Inflate into `target`, which has the extent's `inflated` bytes.

    Raises:
        ImageDamaged: it is no such stream, or one of another length, or its checksum is wrong.
    """
    try:
        if extent.codec == "zstd":
            got = _inflate_zstd(extent.data, target)
        else:
            got = _inflate_zlib(extent.data, extent.codec, target)
    except (igzip_lib.error, zstandard.ZstdError) as error:  # type: ignore[misc]  # isal's stub says instance
        raise _damaged(f"a cluster does not inflate: {error}") from error
    # A VMDK's last grain may be stored without what lies behind the disk, as qemu reads it: its checksum says that it
    # is whole. A qcow2's cluster has to be full.
    wanted = extent.length if extent.codec == "zlib" else len(target)
    if got < wanted:
        raise _damaged(f"a cluster inflates to {got} bytes, expected {wanted}")


def _inflate_zlib(data: memoryview, codec: Codec, target: memoryview) -> int:
    # Raw deflate in qcow2 uses a window of 12 bits; a larger one reads it as well.
    library = isal_zlib.decompressobj(-15 if codec == "deflate" else 15)
    # One byte more is asked for than may come: the library then reads on to the end, and compares the checksum there.
    piece = library.decompress(data, len(target) + 1)
    if not library.eof or len(piece) > len(target):
        raise _damaged("a cluster does not end where it should")
    target[: len(piece)] = piece
    return len(piece)


def _inflate_zstd(data: memoryview, target: memoryview) -> int:
    """One frame in nearly all images; qemu reads frame after frame until the cluster is full."""
    got = 0
    while got < len(target) and len(data):
        # The library makes room for as many bytes as a frame says that it has, whatever the limit: only what is wanted
        # is believed.
        claimed = zstandard.frame_content_size(data)
        if claimed > len(target) - got:
            raise _damaged(f"a cluster claims to have {got + claimed} bytes, expected {len(target)}")
        if claimed == len(target):
            target[:] = _zstd().decompress(data)
            return len(target)
        length = _frame_length(data)
        # One that is empty, or to be skipped, claims to have nothing.
        if claimed:
            piece = _zstd().decompress(data[:length], max_output_size=len(target) - got)
            target[got : got + len(piece)] = piece
            got += len(piece)
        data = data[length:]
    return got


def _frame_length(data: memoryview) -> int:
    """Bytes of the zstd frame at the beginning; not more than there are, if it is cut (RFC 8878, section 3.1)."""
    if int.from_bytes(data[:4], "little") & ~0xF == _ZSTD_SKIPPABLE:
        return 8 + int.from_bytes(data[4:8], "little")
    at = zstandard.frame_header_size(data)
    last = 0
    while not last and at < len(data):
        header = int.from_bytes(data[at : at + _ZSTD_BLOCK_HEADER], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        at += _ZSTD_BLOCK_HEADER + (1 if kind == _ZSTD_REPEATED else size)
    return at + (_ZSTD_CHECKSUM if zstandard.get_frame_parameters(data).has_checksum else 0)


def _zstd() -> zstandard.ZstdDecompressor:
    """A decompressor for each thread: making one costs as much as a small cluster."""
    found: zstandard.ZstdDecompressor | None = getattr(_local, "zstd", None)
    if found is None:
        found = _local.zstd = zstandard.ZstdDecompressor(max_window_size=8 * MiB)
    return found


def _damaged(reason: str) -> ImageDamaged:
    return ImageDamaged(format="compressed", reason=reason)
