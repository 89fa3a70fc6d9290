"""A file with a disk image in it, compressed or an archive: one decoder behind another."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from agent.errors import ImageUnsafe
from agent.formats.advice import hint_for
from agent.formats.archives.member import Hole
from agent.formats.contents import ARCHIVES, COMPRESSED
from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.extent import Decoder, Extent, Fetch
from agent.formats.raw import RawDecoder
from agent.units import KiB, MiB

# What is unpacked comes in pieces of odd lengths. A disk takes whole sectors, and each end in the midst of one has
# to be read before it is written: therefore the inner decoder gets blocks that begin at multiples of their length.
BLOCK_BYTES = 2 * MiB
# Beside a long window there is no room for that: what the inner decoder has given may keep several blocks for a while.
SMALL_BLOCK_BYTES = 256 * KiB
LONG_WINDOW = 12 * MiB
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class Unpacker(Protocol):
    """What is around an image: takes the bytes of the file and gives those of the file in it."""

    @property
    def kind(self) -> str:
        """What it unpacks, as `agent.formats.detect.sniff` names it."""

    @property
    def size(self) -> int | None:
        """The length of the file in it in bytes; None where that is not known."""

    @property
    def held(self) -> int:
        """Bytes that it holds, where that is more than a few MiB."""

    @property
    def notes(self) -> Sequence[str]:
        """What was passed over, in words for people."""

    def feed(self, data: memoryview) -> Iterator[memoryview | Hole]:
        """Take the next bytes and give what they unpack to; the views are valid until the next call.

        Raises:
            ImageTooLarge: its bound is passed.
            DeployError: the file is damaged or refused.
        """

    def finish(self) -> None:
        """The file has ended; raises DeployError where it is not whole."""


class Chained:
    """Unpacks, finds out what is inside, and decodes that: an image, or a file around one again.

    Memory: that of both decoders, one block of 2 MiB, or of 256 KiB beside a long window, and for all of them together
    2 MiB of zeros. The inner decoder may be fed several times for one feed of this one: what it gives must not live in
    memory that it uses again.
    """

    def __init__(self, outer: Unpacker, inner_factory: Callable[[str], Decoder], *, beside: int = 0) -> None:
        """`inner_factory` makes the decoder for a content as `agent.formats.detect.sniff` names it, or refuses it.

        `beside`: bytes that is held by what this one is in.
        """
        self._outer = outer
        self._beside = beside
        self._make_inner = inner_factory
        self._inner: Decoder | None = None
        self._gathered = bytearray()
        self._block = 0
        self._content: str | None = None

    @property
    def outer(self) -> Unpacker:
        """What unpacks."""
        return self._outer

    @property
    def block_bytes(self) -> int:
        """How long the blocks are that the inner decoder gets; it is asked once the first ones have been unpacked."""
        return BLOCK_BYTES if self._outer.held + self._beside <= LONG_WINDOW else SMALL_BLOCK_BYTES

    @property
    def content(self) -> str | None:
        """What is inside, behind all that is around it; None until enough of it has come."""
        return self._inner.content if isinstance(self._inner, Chained) else self._content

    @property
    def around(self) -> tuple[str, ...]:
        """What is around the image, from the outside in, as far as it has come."""
        return (self._outer.kind, *(self._inner.around if isinstance(self._inner, Chained) else ()))

    @property
    def virtual_size(self) -> int | None:
        """That of the inner decoder; None until there is one and it knows."""
        return None if self._inner is None else self._inner.virtual_size

    @property
    def held(self) -> int:
        """What the one holds, a window, and what the other holds."""
        return self._outer.held + (0 if self._inner is None else self._inner.held)

    @property
    def notes(self) -> Sequence[str]:
        """What both passed over or had to assume, in words for people."""
        return (*self._outer.notes, *(() if self._inner is None else self._inner.notes))

    @property
    def used_scratch(self) -> tuple[int, int] | None:
        """That of the inner decoder."""
        return None if self._inner is None else self._inner.used_scratch

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Unpack and decode.

        Raises:
            ImageTooLarge: the unpacker's bound is passed.
            DeployError: the file is damaged or refused: one that is compressed twice by the check `nested_compression`,
                an archive right within an archive by `nested_archive`.
        """
        for piece in self._outer.feed(data):
            if isinstance(piece, Hole):
                yield from self._pass_hole(piece.length)
            else:
                yield from self._pass(piece)

    def finish(self) -> Iterator[Extent]:
        """Both must agree that the file is whole.

        Raises:
            DeployError: it is not.
        """
        self._outer.finish()
        yield from self.decode(self._take())
        yield from self.decode_rest()

    def _pass(self, piece: memoryview) -> Iterator[Extent]:
        for block in self._gather(piece):
            yield from self.decode(block)

    def _pass_hole(self, length: int) -> Iterator[Extent]:
        """Zeros that the file does not have: a raw image's decoder is told of them, any other gets them as bytes."""
        while length:
            whole = 0 if self._gathered else length - length % BLOCK_BYTES
            if whole and isinstance(self._inner, RawDecoder):
                yield from self._inner.skip(whole)
                length -= whole
            else:
                zeros = _ZEROS[: min(length, (self._block or BLOCK_BYTES) - len(self._gathered))]
                yield from self._pass(zeros)
                length -= len(zeros)

    def _gather(self, piece: memoryview) -> Iterator[memoryview]:
        if not self._block:
            self._block = self.block_bytes
        while piece:
            missing = self._block - len(self._gathered)
            part, piece = piece[:missing], piece[missing:]
            if len(part) == self._block:
                yield part
                continue
            self._gathered += part
            if len(self._gathered) == self._block:
                yield self._take()

    def _take(self) -> memoryview:
        # A new one each time: what the inner decoder gives may live in this one until the outer one is fed again.
        gathered, self._gathered = self._gathered, bytearray()
        return memoryview(gathered)

    def decode(self, block: memoryview) -> Iterator[Extent]:
        """The second half of `feed`, for whoever lets `outer` unpack by himself: the next bytes of what is inside.

        The first block has at least `SNIFF_BYTES`, if there are so many.

        Raises:
            DeployError: as `feed`.
        """
        if self._inner is None:
            content = self._content = sniff(bytes(block[:SNIFF_BYTES]))
            for check, alike in (("nested_compression", COMPRESSED), ("nested_archive", ARCHIVES)):
                if self._outer.kind in alike and content in alike:
                    raise ImageUnsafe(
                        check=check,
                        detail=f"the {self._outer.kind} file holds {content} again",
                        hint=hint_for(content),
                    )
            self._inner = self._make_inner(content)
        return _without_fetch(self._inner.feed(block))

    def decode_rest(self) -> Iterator[Extent]:
        """The second half of `finish`: all that is inside has been decoded.

        Raises:
            DeployError: it is not whole.
        """
        return iter(()) if self._inner is None else _without_fetch(self._inner.finish())


def _without_fetch(extents: Iterator[Extent]) -> Iterator[Extent]:
    """A packed file cannot be read out of order: each such wish is answered with None, at once."""
    for extent in extents:
        if isinstance(extent, Fetch):
            extent.data = None
        else:
            yield extent
