"""The decoder of the raw format, whose file is the guest disk byte for byte."""

from collections.abc import Iterator, Sequence

from agent.formats.extent import Extent, Write, Zero


class RawDecoder:
    """Yields every byte at its own offset. Holds no memory."""

    notes: Sequence[str] = ()

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._offset = 0

    @property
    def virtual_size(self) -> int | None:
        """The file's size in bytes; None until it is known."""
        return self._size

    @property
    def used_scratch(self) -> None:
        """Nothing waits on the disk."""

    @property
    def held(self) -> int:
        """0: nothing is held."""
        return 0

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Yield the bytes as one write."""
        if data:
            yield Write(self._offset, data)
            self._offset += len(data)

    def skip(self, length: int) -> Iterator[Extent]:
        """Yield a hole of the file, which nobody has the bytes of, as zeros."""
        yield Zero(self._offset, length)
        self._offset += length

    def finish(self) -> Iterator[Extent]:
        """Yield nothing; a source that ends early raises by itself."""
        self._size = self._offset
        return iter(())
