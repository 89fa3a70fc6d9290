"""A compressed file with a disk image in it: one decoder behind another."""

from collections.abc import Callable, Iterator

from agent.errors import ImageUnsafe
from agent.formats.compressed import Decompressor
from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.extent import Decoder, Extent, Fetch

# What `sniff` calls compressed content.
COMPRESSED = frozenset({"gzip", "xz", "zstd", "bzip2", "lz4", "zip", "7z", "rar"})


class Chained:
    """Decompresses, finds out what is inside, and decodes that.

    Memory: that of both decoders, and 128 KiB until the content is known. The inner decoder may be fed several
    times for one feed of this one: what it gives must not live in memory that it uses again.
    """

    def __init__(self, outer: Decompressor, inner_factory: Callable[[str], Decoder]) -> None:
        """`inner_factory` makes the decoder for a content as `agent.formats.detect.sniff` names it, or refuses it."""
        self._outer = outer
        self._make_inner = inner_factory
        self._inner: Decoder | None = None
        self._head = bytearray()
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
    def inner(self) -> Decoder | None:
        """The decoder of what is inside, once that is known."""
        return self._inner

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Decompress and decode.

        Raises:
            OutputTooLarge: the decompressor's bound is passed.
            DeployError: the file is damaged or refused; compressed content inside by the check `nested_compression`.
        """
        for piece in self._outer.feed(data):
            if self._inner is not None:
                yield from _without_fetch(self._inner.feed(piece))
                continue
            self._head += piece
            if len(self._head) >= SNIFF_BYTES:
                yield from self._begin()

    def finish(self) -> Iterator[Extent]:
        """Both must agree that the file is whole.

        Raises:
            DeployError: it is not.
        """
        self._outer.finish()
        if self._inner is None:
            yield from self._begin()
        if self._inner is not None:
            yield from _without_fetch(self._inner.finish())

    def _begin(self) -> Iterator[Extent]:
        head, self._head = bytes(self._head), bytearray()
        self.content = sniff(head[:SNIFF_BYTES])
        if self.content in COMPRESSED:
            raise ImageUnsafe(
                check="nested_compression", detail=f"the {self._outer.kind} file holds {self.content} again"
            )
        self._inner = self._make_inner(self.content)
        return _without_fetch(self._inner.feed(memoryview(head)))


def _without_fetch(extents: Iterator[Extent]) -> Iterator[Extent]:
    """A compressed file cannot be read out of order: each such wish is answered with None, at once."""
    for extent in extents:
        if isinstance(extent, Fetch):
            extent.data = None
        else:
            yield extent
