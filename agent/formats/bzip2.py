"""bzip2, block by block. Source: the bzip2 library, which is its own specification.

A block begins at any bit, with a mark of 48 bits, and so does the end of a stream. Nothing tells where: the file is cut
wherever such bits are, which may be within a block as well. What has been cut is a file of its own for the library,
which checks the block. Where that does not inflate, it is joined with what follows and tried again: so the cut that was
none is undone.
"""

import bz2
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial

from agent.errors import ImageDamaged
from agent.formats.intake import Intake, Parser
from agent.formats.parts import Cuts, Inflated, Part
from agent.formats.streams import CHUNK_BYTES, MAGIC, PIECE_BYTES, Pieces, check_magic, inflate
from agent.formats.trailer import MAX_TRAILER, another_follows
from agent.units import MiB

_BLOCK, _END = 0x314159265359, 0x177245385090
_MARK_BITS, _CRC_BITS = 48, 32
_HEADER_BYTES = 4
# A block of 900,000 symbols in codes of 20 bits, with its tables, is shorter; so is all that may follow a stream.
_MAX_BYTES = 3 * MiB
# What the library takes for one; a block inflates to 45 MiB at the most, and to less than one nearly always.
_LIBRARY_BYTES = 4 * MiB
_AHEAD_BYTES = 2 * MiB


def bzip2_streams(intake: Intake, notes: list[str]) -> Pieces:
    """All streams of a file, in one piece."""
    more = True
    while more:
        yield from check_magic(intake)
        yield from inflate(intake, bz2.BZ2Decompressor(), OSError)
        more = yield from another_follows(intake, notes)


@dataclass(frozen=True, slots=True)
class Segment:
    """What is in the file from one mark to the next."""

    data: bytes
    skipped: int
    """Bits of the first byte that belong to what is in front of it."""
    bits: int
    offset: int
    """Of the first byte in the file."""

    @property
    def number(self) -> int:
        """All of its bits."""
        return self._number(0, self.bits)

    @property
    def mark(self) -> int:
        """The bits that it begins with."""
        return self._number(0, _MARK_BITS)

    @property
    def crc(self) -> int:
        """Of a block, or of the stream that ends."""
        return self._number(_MARK_BITS, _CRC_BITS)

    def is_end(self, crc: int) -> bool:
        """Whether it is the end of a stream with this checksum, and whole."""
        return self.bits >= _MARK_BITS + _CRC_BITS and self.crc == crc

    @property
    def rest(self) -> bytes:
        """What follows the end of a stream."""
        return self.data[(self.skipped + _MARK_BITS + _CRC_BITS + 7) // 8 :]

    def _number(self, at: int, bits: int) -> int:
        """`bits` bits, from bit `at` on; fewer if there are no more."""
        return _number(self.data, self.skipped + at, min(bits, self.bits - at))

    def joined(self, following: "Segment") -> "Segment":
        """Both as one."""
        number = self.number << following.bits | following.number
        bits = self.bits + following.bits
        data = (number << -(self.skipped + bits) % 8).to_bytes((self.skipped + bits + 7) // 8, "big")
        return Segment(data, self.skipped, bits, self.offset)

    def inflate(self, level: int) -> Iterator[bytes]:
        """Inflate the block, as the only one of a stream.

        Raises:
            ImageDamaged: it is none, or goes on.
        """
        block = self.number << _MARK_BITS | _END
        block = block << _CRC_BITS | self.crc
        bits = self.bits + _MARK_BITS + _CRC_BITS
        data = b"BZh%d" % level + (block << -bits % 8).to_bytes((bits + 7) // 8, "big")
        library = bz2.BZ2Decompressor()
        while not library.eof:
            try:
                piece = library.decompress(data, PIECE_BYTES)
            except OSError as error:
                raise self.damaged(f"does not inflate: {error}") from error
            if piece:
                yield piece
            elif library.needs_input:
                raise self.damaged("goes on where it should end")
            data = b""

    def damaged(self, how: str) -> ImageDamaged:
        """The error for a fault in it."""
        return ImageDamaged(format="bzip2", reason=f"the block at byte {self.offset} {how}")


# -- cutting


@dataclass(frozen=True, slots=True)
class _SegmentPart(Part):
    segment: Segment


def bzip2_segments(intake: Intake) -> Cuts:
    """The whole file as parts, one from each mark to the next; to be followed by `join_segments`."""
    yield from check_magic(intake)
    gathered, skipped, begin, searched, level = bytearray(), 0, 0, 0, 9
    while not (yield from intake.at_end()):
        gathered += yield from intake.some(CHUNK_BYTES, "the compressed data")
        done = 0
        for mark in _marks(gathered, searched):
            data = bytes(gathered[done : (mark + 7) // 8])
            segment = Segment(data, skipped, mark - done * 8 - skipped, begin + done)
            level = _level(segment.data[-_HEADER_BYTES:].rjust(_HEADER_BYTES)) or level
            yield _part(segment, level)
            done, skipped = mark // 8, mark % 8
        # A mark is not found twice, and found where it comes in pieces.
        searched = max(len(gathered) * 8 - _MARK_BITS + 1, done * 8 + skipped + 1) - done * 8
        del gathered[:done]
        begin += done
        if len(gathered) > _MAX_BYTES:
            raise intake.damaged(f"there is neither a block nor an end behind byte {begin}")
    yield _part(Segment(bytes(gathered), skipped, len(gathered) * 8 - skipped, begin), level)


def _part(segment: Segment, level: int) -> Part:
    inflate = partial(segment.inflate, level) if segment.mark == _BLOCK else _nothing
    return _SegmentPart(len(segment.data), _LIBRARY_BYTES, _AHEAD_BYTES, inflate, segment)


def _nothing() -> Iterator[bytes]:
    return iter(())


# Of a mark that begins so many bits in front of a byte, the five bytes from there on: all of them are its own.
_PATTERNS = [
    (((mark << shift) >> 8 & (1 << 40) - 1).to_bytes(5, "big"), mark, shift)
    for mark in (_BLOCK, _END)
    for shift in range(8)
]


def _marks(data: bytearray, first: int) -> list[int]:
    """Where marks begin, in bits, from bit `first` on."""
    found = []
    for pattern, mark, shift in _PATTERNS:
        at = data.find(pattern, first // 8)
        while at >= 0:
            bit = at * 8 - shift
            if bit >= first and _number(data, bit, _MARK_BITS) == mark:
                found.append(bit)
            at = data.find(pattern, at + 1)
    return sorted(found)


# -- joining

_Found = tuple[Segment, Iterator[bytes | memoryview]]


def join_segments(inflated: Iterator[Inflated], notes: list[str]) -> Iterator[bytes | memoryview]:
    """What is in the file, where its segments come in order, each with what it inflated to.

    Raises:
        ImageDamaged: the file is damaged, or not whole.
    """
    segments = ((part.segment, pieces) for part, pieces in inflated if isinstance(part, _SegmentPart))
    crc = level = 0
    begun = False
    for found, pieces in segments:
        segment = found
        if not begun:
            begun, level = True, _level_behind(segment, segment.data, segments, notes)
        elif level and segment.mark == _BLOCK:
            segment = yield from _block(segment, pieces, segments, level)
            crc = (crc << 1 & 0xFFFFFFFF | crc >> 31) ^ segment.crc
        elif level and segment.mark == _END and segment.is_end(crc):
            crc, level = 0, _level_behind(segment, segment.rest, segments, notes)
        else:
            raise segment.damaged("is none, or the checksum of its stream is wrong")
    if level:
        raise ImageDamaged(format="bzip2", reason="it ends within a stream")


def _block(
    segment: Segment,
    pieces: Iterator[bytes | memoryview],
    following: Iterator["_Found"],
    level: int,
) -> Generator[bytes | memoryview, None, Segment]:
    """One block, as long as it may be; gives what is in it, and all of its segments as one."""
    given = False
    coming: Iterator[bytes | memoryview] = pieces
    while True:
        try:
            for piece in coming:
                given = True
                yield piece
        except ImageDamaged:
            if given:
                raise
        else:
            return segment
        more, _ = next(following, (None, None))
        if more is None or len(segment.data) > _MAX_BYTES:
            raise segment.damaged("does not inflate, neither by itself nor with what follows")
        segment = segment.joined(more)
        coming = segment.inflate(level)


def _level_behind(segment: Segment, rest: bytes, following: Iterator["_Found"], notes: list[str]) -> int:
    """The level of the stream that begins behind this; 0 where there is none, and a trailer at the most."""
    if len(rest) == _HEADER_BYTES and (level := _level(rest)):
        return level
    for more, _ in following:
        length = len(segment.data) - len(rest)
        segment = segment.joined(more)
        rest = segment.data[length:]
        if len(rest) > MAX_TRAILER:
            break
    intake = Intake("bzip2")
    intake.offset = segment.offset + len(segment.data) - len(rest)
    parser = Parser(intake, _trailer(intake, notes))
    for _ in (*parser.feed(memoryview(rest)), *parser.finish()):
        """It gives nothing."""
    return 0


def _trailer(intake: Intake, notes: list[str]) -> Pieces:
    if (yield from another_follows(intake, notes)):
        raise intake.damaged(f"at byte {intake.offset} a stream begins that has no block")


def _level(header: bytes) -> int:
    """What the header of a stream says; 0 if it is none."""
    return header[3] - 0x30 if header[:3] == MAGIC["bzip2"] and header[3] in b"123456789" else 0


def _number(data: bytes | bytearray, at: int, bits: int) -> int:
    """`bits` bits, from bit `at` on; fewer if there are no more."""
    end = min(at + bits, len(data) * 8)
    return int.from_bytes(data[at // 8 : (end + 7) // 8], "big") >> -end % 8 & (1 << max(end - at, 0)) - 1
