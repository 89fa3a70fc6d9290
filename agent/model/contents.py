"""What is on a disk, and would be lost: its partitions, filesystems and members, and what is built on them.

`agent.host.contents` finds it out. Nothing is decided by it but whether somebody is asked before a disk is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_PIECES = 128


@dataclass(frozen=True, slots=True)
class Piece:
    """A partition, an array, a volume or a mapping; or the whole disk, where a filesystem is right on it.

    All texts are printable and bounded; unknown ones are empty.
    """

    path: str
    """Of its node in /dev; for a partition of a regular file its number behind the file's path (`disk.img#1`)."""
    size: int
    """Bytes."""
    on: str
    """The path of what it is on: of the disk, of a partition, of an array; empty for the disk itself."""
    type: str = ""
    """What it holds, as blkid names it: `ext4`, `LVM2_member`, `crypto_LUKS`; empty if that is not known."""
    label: str = ""
    """The label of the filesystem; the name of the array, volume group or pool that it is a member of."""
    name: str = ""
    """In a GPT the partition's name; the volume (`vg/lv`), array or mapping."""

    def to_json(self) -> dict[str, Any]:
        """The piece in a document; unknown texts are null."""
        return {
            "path": self.path,
            "size": self.size,
            "on": self.on or None,
            "type": self.type or None,
            "label": self.label or None,
            "name": self.name or None,
        }


@dataclass(frozen=True, slots=True)
class Contents:
    """What is on a disk at one moment."""

    table: str = ""
    """`gpt`, `mbr`, or empty where no partition table can be read."""
    pieces: tuple[Piece, ...] = ()
    """In the order of the disk, each before what is on it; at most `MAX_PIECES`."""
    left_out: int = 0
    """How many more there are."""
    blank: bool = False
    """Whether nothing is on it: both its ends are zero, and nothing is built on it."""
    unread: str = ""
    """Why it could not be read; all else is then unknown."""

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return {
            "blank": self.blank,
            "table": self.table or None,
            "pieces": [piece.to_json() for piece in self.pieces],
            "leftOut": self.left_out,
            "unread": self.unread or None,
        }


def read_contents(document: object) -> Contents:
    """Contents from their document. Where there is none (of an older agent), they are contents that could not be read.

    Raises:
        ValueError: it is not such a document.
    """
    if document is None:
        return Contents(unread="byoi-agent does not tell it")
    member = Members(document, "contents")
    return Contents(
        table=member.text("table"),
        pieces=tuple(_read_piece(item) for item in member.items("pieces")),
        left_out=member.count("leftOut"),
        blank=member.flag("blank"),
        unread=member.text("unread"),
    )


def _read_piece(document: object) -> Piece:
    member = Members(document, "contents")
    texts = {key: member.text(key) for key in ("path", "on", "type", "label", "name")}
    return Piece(size=member.count("size"), **texts)


class Members:
    """Typed members of a JSON object. All raise ValueError where a member is of another kind."""

    def __init__(self, document: object, what: str) -> None:
        if not isinstance(document, Mapping):
            raise ValueError(f"the {what} are not a JSON object")  # noqa: TRY004 - callers expect one kind of error
        self._document = document
        self._what = what

    def _get(self, key: str, kind: type, absent: object) -> Any:
        value = self._document.get(key)
        value = absent if value is None else value
        if type(value) is not kind:
            raise ValueError(f"the member {key} of the {self._what} is missing or not what it has to be")
        return value

    def text(self, key: str) -> str:
        """A text; empty where it is null or absent."""
        value: str = self._get(key, str, "")
        return value

    def count(self, key: str) -> int:
        """A number that is whole."""
        value: int = self._get(key, int, None)
        return value

    def flag(self, key: str) -> bool:
        """A truth value."""
        value: bool = self._get(key, bool, None)
        return value

    def items(self, key: str) -> list[Any]:
        """An array."""
        value: list[Any] = self._get(key, list, None)
        return value
