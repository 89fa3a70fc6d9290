"""What the decoders of compressed streams share: the libraries behind them, their memory, and where a stream begins.

Used by the formats of compressed files, and by archives of compressed members.
"""

import struct
from collections.abc import Callable, Generator
from typing import Protocol

from agent.errors import ImageUnsafe
from agent.formats.intake import Intake
from agent.formats.parts import Cuts
from agent.units import KiB

# Large enough to write in one go, small enough to stay in the cache between here and there.
PIECE_BYTES = 256 * KiB
# What is handed to a library at once: libraries copy what they leave.
CHUNK_BYTES = 64 * KiB

MAGIC = {
    "gzip": b"\x1f\x8b",
    "xz": b"\xfd7zXZ\x00",
    "bzip2": b"BZh",
    "zstd": struct.pack("<I", 0xFD2FB528),
    "lz4": struct.pack("<I", 0x184D2204),
}
# A frame that says nothing, of zstd (RFC 8878, section 3.1.2) and of LZ4 alike: sixteen magic numbers from this one on.
_SKIPPABLE = 0x184D2A50

# What a parser of a stream gives: pieces of what is in it, and None where it needs more bytes.
Pieces = Generator[bytes | None, None, None]


class Window:
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
        """The error for a stream that needs more than the limit."""
        return ImageUnsafe(
            check="memory_limit",
            detail=f"the {self._kind} stream needs {needed} of memory to be decompressed, beyond the {self.limit} bytes"
            " that it may have here",
            hint="Compress the image with a window of at most 64 MiB: xz -9 or lower, zstd --long=26 or lower. For a"
            " longer one of zstd (up to --long=31) have so much memory free, and 128 MiB beside it; MemoryMax= counts.",
        )


class _Library(Protocol):
    """The decompressor objects of bz2, lzma, isal and lz4, which are alike but for what they raise."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def inflate(intake: Intake, library: _Library, failure: type[Exception]) -> Pieces:
    """One stream through a library, which raises `failure`; what follows the stream stays in the intake."""
    while not library.eof:
        chunk = b""
        if library.needs_input:
            chunk = bytes((yield from intake.some(CHUNK_BYTES, "the compressed data")))
        try:
            piece = library.decompress(chunk, PIECE_BYTES)
        except failure as error:
            raise intake.damaged(f"the data before byte {intake.offset} does not inflate: {error}") from error
        if piece:
            yield piece
    intake.give_back(library.unused_data)


def check_magic(intake: Intake) -> Generator[None, None, None]:
    """Raises ImageDamaged unless another stream begins here; takes nothing."""
    magic = MAGIC[intake.content]
    start = intake.offset
    found = bytes((yield from intake.take(len(magic), "the first bytes of a stream")))
    if found != magic:
        what = "it does not begin as such a file" if start == 0 else f"garbage follows at byte {start}"
        raise intake.damaged(what)
    intake.give_back(found)


def frames(intake: Intake, frame: Callable[[], Cuts]) -> Cuts:
    """At least one frame, as `frame` reads it, and any number of skippable ones between them."""
    what, count = "a frame's header", 0
    while not (yield from intake.at_end()) or not count:
        magic = bytes((yield from intake.take(4, what)))
        if int.from_bytes(magic, "little") & 0xFFFFFFF0 == _SKIPPABLE:
            length = int.from_bytes((yield from intake.take(4, what)), "little")
            yield from intake.skip(length, "a skippable frame")
            continue
        intake.give_back(magic)
        yield from frame()
        count += 1


def skip_zeros(intake: Intake) -> Generator[None, None, int]:
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
