"""Compressed streams: gzip, xz, zstd and bzip2, with any number of members, streams or frames in a row.

Bytes in, bytes out, in pieces of at most 256 KiB, so that no few bytes of input become an unbounded output at once.
Every checksum that a format has is checked. What gzip and bzip2 themselves warn about and pass over behind the end, as
the signature that OpenWrt appends, is passed over and noted.

Sources: RFC 1951, RFC 1952, RFC 8878, the .xz file format 1.2.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Generator, Iterator
from typing import Literal, Protocol

import zstandard
from isal import igzip_lib, isal_zlib

from agent.errors import ImageDamaged, ImageUnsafe
from agent.formats.extent import ImageTooLarge
from agent.formats.intake import Intake, Parser
from agent.units import KiB, MiB

Kind = Literal["gzip", "xz", "zstd", "bzip2"]

# What a decompressor may hold for its window or dictionary where nobody allows it more: xz -9 (65 MiB) and zstd windows
# of 64 MiB pass, zstd --long=27 (128 MiB) does not: with it alone a deployment would take more than 128 MiB. Of xz no
# more is ever allowed: its presets need no more, and its library does not tell how much a stream takes.
MAX_MEMORY = 66 * MiB
# Large enough to write in one go, small enough to stay in the cache between here and there.
PIECE_BYTES = 256 * KiB
# What is handed to a library at once: libraries copy what they leave.
_CHUNK_BYTES = 64 * KiB

_MAGIC = {
    "gzip": b"\x1f\x8b",
    "xz": b"\xfd7zXZ\x00",
    "bzip2": b"BZh",
    "zstd": struct.pack("<I", 0xFD2FB528),
}

# What a stream has at its beginning and a trailer hardly by chance.
_SIGNS = {"gzip": b"\x1f\x8b\x08", "bzip2": b"1AY&SY"}
# No trailer that tools append has more: what has is the rest of a file that something happened to.
MAX_TRAILER = MiB
# One that inflates to more is none.
_MOST_INFLATED = 64 * MiB

# RFC 1952, section 2.3.1
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED_FLAGS = 2, 4, 8, 16, 0xE0
_MAX_TEXT = 64 * KiB

# RFC 8878, section 3.1
_SKIPPABLE = 0x184D2A50
_ZSTD_BLOCK = 128 * KiB
_ZSTD_BLOCKS_AT_ONCE = 2
_RLE_BLOCK, _RESERVED_BLOCK = 1, 3

_Pieces = Generator[bytes | None, None, None]


class Decompressor:
    """One compressed file, fed in order, in pieces of any length; an `Unpacker`.

    Memory: `max_memory` for the window of xz and zstd (gzip and bzip2 need less than 4 MiB), and pieces of 256 KiB.
    """

    size = None

    def __init__(self, kind: Kind, max_output: int, max_memory: int = MAX_MEMORY) -> None:
        """`max_output` and `max_memory` in bytes."""
        self.kind = kind
        self._max_output = max_output
        self._output = 0
        self._window = _Window(kind, min(max_memory, MAX_MEMORY) if kind == "xz" else max_memory)
        self.notes: list[str] = []
        """What was passed over behind the end, in words for people."""
        intake = Intake(kind)
        self._parser = Parser(intake, _parse(kind, intake, self._window, self.notes))

    @property
    def held(self) -> int:
        """Bytes that the window takes, once there is one. For xz it is the limit, whatever the window is."""
        return self._window.size

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Take the next bytes and give what they inflate to; the views stay valid as long as they are held.

        Raises:
            ImageTooLarge: more than `max_output` bytes have come out; the last piece is withheld.
            ImageDamaged: the stream is damaged, or followed by what may be the rest of one.
            ImageUnsafe: it needs more memory than `max_memory` (check `memory_limit`).
        """
        for piece in self._parser.feed(data):
            self._output += len(piece)
            if self._output > self._max_output:
                raise ImageTooLarge(self._max_output)
            yield memoryview(piece)

    def finish(self) -> None:
        """The file has ended.

        Raises:
            ImageDamaged: it is not whole.
        """
        for _ in self._parser.finish():
            raise RuntimeError(f"the {self.kind} stream kept bytes back")


class _Window:
    """What a stream may refer back to, and the memory that it may take."""

    def __init__(self, kind: str, limit: int) -> None:
        self._kind = kind
        self.limit = limit
        self.size = 0

    def reserve(self, size: int) -> None:
        """A stream needs `size` bytes; raises ImageUnsafe if that is more than the limit."""
        if size > self.limit:
            raise self.too_large(f"{size} bytes")
        self.size = max(self.size, size)

    def too_large(self, needed: str) -> ImageUnsafe:
        return ImageUnsafe(
            check="memory_limit",
            detail=f"the {self._kind} stream needs {needed} of memory to be decompressed, beyond the {self.limit} bytes"
            " that it may have here",
            hint="Compress the image with a window of at most 64 MiB: xz -9 or lower, zstd --long=26 or lower. For a"
            " longer one of zstd (up to --long=31) have so much memory free, and 128 MiB beside it; MemoryMax= counts.",
        )


def _parse(kind: Kind, intake: Intake, window: _Window, notes: list[str]) -> _Pieces:
    match kind:
        case "gzip":
            return _gzip(intake, notes)
        case "xz":
            return _xz(intake, window)
        case "zstd":
            return _zstd(intake, window)
        case "bzip2":
            return _bzip2(intake, notes)


class _Library(Protocol):
    """The decompressor objects of bz2, lzma and isal, which are alike."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def inflate(intake: Intake, library: _Library, window: _Window | None = None) -> _Pieces:
    """One stream through a library; what follows the stream stays in the intake."""
    while not library.eof:
        chunk = b""
        if library.needs_input:
            chunk = bytes((yield from intake.some(_CHUNK_BYTES, "the compressed data")))
        try:
            piece = library.decompress(chunk, PIECE_BYTES)
        except (OSError, lzma.LZMAError, igzip_lib.error) as error:  # type: ignore[misc]  # isal's stub says instance
            if window is not None and "emory usage limit" in str(error):
                raise window.too_large("more") from error
            raise intake.damaged(f"the data before byte {intake.offset} does not inflate: {error}") from error
        if piece:
            yield piece
    intake.give_back(library.unused_data)


def _check_magic(intake: Intake) -> Generator[None, None, None]:
    """Raises ImageDamaged unless another stream begins here; takes nothing."""
    magic = _MAGIC[intake.content]
    start = intake.offset
    found = bytes((yield from intake.take(len(magic), "the first bytes of a stream")))
    if found != magic:
        what = "it does not begin as such a file" if start == 0 else f"garbage follows at byte {start}"
        raise intake.damaged(what)
    intake.give_back(found)


def _skip_zeros(intake: Intake) -> Generator[None, None, int]:
    """Take zero bytes as long as there are any, and count them."""
    count = 0
    while not (yield from intake.at_end()):
        chunk = bytes((yield from intake.some(_CHUNK_BYTES, "padding")))
        rest = chunk.lstrip(b"\0")
        count += len(chunk) - len(rest)
        if rest:
            intake.give_back(rest)
            break
    return count


def _another_follows(intake: Intake, notes: list[str]) -> Generator[None, None, bool]:
    """Whether another stream follows; a trailer is passed over and noted, zeros before it or alone as well.

    Raises:
        ImageDamaged: what follows may be the rest of a stream: it begins as one, has one within it, is one but for its
            first bytes, or is too long for a trailer.
    """
    magic = _MAGIC[intake.content]
    end = intake.offset
    padding = yield from _skip_zeros(intake)
    start = intake.offset
    begin = yield from _up_to(intake, len(magic))
    if begin and magic.startswith(begin):
        if padding:
            raise intake.damaged(f"another stream follows its padding, at byte {start}")
        intake.give_back(begin)
        return True
    trailer = begin + (yield from _up_to(intake, MAX_TRAILER))
    if (
        len(trailer) > MAX_TRAILER
        or _SIGNS[intake.content] in trailer
        or (intake.content == "gzip" and _is_beheaded_member(trailer))
    ):
        raise intake.damaged(f"garbage follows at byte {start}, which may be the rest of a damaged file")
    length = padding + len(trailer)
    if trailer or (
        padding and intake.content == "bzip2"
    ):  # gzip passes zeros over without a word, bzip2 does not
        notes.append(f"{length} bytes follow the {intake.content} stream at byte {end} and were passed over")
    return False


def _up_to(intake: Intake, length: int) -> Generator[None, None, bytes]:
    """The next bytes, fewer than `length` only where the file ends before."""
    data = bytearray()
    while len(data) < length and not (yield from intake.at_end()):
        data += yield from intake.some(length - len(data), "a trailer")
    return bytes(data)


# -- gzip ----------------------------------------------------------------------------------------------------


def _gzip(intake: Intake, notes: list[str]) -> _Pieces:
    more = True
    while more:
        yield from _check_magic(intake)
        yield from _gzip_header(intake)
        yield from _gzip_body(intake)
        more = yield from _another_follows(intake, notes)


def _is_beheaded_member(data: bytes) -> bool:
    """Whether this is a member whose first bytes are damaged: behind its header it inflates to an end, and to what its
    checksum says, or to more than any trailer would.
    """
    start, flags = 10, data[3] if len(data) > 3 else 0
    if flags & _FEXTRA:
        start += 2 + int.from_bytes(data[10:12], "little")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            start = data.find(b"\0", start) + 1 or len(data)
    start += 2 if flags & _FHCRC else 0
    library, rest, crc, length = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0, 0
    while not library.eof and length < _MOST_INFLATED:
        try:
            piece = library.decompress(rest, PIECE_BYTES)
        except zlib.error:
            return False
        if not piece and not library.eof:
            return False
        crc, length, rest = zlib.crc32(piece, crc), length + len(piece), library.unconsumed_tail
    return not library.eof or library.unused_data[:4] == struct.pack("<I", crc)


def _gzip_header(intake: Intake) -> Generator[None, None, None]:
    """Parsed here, not by the library: isal misreads a header that comes in more than one piece."""
    what = "a member's header"
    header = bytearray((yield from intake.take(10, what)))
    method, flags = header[2], header[3]
    if method != 8 or flags & _RESERVED_FLAGS:
        raise intake.damaged(f"a member has the unknown method {method} or flags {flags:#x}")
    if flags & _FEXTRA:
        size = yield from intake.take(2, what)
        header += size
        header += yield from intake.take(int.from_bytes(size, "little"), what)
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            header += yield from _gzip_text(intake, what)
    if flags & _FHCRC:
        stored = int.from_bytes((yield from intake.take(2, what)), "little")
        if stored != zlib.crc32(header) & 0xFFFF:
            raise intake.damaged(f"the checksum of the header before byte {intake.offset} is wrong")


def _gzip_text(intake: Intake, what: str) -> Generator[None, None, bytes]:
    text = bytearray()
    while len(text) < _MAX_TEXT:
        text += yield from intake.take(1, what)
        if text[-1] == 0:
            return bytes(text)
    raise intake.damaged(f"a name in {what} is longer than {_MAX_TEXT} bytes")


def _gzip_body(intake: Intake) -> _Pieces:
    crc = size = 0
    for piece in inflate(intake, igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)):
        if piece is not None:
            crc = isal_zlib.crc32(piece, crc)
            size += len(piece)
        yield piece
    stored_crc, stored_size = struct.unpack("<II", (yield from intake.take(8, "a member's trailer")))
    if crc != stored_crc:
        raise intake.damaged(f"the CRC of the member before byte {intake.offset} is wrong")
    if size & 0xFFFFFFFF != stored_size:
        raise intake.damaged(f"the member before byte {intake.offset} has {size} bytes, not {stored_size}")


# -- xz and bzip2 --------------------------------------------------------------------------------------------


def _xz(intake: Intake, window: _Window) -> _Pieces:
    while True:
        yield from _check_magic(intake)
        library = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=window.limit)
        # The library does not tell how much it takes. It is slow enough for few buffers in any case.
        window.reserve(window.limit)
        yield from inflate(intake, library, window)
        if not lzma.is_check_supported(library.check):
            raise intake.damaged(f"it uses the unknown integrity check {library.check}")
        if (yield from _skip_zeros(intake)) % 4:
            raise intake.damaged(f"its padding before byte {intake.offset} is not in units of 4 bytes")
        if (yield from intake.at_end()):
            return


def check_xz_end(end: bytes) -> None:
    """Look at the last bytes of an xz file, before all the others have come.

    Raises:
        ImageDamaged: no stream ends there (its footer ends with YZ, padding may follow): the file was cut.
    """
    content = end.rstrip(b"\0")
    if content and not content.endswith(b"YZ"):
        raise ImageDamaged(format="xz", reason="it does not end with the footer of a stream: it was cut")


def _bzip2(intake: Intake, notes: list[str]) -> _Pieces:
    more = True
    while more:
        yield from _check_magic(intake)
        yield from inflate(intake, bz2.BZ2Decompressor())
        more = yield from _another_follows(intake, notes)


# -- zstd ----------------------------------------------------------------------------------------------------


def _zstd(intake: Intake, window: _Window) -> _Pieces:
    context = zstandard.ZstdDecompressor(max_window_size=window.limit)
    what = "a frame's header"
    frames = 0
    while not (yield from intake.at_end()) or not frames:
        magic = bytes((yield from intake.take(4, what)))
        number = int.from_bytes(magic, "little")
        if number & 0xFFFFFFF0 == _SKIPPABLE:
            length = int.from_bytes((yield from intake.take(4, what)), "little")
            yield from intake.skip(length, "a skippable frame")
            continue
        intake.give_back(magic)
        yield from _check_magic(intake)
        header, has_checksum = yield from _zstd_header(intake, window)
        yield from _zstd_blocks(intake, context.decompressobj(), header, has_checksum=has_checksum)
        frames += 1


def _zstd_header(intake: Intake, window: _Window) -> Generator[None, None, tuple[bytes, bool]]:
    """A frame's header, and whether a checksum ends the frame (RFC 8878, section 3.1.1.1)."""
    what = "a frame's header"
    start = bytes((yield from intake.take(5, what)))
    flags = start[4]
    single_segment = bool(flags & 0x20)
    dictionary_bytes = (0, 1, 2, 4)[flags & 3]
    size_bytes = (int(single_segment), 2, 4, 8)[flags >> 6]
    window_bytes = 0 if single_segment else 1
    rest = bytes((yield from intake.take(window_bytes + dictionary_bytes + size_bytes, what)))
    if single_segment:
        # The whole content is the window; a size of two bytes counts from 256.
        size = int.from_bytes(rest[dictionary_bytes:], "little") + (256 if size_bytes == 2 else 0)
    else:
        base = 1 << (10 + (rest[0] >> 3))
        size = base + base // 8 * (rest[0] & 7)
    window.reserve(size)
    return start + rest, bool(flags & 4)


def _zstd_blocks(
    intake: Intake, library: "zstandard.ZstdDecompressionObj", header: bytes, *, has_checksum: bool
) -> _Pieces:
    """The blocks of a frame. A block gives 128 KiB at most: handing over a few at a time bounds the output, which the
    library itself does not.
    """
    pending = header
    ended = False
    while not ended:
        blocks, ended = yield from _zstd_some_blocks(intake)
        if ended and has_checksum:
            blocks += yield from intake.take(4, "a frame's checksum")
        try:
            piece = library.decompress(pending + blocks)
        except zstandard.ZstdError as error:
            raise intake.damaged(f"the data before byte {intake.offset} does not inflate: {error}") from error
        pending = b""
        if piece:
            yield piece
    if not library.eof or library.unused_data:
        raise intake.damaged(f"the frame before byte {intake.offset} does not end where it says")


def _zstd_some_blocks(intake: Intake) -> Generator[None, None, tuple[bytearray, bool]]:
    """The next blocks of a frame as they are, and whether the last one is among them (RFC 8878, section 3.1.1.2)."""
    blocks = bytearray()
    for _ in range(_ZSTD_BLOCKS_AT_ONCE):
        header = yield from intake.take(3, "a block")
        number = int.from_bytes(header, "little")
        kind, size = number >> 1 & 3, number >> 3
        if kind == _RESERVED_BLOCK or size > _ZSTD_BLOCK:
            raise intake.damaged(f"there is no block at byte {intake.offset - 3}")
        blocks += header
        blocks += yield from intake.take(1 if kind == _RLE_BLOCK else size, "a block")
        if number & 1:
            return blocks, True
    return blocks, False
