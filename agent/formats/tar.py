"""Reads a tar archive as a stream: ustar, with the pax and GNU extensions for long names and large sizes.

Used by `agent.formats.ova.decoder`. Hostile members are refused by the check `ova_member`: paths out of the archive,
links, devices, sparse members, two members of one name. Sources: POSIX.1-2017, pax; the GNU tar manual, "Basic Tar
Format".
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from agent.errors import ImageUnsafe
from agent.formats.intake import Intake, Parser
from agent.units import KiB

BLOCK = 512
MAX_EXTENSION = 64 * KiB  # length of an extension header
MAX_NAME = 4096  # characters
MAX_MEMBERS = 1024
_MAX_SIZE = 2**63 - 1

_FILES = b"0\x007"
_DIRECTORY = b"5"
_REFUSED = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"K": "a link",
}
_PAX, _PAX_GLOBAL, _GNU_NAME = b"x", b"g", b"L"

_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,5}) ")
_DECIMAL = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Member:
    """A member begins. `name` is relative and without a leading `./`; `size` is in bytes."""

    name: str
    size: int
    type: Literal["file", "directory"]


@dataclass(frozen=True, slots=True)
class Data:
    """The next bytes of the member; the view is valid until the next `feed`."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class End:
    """The member is complete."""


Event = Member | Data | End


class TarReader:
    """Reads one archive.

    Memory: a header, one extension header of at most 64 KiB, and the names of at most 1024 members.
    """

    def __init__(self) -> None:
        self._intake = Intake("tar")
        self._parser: Parser[Event] = Parser(self._intake, self._archive())
        self.closed = True
        """After `finish`: whether the archive ended with two blocks of zeros. Without them, its end cannot be told from
        a truncation between two members."""
        self._names: set[str] = set()
        self._global: dict[str, str] = {}

    def feed(self, data: memoryview) -> Iterator[Event]:
        """Take the next bytes of the archive.

        Raises:
            ImageDamaged: this is not a tar archive, or a damaged one.
            ImageUnsafe: a member is refused (check `ova_member`).
        """
        return self._parser.feed(data)

    def finish(self) -> Iterator[Event]:
        """The archive has ended; `closed` says whether its end was marked.

        Raises:
            ImageDamaged: it is truncated within a member or a header.
        """
        return self._parser.finish()

    def _archive(self) -> Generator[Event | None, None, None]:
        intake = self._intake
        while (member := (yield from self._member())) is not None:
            yield member
            left = member.size
            while left:
                piece = yield from intake.some(left, f"the member {member.name!r}")
                left -= len(piece)
                yield Data(piece)
            yield End()
            yield from intake.skip(-member.size % BLOCK, f"the member {member.name!r}")
        while not (yield from intake.at_end()):
            if bytes((yield from intake.some(MAX_EXTENSION, "padding"))).strip(b"\0"):
                raise intake.damaged(f"garbage follows its end, before byte {intake.offset}")

    def _member(self) -> Generator[None, None, Member | None]:
        """The next member, with its extension headers applied; None at the end of the archive."""
        intake = self._intake
        extended: dict[str, str] = {}
        while True:
            block = yield from intake.up_to(BLOCK)
            if not block.strip(b"\0"):
                yield from self._read_closing_blocks(block, extended)
                return None
            if len(block) < BLOCK:
                raise intake.damaged(f"it ends at byte {intake.offset}, within a header")
            self._check_header(block)
            kind, size = block[156:157], self._number(block[124:136], "size")
            if kind not in (_PAX, _PAX_GLOBAL, _GNU_NAME):
                return self._make_member(block, kind, size, self._global | extended)
            if size > MAX_EXTENSION:
                raise self._unsafe(f"an extension header of {size} bytes is larger than {MAX_EXTENSION}")
            body = bytes((yield from intake.take(size, "an extension header")))
            yield from intake.skip(-size % BLOCK, "an extension header")
            if kind == _GNU_NAME:
                extended["path"] = self._text(body.split(b"\0", 1)[0])
            elif kind == _PAX:
                extended |= self._records(body)
            else:
                self._global |= self._records(body)

    def _read_closing_blocks(self, block: bytes, extended: dict[str, str]) -> Generator[None, None, None]:
        """Read the rest of the two closing blocks, of which either may be truncated; `block` is what came of the first.

        Raises:
            ImageDamaged: other bytes follow, an extension header has no member, or a truncated archive has no member.
        """
        intake = self._intake
        block += yield from intake.up_to(2 * BLOCK - len(block))
        self.closed = len(block) == 2 * BLOCK
        if block.strip(b"\0") or extended or not (self.closed or self._names):
            raise intake.damaged(f"its end before byte {intake.offset} is no end")

    def _check_header(self, block: bytes) -> None:
        """Check a header's magic and checksum: the sum of its bytes, with the checksum field counted as spaces."""
        if block[257:262] != b"ustar":
            raise self._intake.damaged(f"there is no member's header at byte {self._intake.offset - BLOCK}")
        stored = self._number(block[148:156], "checksum")
        if stored != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            raise self._intake.damaged(
                f"the checksum of the header at byte {self._intake.offset - BLOCK} is wrong"
            )

    def _number(self, field: bytes, what: str) -> int:
        """A header field as a number: octal digits, or GNU's base-256 form, whose first byte is 0x80."""
        if field[0] == 0x80:
            value = int.from_bytes(field[1:], "big")
        else:
            digits = field.strip(b" \0") or b"0"
            if not all(digit in b"01234567" for digit in digits):
                raise self._intake.damaged(
                    f"a header before byte {self._intake.offset} has no readable {what}"
                )
            value = int(digits, 8)
        if value > _MAX_SIZE:
            raise self._intake.damaged(f"a header before byte {self._intake.offset} has a {what} of {value}")
        return value

    def _records(self, body: bytes) -> dict[str, str]:
        """`path` and `size` of a pax header, whose records are `LENGTH KEY=VALUE` and a newline."""
        found: dict[str, str] = {}
        position = 0
        while position < len(body):
            match = _PAX_LENGTH.match(body, position)
            end = position + int(match[1]) if match else 0
            if match is None or end > len(body) or end <= match.end() or body[end - 1 : end] != b"\n":
                raise self._intake.damaged(f"a pax header before byte {self._intake.offset} is malformed")
            key, equals, value = body[match.end() : end - 1].partition(b"=")
            if not equals:
                raise self._intake.damaged(f"a pax header before byte {self._intake.offset} is malformed")
            if key.startswith(b"GNU.sparse"):
                raise self._unsafe("a member is stored sparsely")
            if key in (b"path", b"size"):
                found[key.decode()] = self._text(value)
            position = end
        return found

    def _make_member(self, block: bytes, kind: bytes, size: int, extended: dict[str, str]) -> Member:
        name = extended.get("path")
        if name is None:
            name = self._text(block[:100].split(b"\0", 1)[0])
            prefix = block[345:500].split(b"\0", 1)[0]
            # In GNU's own format (magic `ustar` and a space) these bytes have another meaning.
            if prefix and block[257:263] == b"ustar\0":
                name = f"{self._text(prefix)}/{name}"
        if kind in _REFUSED or kind not in _FILES + _DIRECTORY:
            raise self._unsafe(
                f"{name!r} is {_REFUSED.get(kind, f'of the unknown type {kind!r}')}, not a file"
            )
        if "size" in extended:
            if not _DECIMAL.fullmatch(extended["size"]) or int(extended["size"]) > _MAX_SIZE:
                raise self._intake.damaged(f"{name!r} has a size of {extended['size']!r}")
            size = int(extended["size"])
        is_directory = kind == _DIRECTORY or name.endswith("/")
        if is_directory and size:
            raise self._unsafe(f"{name!r} is a directory of {size} bytes")
        return Member(self._checked_name(name), size, "directory" if is_directory else "file")

    def _checked_name(self, name: str) -> str:
        """The name without `.` and empty parts; refused if it leads out of the archive or occurs twice."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\\" in name or not name:
            raise self._unsafe(f"{name!r} leads out of the archive")
        if len(name) > MAX_NAME or not name.isprintable():
            raise self._unsafe(f"the name {name[:80]!r} is too long or not printable")
        clean = "/".join(parts)
        if clean in self._names:
            raise self._unsafe(f"{name!r} stands in the archive twice")
        self._names.add(clean)
        if len(self._names) > MAX_MEMBERS:
            raise self._unsafe(f"the archive has more than {MAX_MEMBERS} members")
        return clean

    def _text(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise self._unsafe(f"the name {value[:80]!r} is not in UTF-8") from None

    def _unsafe(self, detail: str) -> ImageUnsafe:
        return ImageUnsafe(check="ova_member", detail=detail)
