"""The raw format: the file is the disk."""

from collections.abc import Iterator, Sequence

from agent.formats.extent import Extent, Write


class RawDecoder:
    """Gives every byte back where it stood. Holds no memory of its own."""

    notes: Sequence[str] = ()

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._offset = 0

    @property
    def virtual_size(self) -> int | None:
        """The file's size in bytes, where it is known."""
        return self._size

    @property
    def used_scratch(self) -> None:
        """Nothing waits on the disk."""

    @property
    def held(self) -> int:
        """Nothing."""
        return 0

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Give the bytes as one write."""
        if data:
            yield Write(self._offset, data)
            self._offset += len(data)

    def finish(self) -> Iterator[Extent]:
        """Nothing is left; a source that ended early has raised by itself."""
        self._size = self._offset
        return iter(())
