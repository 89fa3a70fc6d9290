"""gzip, member by member. Source: RFC 1952.

Members of bgzip say in their headers how long they are (the SAM specification, section 4.1): several in a row make a
part. One that says so wrongly is damaged, whether its parts are inflated side by side or not.
"""

import struct
import zlib
from collections.abc import Generator, Iterator
from functools import partial

from isal import isal_zlib

from agent.formats.deflate import inflate_deflate
from agent.formats.intake import Intake, Parser
from agent.formats.parts import Cuts, Part
from agent.formats.streams import Pieces, check_magic
from agent.formats.trailer import FCOMMENT, FEXTRA, FHCRC, FNAME, another_follows
from agent.units import KiB

_RESERVED_FLAGS = 0xE0
_MAX_TEXT = 64 * KiB

# The extra field of bgzip, with the length of its member less one; what such a member inflates to at most.
_BGZIP = b"BC\2\0"
_BGZIP_MEMBER = 64 * KiB
# A part ends with the member that makes it so long, or with so many of them.
_PART_BYTES = 256 * KiB
_PART_MEMBERS = 64


def gzip_members(intake: Intake, notes: list[str], *, divide: bool) -> Cuts:
    """All members of a file, and what stands behind them; where `divide` is true, those of bgzip as parts."""
    members: list[bytes] = []
    more = True
    while more:
        yield from check_magic(intake)
        header = yield from _header(intake)
        length = _told_length(header)
        if length is None or not divide:
            yield from _part(intake, members)
            yield from _rest(intake, header)
        else:
            members.append(header + (yield from intake.take(length - len(header), "a member")))
            if sum(map(len, members)) >= _PART_BYTES or len(members) == _PART_MEMBERS:
                yield from _part(intake, members)
        more = yield from another_follows(intake, notes)
    yield from _part(intake, members)


def _part(intake: Intake, members: list[bytes]) -> Iterator[Part]:
    """The part of these members; the list is emptied."""
    if members:
        data, ahead = b"".join(members), len(members) * _BGZIP_MEMBER
        yield Part(len(data), 0, ahead, partial(_inflate, data, intake.offset - len(data)))
        members.clear()


def _inflate(data: bytes, offset: int) -> Iterator[bytes]:
    intake = Intake("gzip")
    intake.offset = offset
    parser = Parser(intake, _members(intake))
    yield from parser.feed(memoryview(data))
    yield from parser.finish()


def _members(intake: Intake) -> Pieces:
    while not (yield from intake.at_end()):
        yield from check_magic(intake)
        yield from _rest(intake, (yield from _header(intake)))


def _rest(intake: Intake, header: bytes) -> Pieces:
    """What follows the header of a member, which is as long as that tells."""
    begin, told = intake.offset - len(header), _told_length(header)
    yield from _body(intake)
    if told not in (None, intake.offset - begin):
        raise intake.damaged(f"the member at byte {begin} does not have the {told} bytes that it tells")


def _told_length(header: bytes) -> int | None:
    """The length of a member of bgzip, which its header tells before all other extra fields; None of another."""
    if not header[3] & FEXTRA or header[12:16] != _BGZIP:
        return None
    length = int.from_bytes(header[16:18], "little") + 1
    return length if length >= len(header) + 8 else None


def _header(intake: Intake) -> Generator[None, None, bytes]:
    """Parsed here, not by the library: isal misreads a header that comes in more than one piece."""
    what = "a member's header"
    header = bytearray((yield from intake.take(10, what)))
    method, flags = header[2], header[3]
    if method != 8 or flags & _RESERVED_FLAGS:
        raise intake.damaged(f"a member has the unknown method {method} or flags {flags:#x}")
    if flags & FEXTRA:
        size = yield from intake.take(2, what)
        header += size
        header += yield from intake.take(int.from_bytes(size, "little"), what)
    for flag in (FNAME, FCOMMENT):
        if flags & flag:
            header += yield from _text(intake, what)
    if flags & FHCRC:
        stored = bytes((yield from intake.take(2, what)))
        if int.from_bytes(stored, "little") != zlib.crc32(header) & 0xFFFF:
            raise intake.damaged(f"the checksum of the header before byte {intake.offset} is wrong")
        header += stored
    return bytes(header)


def _text(intake: Intake, what: str) -> Generator[None, None, bytes]:
    text = bytearray()
    while len(text) < _MAX_TEXT:
        text += yield from intake.take(1, what)
        if text[-1] == 0:
            return bytes(text)
    raise intake.damaged(f"a name in {what} is longer than {_MAX_TEXT} bytes")


def _body(intake: Intake) -> Pieces:
    crc = size = 0
    for piece in inflate_deflate(intake):
        if piece is not None:
            crc = isal_zlib.crc32(piece, crc)
            size += len(piece)
        yield piece
    stored_crc, stored_size = struct.unpack("<II", (yield from intake.take(8, "a member's trailer")))
    if crc != stored_crc:
        raise intake.damaged(f"the CRC of the member before byte {intake.offset} is wrong")
    if size & 0xFFFFFFFF != stored_size:
        raise intake.damaged(f"the member before byte {intake.offset} has {size} bytes, not {stored_size}")
