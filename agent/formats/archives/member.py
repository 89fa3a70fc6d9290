"""What the readers of archives give: members, their bytes, their holes. And the check that refuses a member.

A reader is sans-I/O: it is fed the archive in order, in pieces of any length. Nothing is ever unpacked to where a name
says; a name that would lead elsewhere is refused all the same, as a sign of an archive that nobody should trust.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from agent.errors import ImageUnsafe

MAX_NAME = 4096  # characters
MAX_MEMBERS = 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A member begins. `name` is relative and without a leading `./`."""

    name: str
    size: int | None
    """Bytes; None where the archive tells it behind the member."""
    type: Literal["file", "directory"]


@dataclass(frozen=True, slots=True)
class Data:
    """The next bytes of the member; the view is valid until the next `feed`."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Hole:
    """The next `length` bytes of the member are zeros, and not stored."""

    length: int


@dataclass(frozen=True, slots=True)
class End:
    """The member is complete."""


Event = Member | Data | Hole | End


class Reader(Protocol):
    """Reads one archive, fed in order."""

    def feed(self, data: memoryview) -> Iterator[Event]:
        """Take the next bytes of the archive.

        Raises:
            ImageDamaged: it is damaged, or of another format.
            ImageUnsafe: a member is refused.
        """

    def finish(self) -> Iterator[Event]:
        """The archive has ended.

        Raises:
            ImageDamaged: it is not whole.
        """


@dataclass(frozen=True, slots=True)
class MemberCheck:
    """The check that refuses members, by the name that its errors give, and the way out for those who read them."""

    name: str
    hint: str = ""

    def refusal(self, detail: str) -> ImageUnsafe:
        """The error, to be raised."""
        return ImageUnsafe(check=self.name, detail=detail, hint=self.hint)


class Names:
    """The names of the members of one archive. Memory: those of at most 1024."""

    def __init__(self, check: MemberCheck) -> None:
        self._check = check
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, name: str) -> str:
        """The name without `.` and empty parts.

        Raises:
            ImageUnsafe: it leads out of the archive, is not printable, occurs twice, or is one too many.
        """
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\\" in name or not name:
            raise self._check.refusal(f"{name!r} leads out of the archive")
        if len(name) > MAX_NAME or not name.isprintable():
            raise self._check.refusal(f"the name {name[:80]!r} is too long or not printable")
        clean = "/".join(parts)
        if clean in self._seen:
            raise self._check.refusal(f"{name!r} stands in the archive twice")
        self._seen.add(clean)
        if len(self._seen) > MAX_MEMBERS:
            raise self._check.refusal(f"the archive has more than {MAX_MEMBERS} members")
        return clean
