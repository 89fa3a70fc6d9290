"""Compressed streams: gzip, xz, zstd, bzip2 and LZ4, with any number of members, streams or frames in a row.

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
from typing import Literal

from isal import igzip_lib, isal_zlib

from agent.errors import ImageDamaged
from agent.formats.extent import ImageTooLarge
from agent.formats.intake import Intake, Parser
from agent.formats.lz4 import lz4_frames
from agent.formats.streams import CHUNK_BYTES, MAGIC, PIECE_BYTES, Pieces, Window, check_magic, inflate
from agent.formats.zstd import zstd_frames
from agent.units import KiB, MiB

Kind = Literal["gzip", "xz", "zstd", "bzip2", "lz4"]

# What a decompressor may hold for its window or dictionary where nobody allows it more: xz -9 (65 MiB) and zstd windows
# of 64 MiB pass, zstd --long=27 (128 MiB) does not: with it alone a deployment would take more than 128 MiB. Of xz no
# more is ever allowed: its presets need no more, and its library does not tell how much a stream takes.
MAX_MEMORY = 66 * MiB
# What a stream has at its beginning and a trailer hardly by chance.
_SIGNS = {"gzip": b"\x1f\x8b\x08", "bzip2": b"1AY&SY"}
# No trailer that tools append has more: what has is the rest of a file that something happened to.
MAX_TRAILER = MiB
# One that inflates to more is none.
_MOST_INFLATED = 64 * MiB

# RFC 1952, section 2.3.1
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED_FLAGS = 2, 4, 8, 16, 0xE0
_MAX_TEXT = 64 * KiB


class Decompressor:
    """One compressed file, fed in order, in pieces of any length; an `Unpacker`.

    Memory: `max_memory` for the window of xz and zstd (gzip and bzip2 need less than 4 MiB, LZ4 less than 9), and
    pieces of 256 KiB.
    """

    size = None

    def __init__(self, kind: Kind, max_output: int, max_memory: int = MAX_MEMORY) -> None:
        """`max_output` and `max_memory` in bytes."""
        self.kind = kind
        self._max_output = max_output
        self._output = 0
        self._window = Window(kind, min(max_memory, MAX_MEMORY) if kind == "xz" else max_memory)
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


def _parse(kind: Kind, intake: Intake, window: Window, notes: list[str]) -> Pieces:
    match kind:
        case "gzip":
            return _gzip(intake, notes)
        case "xz":
            return _xz(intake, window)
        case "zstd":
            return zstd_frames(intake, window)
        case "bzip2":
            return _bzip2(intake, notes)
        case "lz4":
            return lz4_frames(intake)


def _skip_zeros(intake: Intake) -> Generator[None, None, int]:
    """Take zero bytes as long as there are any, and count them."""
    count = 0
    while not (yield from intake.at_end()):
        chunk = bytes((yield from intake.some(CHUNK_BYTES, "padding")))
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
    magic = MAGIC[intake.content]
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


def _gzip(intake: Intake, notes: list[str]) -> Pieces:
    more = True
    while more:
        yield from check_magic(intake)
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


def _gzip_body(intake: Intake) -> Pieces:
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


def _xz(intake: Intake, window: Window) -> Pieces:
    while True:
        yield from check_magic(intake)
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


def _bzip2(intake: Intake, notes: list[str]) -> Pieces:
    more = True
    while more:
        yield from check_magic(intake)
        yield from inflate(intake, bz2.BZ2Decompressor())
        more = yield from _another_follows(intake, notes)
