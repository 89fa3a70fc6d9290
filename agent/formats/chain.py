"""A compressed file with a disk image in it: one decoder behind another."""

from collections.abc import Callable, Iterator, Sequence

from agent.errors import ImageUnsafe
from agent.formats.advice import hint_for
from agent.formats.compressed import Decompressor
from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.extent import Decoder, Extent, Fetch
from agent.units import KiB, MiB

# What is decompressed comes in pieces of odd lengths. A disk takes whole sectors, and each end in the midst of one has
# to be read before it is written: therefore the inner decoder gets blocks that begin at multiples of their length.
BLOCK_BYTES = 1 * MiB
# Beside a long window there is no room for that: what the inner decoder has given may keep several blocks for a while.
SMALL_BLOCK_BYTES = 256 * KiB
LONG_WINDOW = 16 * MiB
# What `sniff` calls compressed content.
COMPRESSED = frozenset(
    {"gzip", "xz", "zstd", "bzip2", "lz4", "zip", "7z", "rar", "lzma", "lzip", "lzop", "compress"}
)


class Chained:
    """Decompresses, finds out what is inside, and decodes that.

    Memory: that of both decoders, and one block of 1 MiB, or of 256 KiB beside a long window. The inner decoder may be
    fed several times for one feed of this one: what it gives must not live in memory that it uses again.
    """

    def __init__(self, outer: Decompressor, inner_factory: Callable[[str], Decoder]) -> None:
        """`inner_factory` makes the decoder for a content as `agent.formats.detect.sniff` names it, or refuses it."""
        self._outer = outer
        self._make_inner = inner_factory
        self._inner: Decoder | None = None
        self._gathered = bytearray()
        self._block = 0
        self.content: str | None = None
        """What is inside; None until enough of it has come."""

    @property
    def virtual_size(self) -> int | None:
        """That of the inner decoder; None until there is one and it knows."""
        return None if self._inner is None else self._inner.virtual_size

    @property
    def held(self) -> int:
        """The window of the one, and what the other holds."""
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
        """Decompress and decode.

        Raises:
            ImageTooLarge: the decompressor's bound is passed.
            DeployError: the file is damaged or refused; compressed content inside by the check `nested_compression`.
        """
        for piece in self._outer.feed(data):
            for block in self._gather(piece):
                yield from self._decode(block)

    def finish(self) -> Iterator[Extent]:
        """Both must agree that the file is whole.

        Raises:
            DeployError: it is not.
        """
        self._outer.finish()
        yield from self._decode(self._take())
        if self._inner is not None:
            yield from _without_fetch(self._inner.finish())

    def _gather(self, piece: memoryview) -> Iterator[memoryview]:
        if not self._block:
            self._block = BLOCK_BYTES if self._outer.held <= LONG_WINDOW else SMALL_BLOCK_BYTES
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

    def _decode(self, block: memoryview) -> Iterator[Extent]:
        if self._inner is None:
            self.content = sniff(bytes(block[:SNIFF_BYTES]))
            if self.content in COMPRESSED:
                raise ImageUnsafe(
                    check="nested_compression",
                    detail=f"the {self._outer.kind} file holds {self.content} again",
                    hint=hint_for(self.content),
                )
            self._inner = self._make_inner(self.content)
        return _without_fetch(self._inner.feed(block))


def _without_fetch(extents: Iterator[Extent]) -> Iterator[Extent]:
    """A compressed file cannot be read out of order: each such wish is answered with None, at once."""
    for extent in extents:
        if isinstance(extent, Fetch):
            extent.data = None
        else:
            yield extent
