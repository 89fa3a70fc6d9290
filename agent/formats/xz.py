"""xz, stream by stream and block by block. Source: The .xz File Format 1.2.

Blocks are found by their headers and by those of the chunks within them (LZMA2), nothing is inflated for that. Each is
then a file of its own for the library: the same block behind the same header, with the index that such a file has. So
the library checks all that is within a block, its lengths as well, and this module the index and what is around it.
"""

import lzma
import struct
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from agent.errors import ImageDamaged
from agent.formats.intake import Intake
from agent.formats.parts import MAX_INFLATED, Cuts, Part, fits
from agent.formats.streams import CHUNK_BYTES, PIECE_BYTES, Window, check_magic, skip_zeros

_MAGIC_END = b"YZ"
_LZMA2 = 0x21
# The sizes of the integrity checks by their numbers (section 2.1.1.2).
_CHECK_BYTES = (0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)


def xz_streams(intake: Intake, window: Window, memory: int) -> Cuts:
    """All streams of a file. Blocks that say their sizes and are small enough for `memory` bytes become parts."""
    while True:
        yield from check_magic(intake)
        yield from _stream(intake, window, memory)
        if (yield from skip_zeros(intake)) % 4:
            raise intake.damaged(f"its padding before byte {intake.offset} is not in units of 4 bytes")
        if (yield from intake.at_end()):
            return


def check_xz_end(end: bytes) -> None:
    """Look at the last bytes of an xz file, before all the others have come.

    Raises:
        ImageDamaged: no stream ends there (its footer ends with YZ, padding may follow): the file was cut.
    """
    content = end.rstrip(b"\0")
    if content and not content.endswith(_MAGIC_END):
        raise ImageDamaged(format="xz", reason="it does not end with the footer of a stream: it was cut")


def _stream(intake: Intake, window: Window, memory: int) -> Cuts:
    header = bytes((yield from intake.take(12, "a stream's header")))
    flags = header[6:8]
    if zlib.crc32(flags) != int.from_bytes(header[8:], "little") or flags[0] or flags[1] > 15:
        raise intake.damaged(f"the header of the stream before byte {intake.offset} is damaged")
    if not lzma.is_check_supported(flags[1]):
        raise intake.damaged(f"it uses the unknown integrity check {flags[1]}")
    index = _Index(flags)
    while (first := bytes((yield from intake.take(1, "a block's header")))) != b"\0":
        rest = yield from intake.take(first[0] * 4 + 3, "a block's header")
        yield from _block(intake, window, memory, header, first + rest, index)
    yield from index.compare(intake)


def _block(
    intake: Intake, window: Window, memory: int, stream_header: bytes, header: bytes, index: "_Index"
) -> Cuts:
    facts = _read_header(intake, header)
    window.reserve(facts.dictionary)
    library = _Block(intake, window, stream_header + header)
    apart = facts.can_be_part(memory)
    length = inflated = 0
    for chunk in _chunks(intake):
        if chunk is None:
            yield None
            continue
        length, inflated = length + len(chunk.data), inflated + chunk.inflated
        library.add(chunk.data)
        # The sizes in the header were believed until here.
        apart = apart and length <= facts.length and inflated <= facts.inflated
        if not apart:
            yield from library.inflate()
    padding = -length % 4
    end = yield from intake.take(padding + _CHECK_BYTES[stream_header[7]], "a block's end")
    record = index.add(len(header) + length + len(end) - padding, inflated)
    library.add(bytes(end) + index.alone(record))
    library.complete = True
    if apart:
        yield Part(library.length, facts.dictionary, inflated, library.inflate)
    else:
        yield from library.inflate()


# -- what is inflated


class _Block:
    """One block, as a file of its own. Holds what was added and not yet inflated."""

    def __init__(self, intake: Intake, window: Window, begin: bytes) -> None:
        self._damaged = intake.damaged
        self._place = intake.offset
        self._window = window
        self._library: lzma.LZMADecompressor | None = None
        self._waiting = [begin]
        self.complete = False

    def add(self, data: bytes) -> None:
        self._waiting.append(data)

    @property
    def length(self) -> int:
        return sum(map(len, self._waiting))

    def inflate(self) -> Iterator[bytes]:
        """What was added, which is let go of."""
        library = self._library
        if library is None:
            library = self._library = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=self._window.limit)
        waiting, self._waiting = self._waiting, []
        waiting.reverse()
        while waiting and not library.eof:
            yield from self._pieces(library, waiting.pop())
        if self.complete and (waiting or not library.eof or library.unused_data):
            raise self._fault("it is not as long as it says")

    def _pieces(self, library: lzma.LZMADecompressor, data: bytes) -> Iterator[bytes]:
        while True:
            try:
                piece = library.decompress(data, PIECE_BYTES)
            except lzma.LZMAError as error:
                if "emory usage limit" in str(error):
                    raise self._window.too_large("more") from error
                raise self._fault(str(error)) from error
            if piece:
                yield piece
            if library.eof or library.needs_input:
                return
            data = b""

    def _fault(self, reason: str) -> ImageDamaged:
        return self._damaged(f"the block at byte {self._place} does not inflate: {reason}")


@dataclass(frozen=True, slots=True)
class _Chunk:
    data: bytes
    """With its header."""
    inflated: int


def _chunks(intake: Intake) -> Generator[_Chunk | None, None, None]:
    """The chunks of a block's LZMA2 data, of at most 64 KiB each (section 5.3.1, and the comments in XZ Embedded)."""
    what = "a block"
    while control := (yield from intake.take(1, what))[0]:
        if control >= 0x80:
            # With a properties byte where the decoder is told to read new ones.
            sizes = bytes((yield from intake.take(5 if control >= 0xC0 else 4, what)))
            inflated = ((control & 0x1F) << 16) + int.from_bytes(sizes[:2], "big") + 1
            length = int.from_bytes(sizes[2:4], "big") + 1
        elif control <= 2:
            sizes = bytes((yield from intake.take(2, what)))
            inflated = length = int.from_bytes(sizes, "big") + 1
        else:
            raise intake.damaged(f"there is no chunk at byte {intake.offset - 1}")
        data = yield from intake.take(length, what)
        yield _Chunk(b"".join((bytes([control]), sizes, data)), inflated)
    yield _Chunk(b"\0", 0)


# -- headers


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header of a block tells. Sizes in bytes; -1 where it does not say."""

    length: int
    inflated: int
    dictionary: int

    def can_be_part(self, memory: int) -> bool:
        if self.length < 0 or self.inflated < 0 or self.inflated > MAX_INFLATED:
            return False
        return fits(memory, self.length, self.inflated, self.dictionary)


def _read_header(intake: Intake, header: bytes) -> _Header:
    """Read it (section 3.1); the library reads it again, and is stricter.

    Raises:
        ImageDamaged: it is damaged, or has filters that are not known.
        ImageUnsafe: the dictionary is larger than any.
    """
    fault = intake.damaged(f"the header of the block before byte {intake.offset} is damaged")
    if zlib.crc32(header[:-4]) != int.from_bytes(header[-4:], "little"):
        raise fault
    flags, at = header[1], 2
    sizes = [-1, -1]
    try:
        for number in (0, 1):
            if flags & 0x40 << number:
                sizes[number], at = _read_number(header, at)
        name, properties = 0, b""
        for _ in range((flags & 3) + 1):
            name, at = _read_number(header, at)
            length, at = _read_number(header, at)
            properties, at = header[at : at + length], at + length
        bits = properties[0]
    except IndexError:
        raise fault from None
    if name != _LZMA2 or bits > 40:
        raise fault
    # Table of section 5.3.1.
    dictionary = (2 | bits & 1) << bits // 2 + 11
    return _Header(sizes[0], sizes[1], dictionary)


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends; raises IndexError if there is none."""
    value = 0
    for place in range(9):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise IndexError


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class _Index:
    """The index that a stream has to have by its blocks; of their sizes a checksum is kept."""

    def __init__(self, flags: bytes) -> None:
        self._flags = flags
        self._count = self._length = self._crc = 0

    def add(self, unpadded: int, inflated: int) -> bytes:
        """A block has come; gives its record (section 4.3)."""
        record = _number(unpadded) + _number(inflated)
        self._crc = zlib.crc32(record, self._crc)
        self._length += len(record)
        self._count += 1
        return record

    def alone(self, record: bytes) -> bytes:
        """The index and the footer of a stream that has one block."""
        index = b"\0\1" + record
        index += bytes(-len(index) % 4)
        return index + struct.pack("<I", zlib.crc32(index)) + self._footer(len(index) + 4)

    def _footer(self, length: int) -> bytes:
        end = struct.pack("<I", length // 4 - 1) + self._flags
        return struct.pack("<I", zlib.crc32(end)) + end + _MAGIC_END

    def compare(self, intake: Intake) -> Generator[None, None, None]:
        """Take the index and the footer of the stream (sections 2.1.2 and 4).

        Raises:
            ImageDamaged: it does not tell of the blocks that came, or is damaged.
        """
        what = "the index"
        begin = b"\0" + _number(self._count)
        found = b"\0" + (yield from intake.take(len(begin) - 1, what))
        crc, records, left = zlib.crc32(begin), 0, self._length
        while left:
            piece = yield from intake.some(min(left, CHUNK_BYTES), what)
            crc, records, left = zlib.crc32(piece, crc), zlib.crc32(piece, records), left - len(piece)
        if found != begin or records != self._crc:
            raise intake.damaged(
                f"its index before byte {intake.offset} does not tell of the blocks that came"
            )
        padding = bytes(-(len(begin) + self._length) % 4)
        end = padding + struct.pack("<I", zlib.crc32(padding, crc))
        end += self._footer(len(begin) + self._length + len(end))
        if (yield from intake.take(len(end), "a stream's footer")) != end:
            raise intake.damaged(f"the end of the stream before byte {intake.offset} is damaged")
