"""Reads a tar archive as a stream: v7 and ustar, with the pax and GNU extensions for long names, large sizes and holes.

Used by `agent.formats.archives.unpack` and by `agent.formats.ova.decoder`. Hostile members are refused by the check of
whoever reads: paths out of the archive, links, devices, two members of one name; for an OVA sparse members as well.
Sources: POSIX.1-2017, pax; the GNU tar manual, "Basic Tar Format".
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from agent.errors import ImageUnsafe
from agent.formats.archives.member import Data, End, Event, Hole, Member, MemberCheck, Names
from agent.formats.archives.sparse import (
    BLOCK,
    SparseMap,
    decimal,
    map_of_records,
    old_number,
    read_map_in_data,
    read_old_map,
)
from agent.formats.intake import Intake, Parser
from agent.units import KiB, MiB

# Lengths of an extension header. A sparse map may be in one.
MAX_EXTENSION = 64 * KiB
MAX_SPARSE_EXTENSION = MiB

_FILES = b"0\x007"
_DIRECTORY = b"5"
_OLD_SPARSE = b"S"
_REFUSED = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"K": "a link",
}
_PAX, _PAX_GLOBAL, _GNU_NAME = b"x", b"g", b"L"

_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")
_SPARSE = "GNU.sparse."

# Of a member's pax headers, by key and in their order, what is read here.
Records = dict[str, list[bytes]]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A member as it lies in the archive."""

    member: Member
    size: int
    """Bytes of data in the archive, without a sparse map at their beginning."""
    pieces: SparseMap | None
    """Where they belong; None where they are the member."""


class TarReader:
    """Reads one archive.

    Memory: a header, one extension header of at most 64 KiB (1 MiB where members may be sparse), a sparse map of at
    most 4 MiB, and the names of at most 1024 members.
    """

    def __init__(self, check: MemberCheck, *, sparse: bool) -> None:
        """`check` refuses members; with `sparse` those with holes are read."""
        self._check = check
        self._sparse = sparse
        self._max_extension = MAX_SPARSE_EXTENSION if sparse else MAX_EXTENSION
        self._intake = Intake("tar")
        self._parser: Parser[Event] = Parser(self._intake, self._archive())
        self.closed = True
        """After `finish`: whether the archive ended with two blocks of zeros. Without them, its end cannot be told from
        a truncation between two members."""
        self.following = 0
        """Where the header of the member begins that is behind the one given last, in bytes."""
        self._names = Names(check)
        self._global: Records = {}

    def feed(self, data: memoryview) -> Iterator[Event]:
        """See `Reader.feed`."""
        return self._parser.feed(data)

    def finish(self) -> Iterator[Event]:
        """See `Reader.finish`; a cut between two members is told by `closed` only."""
        return self._parser.finish()

    def _archive(self) -> Generator[Event | None, None, None]:
        intake = self._intake
        while (stored := (yield from self._member())) is not None:
            self.following = intake.offset + stored.size + -stored.size % BLOCK
            yield stored.member
            yield from self._content(stored)
            yield End()
            yield from intake.skip(-stored.size % BLOCK, f"the member {stored.member.name!r}")
        while not (yield from intake.at_end()):
            if bytes((yield from intake.some(MAX_EXTENSION, "padding"))).strip(b"\0"):
                raise intake.damaged(f"garbage follows its end, before byte {intake.offset}")

    def _content(self, stored: _Stored) -> Generator[Event | None, None, None]:
        if stored.pieces is None:
            yield from self._data(stored, stored.size)
            return
        at = 0
        for offset, length in stored.pieces:
            if offset > at:
                yield Hole(offset - at)
            yield from self._data(stored, length)
            at = offset + length
        if at < stored.pieces.size:
            yield Hole(stored.pieces.size - at)

    def _data(self, stored: _Stored, left: int) -> Generator[Event | None, None, None]:
        while left:
            piece = yield from self._intake.some(left, f"the member {stored.member.name!r}")
            left -= len(piece)
            yield Data(piece)

    def _member(self) -> Generator[None, None, _Stored | None]:
        """The next member, with its extension headers applied; None at the end of the archive."""
        intake = self._intake
        records: Records = {}
        while True:
            block = yield from intake.up_to(BLOCK)
            if not block.strip(b"\0"):
                yield from self._read_closing_blocks(block, records)
                return None
            if len(block) < BLOCK:
                raise intake.damaged(f"it ends at byte {intake.offset}, within a header")
            self._check_header(block)
            kind, size = block[156:157], old_number(intake, block[124:136])
            if kind not in (_PAX, _PAX_GLOBAL, _GNU_NAME):
                return (yield from self._stored(block, size, self._global | records))
            if size > self._max_extension:
                raise self._unsafe(
                    f"an extension header of {size} bytes is larger than {self._max_extension}"
                )
            body = bytes((yield from intake.take(size, "an extension header")))
            yield from intake.skip(-size % BLOCK, "an extension header")
            if kind == _GNU_NAME:
                records["path"] = [body.split(b"\0", 1)[0]]
            elif kind == _PAX:
                records |= self._records(body)
            else:
                self._global |= {
                    key: value for key, value in self._records(body).items() if not key.startswith(_SPARSE)
                }

    def _read_closing_blocks(self, block: bytes, records: Records) -> Generator[None, None, None]:
        """Read the rest of the two closing blocks, of which either may be truncated; `block` is what came of the first.

        Raises:
            ImageDamaged: other bytes follow, an extension header has no member, or a truncated archive has no member.
        """
        intake = self._intake
        block += yield from intake.up_to(2 * BLOCK - len(block))
        self.closed = len(block) == 2 * BLOCK
        if block.strip(b"\0") or records or not (self.closed or self._names):
            raise intake.damaged(f"its end before byte {intake.offset} is no end")

    def _check_header(self, block: bytes) -> None:
        """Check a header's magic, which v7 does not have, and its checksum."""
        if block[257:262] != b"ustar" and any(block[257:265]):
            raise self._intake.damaged(f"there is no member's header at byte {self._intake.offset - BLOCK}")
        if old_number(self._intake, block[148:156]) != header_checksum(block):
            raise self._intake.damaged(
                f"the checksum of the header at byte {self._intake.offset - BLOCK} is wrong"
            )

    def _records(self, body: bytes) -> Records:
        """Those records of a pax header that are read here. Each is `LENGTH KEY=VALUE` and a newline."""
        found: Records = {}
        position = 0
        while position < len(body):
            match = _PAX_LENGTH.match(body, position)
            end = position + int(match[1]) if match else 0
            if match is None or end > len(body) or end <= match.end() or body[end - 1 : end] != b"\n":
                raise self._intake.damaged(f"a pax header before byte {self._intake.offset} is malformed")
            key, equals, value = body[match.end() : end - 1].partition(b"=")
            if not equals:
                raise self._intake.damaged(f"a pax header before byte {self._intake.offset} is malformed")
            if key in (b"path", b"size") or key.startswith(_SPARSE.encode()):
                found.setdefault(self._text(key), []).append(value)
            position = end
        return found

    def _stored(self, block: bytes, size: int, records: Records) -> Generator[None, None, _Stored]:
        kind, intake = block[156:157], self._intake
        name = self._name(block, records)
        if kind == _OLD_SPARSE or any(key.startswith(_SPARSE) for key in records):
            if not self._sparse:
                raise self._unsafe(f"{name!r} is stored sparsely")
        elif kind in _REFUSED or kind not in _FILES + _DIRECTORY:
            raise self._unsafe(
                f"{name!r} is {_REFUSED.get(kind, f'of the unknown type {kind!r}')}, not a file"
            )
        if "size" in records:
            size = decimal(intake, records["size"][-1])
        is_directory = kind == _DIRECTORY or name.endswith("/")
        if is_directory and size:
            raise self._unsafe(f"{name!r} is a directory of {size} bytes")
        name = self._names.add(name)
        if is_directory:
            return _Stored(Member(name, 0, "directory"), 0, None)
        begin = intake.offset
        pieces = yield from self._sparse_map(block, records)
        if pieces is None:
            return _Stored(Member(name, size, "file"), size, None)
        if kind != _OLD_SPARSE:
            size -= intake.offset - begin  # the map is part of the data
        if size != pieces.stored:
            raise intake.damaged(
                f"the sparse map of {name!r} has {pieces.stored} bytes, but {size} are stored"
            )
        return _Stored(Member(name, pieces.size, "file"), size, pieces)

    def _sparse_map(self, block: bytes, records: Records) -> Generator[None, None, SparseMap | None]:
        if block[156:157] == _OLD_SPARSE:
            return (yield from read_old_map(self._intake, block))
        if f"{_SPARSE}major" in records:
            return (yield from read_map_in_data(self._intake, records))
        if f"{_SPARSE}size" in records:
            return map_of_records(self._intake, records)
        return None

    def _name(self, block: bytes, records: Records) -> str:
        for key in (f"{_SPARSE}name", "path"):
            if key in records:
                return self._text(records[key][-1])
        name = self._text(block[:100].split(b"\0", 1)[0])
        prefix = block[345:500].split(b"\0", 1)[0]
        # In GNU's own format (magic `ustar` and a space) these bytes have another meaning.
        if prefix and block[257:263] == b"ustar\0":
            name = f"{self._text(prefix)}/{name}"
        return name

    def _text(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise self._unsafe(f"the name {value[:80]!r} is not in UTF-8") from None

    def _unsafe(self, detail: str) -> ImageUnsafe:
        return self._check.refusal(detail)


def header_checksum(block: bytes) -> int:
    """The sum of a header's bytes, with the field of the checksum counted as spaces."""
    return sum(block) - sum(block[148:156]) + 8 * ord(" ")
