"""Reads a zip archive forward: each member as it comes, then the directory at the end, which has to say the same.

Stored and deflated members, zip64, and sizes behind a member (data descriptors). Refused by named checks: encryption,
other methods, stored members whose length comes behind them, archives in several parts. A member that the directory
does not name, or names otherwise than it passed, is damage: other tools, which go by the directory, would find another
file.

Used by `agent.formats.archives.unpack`. Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.
"""

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from isal import isal_zlib

from agent.errors import ImageUnsafe
from agent.formats.archives.member import Data, End, Event, Member, MemberCheck, Names
from agent.formats.deflate import inflate_deflate
from agent.formats.intake import Intake, Parser
from agent.units import MiB

_LOCAL, _DIRECTORY, _END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_END64, _LOCATOR64, _DESCRIPTOR = b"PK\6\6", b"PK\6\7", b"PK\7\x08"

# General purpose flags (4.4.4): encrypted, strongly encrypted, with an encrypted directory.
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_SIZES_BEHIND, _UTF8 = 0x0008, 0x0800
_STORED, _DEFLATED = 0, 8
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}

_NONE16, _NONE32 = 0xFFFF, 0xFFFFFFFF
_ZIP64 = 0x0001  # the extra field with sizes of 64 bits
_UNIX, _FILE_TYPE, _LINK = 3, 0o170000, 0o120000
# The directory ends with a comment; what is longer than this would be a member that hides in a record's extra.
_MAX_END64 = MiB

_HINT = "Pack the disk image again, alone and as usual: zip IMAGE.zip disk.raw."


@dataclass(frozen=True, slots=True)
class _Passed:
    """What a member is told to be before it, behind it, and in the directory."""

    name: bytes
    method: int
    crc: int
    packed: int
    """Its length in the archive."""
    size: int


class ZipReader:
    """Reads one archive.

    Memory: less than 1 MiB to inflate, and what is known of at most 1024 members, with their names.
    """

    def __init__(self, check: MemberCheck) -> None:
        """`check` refuses members for their name or their type."""
        self._check = check
        self._intake = Intake("zip")
        self._parser: Parser[Event] = Parser(self._intake, self._archive())
        self._names = Names(check)
        self._passed: dict[int, _Passed] = {}

    def feed(self, data: memoryview) -> Iterator[Event]:
        """See `Reader.feed`.

        Raises:
            ImageUnsafe: also by the checks `encryption`, `zip_method` and `zip_parts`.
        """
        return self._parser.feed(data)

    def finish(self) -> Iterator[Event]:
        """See `Reader.finish`."""
        return self._parser.finish()

    def _archive(self) -> Generator[Event | None, None, None]:
        while (record := (yield from self._record())) == _LOCAL:
            yield from self._member()
        yield from self._directory(record)

    def _record(self) -> Generator[None, None, bytes]:
        return bytes((yield from self._intake.take(4, "its records")))

    # -- members

    def _member(self) -> Generator[Event | None, None, None]:
        intake, start = self._intake, self._intake.offset - 4
        fields = struct.unpack("<HHHHHIIIHH", (yield from intake.take(26, "a member's header")))
        _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
        raw_name = bytes((yield from intake.take(name_length, "a member's name")))
        extra = bytes((yield from intake.take(extra_length, "a member's header")))
        size, packed = self._long_numbers(extra, size, packed)
        told = None if flags & _SIZES_BEHIND else _Passed(raw_name, method, crc, packed, size)
        name = self._names.add(raw_name.decode("utf-8" if flags & _UTF8 else "cp437", "replace"))
        self._check_readable(name, flags, method)
        is_directory = raw_name.endswith(b"/")
        yield Member(name, None if told is None else size, "directory" if is_directory else "file")
        begin, crc, size = intake.offset, 0, 0
        for piece in self._content(name, method, packed):
            if piece is None:
                yield None
                continue
            crc, size = isal_zlib.crc32(piece, crc), size + len(piece)
            yield Data(memoryview(piece))
        passed = _Passed(raw_name, method, crc, intake.offset - begin, size)
        if told is None:
            yield from self._descriptor(name, passed)
        elif told != passed:
            raise intake.damaged(f"the member {name!r} {_difference(told, passed)}")
        if is_directory and size:
            raise self._check.refusal(f"{name!r} is a directory of {size} bytes")
        self._passed[start] = passed
        yield End()

    def _check_readable(self, name: str, flags: int, method: int) -> None:
        if flags & _ENCRYPTED:
            raise ImageUnsafe(check="encryption", detail=f"{name!r} in the zip is encrypted", hint=_HINT)
        if method not in (_STORED, _DEFLATED):
            raise ImageUnsafe(
                check="zip_method",
                detail=f"{name!r} in the zip is packed by {_METHODS.get(method, f'method {method}')}, not by deflate",
                hint=_HINT,
            )

    def _content(
        self, name: str, method: int, packed: int
    ) -> Generator[bytes | memoryview | None, None, None]:
        if method == _DEFLATED:
            yield from inflate_deflate(self._intake)
            return
        while packed:
            piece = yield from self._intake.some(packed, f"the member {name!r}")
            packed -= len(piece)
            yield piece

    def _descriptor(self, name: str, passed: _Passed) -> Generator[None, None, None]:
        """Take what stands behind a member (4.3.9): with a signature or without, with numbers of 32 bits or of 64.

        It does not say which of the four it is. The one that tells what has passed is it, if a record follows: zeros
        that a disk begins with are no descriptor of nothing.
        """
        intake = self._intake
        found = yield from intake.up_to(24)
        for signature in (_DESCRIPTOR, b""):
            for form in ("<IQQ", "<III"):
                numbers = (passed.crc, passed.packed & _mask(form), passed.size & _mask(form))
                expected = signature + struct.pack(form, *numbers)
                rest = found[len(expected) :]
                if found.startswith(expected) and rest[:2] in (b"", _DESCRIPTOR[:2]):
                    intake.give_back(rest)
                    return
        if passed.method == _STORED and not passed.size:
            raise ImageUnsafe(
                check="zip_method",
                detail=f"{name!r} in the zip is stored, and its length comes only behind it",
                hint=_HINT,
            )
        raise intake.damaged(
            f"the member {name!r} is not followed by the CRC and the lengths that it has ({passed.size} bytes)"
        )

    # -- the directory

    def _directory(self, record: bytes) -> Generator[None, None, None]:
        intake, start = self._intake, self._intake.offset - 4
        count = 0
        while record == _DIRECTORY:
            yield from self._entry()
            count += 1
            record = yield from self._record()
        if self._passed:
            offset, passed = next(iter(self._passed.items()))
            raise intake.damaged(
                f"its directory does not name {passed.name[:200]!r}, which is at byte {offset}"
            )
        facts = (count, intake.offset - 4 - start, start)
        if record == _END64:
            yield from self._end64(facts)
            record = yield from self._record()
        if record != _END:
            raise intake.damaged(f"there is no record of a zip at byte {intake.offset - 4}")
        disk, first, here, total, length, offset, comment = struct.unpack(
            "<HHHHIIH", (yield from intake.take(18, "its last record"))
        )
        if disk not in (0, _NONE16) or first not in (0, _NONE16):
            raise ImageUnsafe(check="zip_parts", detail="the zip is one of several parts", hint=_HINT)
        for told, fact, absent in (
            (here, count, _NONE16),
            (total, count, _NONE16),
            (length, facts[1], _NONE32),
            (offset, facts[2], _NONE32),
        ):
            if told not in (fact, absent):
                raise intake.damaged(f"its last record says {told} of its directory, where {fact} is true")
        yield from intake.skip(comment, "its comment")

    def _end64(self, facts: tuple[int, int, int]) -> Generator[None, None, None]:
        """Take the records of 64 bits (4.3.14 and 4.3.15); `facts`: entries, length and offset of the directory."""
        intake, start = self._intake, self._intake.offset - 4
        (length,) = struct.unpack("<Q", (yield from intake.take(8, "its zip64 record")))
        if not 44 <= length <= _MAX_END64:
            raise intake.damaged(f"its zip64 record has {length} bytes")
        _, _, _, _, here, *told = struct.unpack("<HHIIQQQQ", (yield from intake.take(44, "its zip64 record")))
        if (here, *told) != (facts[0], *facts):
            raise intake.damaged(
                f"its zip64 record says {tuple(told)} of its directory, where {facts} is true"
            )
        yield from intake.skip(length - 44, "its zip64 record")
        if (yield from self._record()) != _LOCATOR64:
            raise intake.damaged(
                f"its zip64 record is not followed by its place, at byte {intake.offset - 4}"
            )
        _, offset, _ = struct.unpack("<IQI", (yield from intake.take(16, "its zip64 record")))
        if offset != start:
            raise intake.damaged(f"its zip64 record is said to be at byte {offset}, and is at {start}")

    def _entry(self) -> Generator[None, None, None]:
        intake = self._intake
        fields = struct.unpack("<HHHHHHIIIHHHHHII", (yield from intake.take(42, "its directory")))
        made, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, *rest = fields
        _, _, attributes, offset = rest
        name = bytes((yield from intake.take(name_length, "its directory")))
        extra = bytes((yield from intake.take(extra_length, "its directory")))
        yield from intake.skip(comment, "its directory")
        size, packed, offset = self._long_numbers(extra, size, packed, offset)
        shown = name.decode("utf-8", "replace")
        if flags & _ENCRYPTED:
            raise ImageUnsafe(check="encryption", detail=f"{shown!r} in the zip is encrypted", hint=_HINT)
        if made >> 8 == _UNIX and attributes >> 16 & _FILE_TYPE == _LINK:
            raise self._check.refusal(f"{shown!r} is a link, not a file")
        told, passed = _Passed(name, method, crc, packed, size), self._passed.pop(offset, None)
        if passed is None:
            raise intake.damaged(
                f"its directory names {shown[:200]!r} at byte {offset}, where no member begins"
            )
        if told != passed:
            raise intake.damaged(f"of {shown[:200]!r} its directory says what {_difference(told, passed)}")

    def _long_numbers(self, extra: bytes, *numbers: int) -> tuple[int, ...]:
        """The numbers, from the extra field for zip64 (4.5.3) where they have no room in 32 bits."""
        found = self._extra_field(extra, _ZIP64)
        result: list[int] = []
        for number in numbers:
            if number == _NONE32 and found:
                if len(found) < 8:
                    raise self._intake.damaged(
                        f"a zip64 field before byte {self._intake.offset} is too short"
                    )
                result.append(int.from_bytes(found[:8], "little"))
                found = found[8:]
            else:
                result.append(number)
        return tuple(result)

    def _extra_field(self, extra: bytes, wanted: int) -> bytes:
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, at)
            if kind == wanted:
                return extra[at + 4 : at + 4 + length]
            at += 4 + length
        return b""


def _mask(form: str) -> int:
    return _NONE32 if form == "<III" else 2**64 - 1


def _difference(told: _Passed, passed: _Passed) -> str:
    """In which number a member differs from what is said of it, in words."""
    if told.size != passed.size or told.packed != passed.packed:
        return f"has {passed.size} bytes ({passed.packed} packed), not {told.size} ({told.packed})"
    if told.crc != passed.crc:
        return f"has the CRC {passed.crc:08x}, not {told.crc:08x}"
    return "was not what came"
