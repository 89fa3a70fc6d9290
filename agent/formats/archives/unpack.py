"""The one disk image in an archive: it is found by its content, and its bytes are given as they come.

Small files may stand before it and behind it: a README, checksums, metadata. What is a disk image, or compressed,
counts as the image; a second one is refused, for nobody could know which of them is meant.
"""

from collections.abc import Iterator
from typing import Literal

from agent.errors import ImageDamaged, ImageUnsafe
from agent.formats.archives.member import Data, End, Event, Hole, Member, MemberCheck, Reader
from agent.formats.archives.tar import TarReader
from agent.formats.contents import MAY_BE_IMAGE
from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.extent import ImageTooLarge
from agent.units import MiB

ArchiveKind = Literal["tar", "zip"]

# All files around the image together. What is larger is not beside an image, it is what the archive is about.
MAX_OTHERS = 16 * MiB

_CHECK = MemberCheck(
    "archive_member", "Pack the disk image alone: tar -czf IMAGE.tar.gz disk.raw, or zip IMAGE.zip disk.raw."
)
_TOLD = 5


class Archive:
    """Takes an archive and gives the bytes of the disk image in it; an `Unpacker`.

    Memory: that of the reader (at most some 6 MiB, less than 1 MiB as a rule), and the first 128 KiB of a member.
    """

    held = 0

    def __init__(self, kind: ArchiveKind, max_output: int) -> None:
        """`max_output`: the largest image that is given, in bytes."""
        self.kind = kind
        self.notes: list[str] = []
        """What was passed over, in words for people."""
        self._max_output = max_output
        self._output = 0
        self._tar = TarReader(_CHECK, sparse=True) if kind == "tar" else None
        self._reader: Reader = self._tar or _zip_reader()
        self._image: Member | None = None
        self._others: list[str] = []
        self._others_bytes = 0
        self._member: Member | None = None
        self._head: bytearray | None = None
        """The first bytes of the member, as long as it is not known what it is."""

    @property
    def size(self) -> int | None:
        """The length of the image in bytes, where the archive tells it; None as long as it is not known."""
        return None if self._image is None else self._image.size

    def feed(self, data: memoryview) -> Iterator[memoryview | Hole]:
        """Take the next bytes of the archive and give those of the image, and the holes in it; the views are valid
        until the next call.

        Raises:
            ImageTooLarge: more than `max_output` bytes have come out; the last ones are withheld.
            ImageDamaged: the archive is damaged.
            ImageUnsafe: a member is refused (checks `archive_member`, `archive_image`), or the archive is.
        """
        for event in self._reader.feed(data):
            yield from self._take(event)

    def finish(self) -> None:
        """The archive has ended.

        Raises:
            ImageDamaged: it is not whole.
            ImageUnsafe: it has no disk image (check `archive_image`).
        """
        for _ in self._reader.finish():
            raise RuntimeError(f"the {self.kind} archive kept a member back")
        if self._tar is not None and not self._tar.closed:
            raise ImageDamaged(
                format="tar",
                reason="it ends without the two blocks of zeros that close it, as one does that was cut",
                hint="Compare its size with the original, or pack it again: tar -czf IMAGE.tar.gz disk.raw.",
            )
        if self._image is None:
            others = f": it has {self._others_words()}" if self._others else ""
            raise self._refused(f"there is no disk image in the {self.kind} archive{others}")

    def _take(self, event: Event) -> Iterator[memoryview | Hole]:
        match event:
            case Member():
                self._member = event
                self._head = bytearray() if event.type == "file" else None
            case Data():
                yield from self._bytes(event.data)
            case Hole():
                yield from self._hole(event.length)
            case End():
                if self._head is not None:
                    yield from self._decide(self._head)
                self._member = None

    def _bytes(self, data: memoryview) -> Iterator[memoryview]:
        """Bytes of the member: of the image they are given, of others counted."""
        if self._head is not None:
            missing = SNIFF_BYTES - len(self._head)
            self._head += data[:missing]
            data = data[missing:]
            if len(self._head) == SNIFF_BYTES:
                yield from self._decide(self._head)
        if data and self._count(len(data)):
            yield data

    def _hole(self, length: int) -> Iterator[memoryview | Hole]:
        """As `_bytes`, for zeros that are not stored: what of them tells what the member is comes as bytes."""
        if self._head is not None:
            told = min(SNIFF_BYTES - len(self._head), length)
            yield from self._bytes(memoryview(bytes(told)))
            length -= told
        if length and self._count(length):
            yield Hole(length)

    def _decide(self, head: bytearray) -> Iterator[memoryview]:
        member, self._head = self._member, None
        if member is None:
            raise RuntimeError("bytes came before their member")
        content = sniff(bytes(head))
        if content not in MAY_BE_IMAGE:
            self._others.append(f"{member.name!r} ({content})")
            self._count_other(len(head) if member.size is None else member.size)
        elif self._image is not None:
            raise self._refused(
                f"{self._image.name!r} and {member.name!r} in the {self.kind} archive are both disk images"
            )
        else:
            self._image = member
            self._count(len(head))
            yield memoryview(head)

    def _count(self, length: int) -> bool:
        """Count bytes of the member that is known by now; whether they are the image's.

        Raises:
            ImageTooLarge, ImageUnsafe: there were too many.
        """
        if self._member is not self._image:
            self._count_other(length)
            return False
        self._output += length
        if self._output > self._max_output:
            raise ImageTooLarge(self._output)
        return True

    def _count_other(self, length: int) -> None:
        self._others_bytes += length
        if self._others_bytes > MAX_OTHERS:
            raise self._refused(
                f"the {self.kind} archive has {self._others_words()}, with more than {MAX_OTHERS} bytes that are no"
                " disk image"
            )

    def _others_words(self) -> str:
        more = len(self._others) - _TOLD
        return ", ".join(self._others[-_TOLD:]) + (f" and {more} more" if more > 0 else "")

    def _refused(self, detail: str) -> ImageUnsafe:
        return ImageUnsafe(check="archive_image", detail=detail, hint=_CHECK.hint)


def _zip_reader() -> Reader:
    from agent.formats.archives.zip import ZipReader  # noqa: PLC0415 - with a library that tar does without

    return ZipReader(_CHECK)
