"""The sink protocol: where extents go. Blocking; called in one thread at a time, never on the event loop."""

from typing import Protocol


class Sink(Protocol):
    """A guest disk of `size` bytes that takes extents in any order."""

    @property
    def size(self) -> int:
        """Bytes that the sink can hold."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`.

        Raises:
            OSError: with the path in it.
        """

    def zero(self, offset: int, length: int) -> None:
        """Make the range read back as zeros.

        Raises:
            OSError: with the path in it.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Read back what was written.

        Raises:
            OSError: with the path in it.
        """


class SinkFailed(Exception):
    """A write or zero failed at `offset`; the OSError is the cause. A read fault never becomes this."""

    def __init__(self, offset: int, error: OSError) -> None:
        super().__init__(f"at byte {offset}: {error.strerror or error}")
        self.offset = offset
        self.error = error


class SinkTooSmall(Exception):
    """The image wants bytes beyond the sink's end; nothing of the extent was written."""

    def __init__(self, end: int) -> None:
        super().__init__(f"the image reaches to byte {end}")
        self.end = end


class HeldEnds:
    """A sink that keeps its first and last bytes in memory until the commit.

    Writes into the first `head_length` and last `tail_length` bytes land in `head` and `tail`; all else goes
    to the inner sink. That is what keeps a disk unbootable while an image is on its way: neither the
    partition table nor its backup reaches the disk before the caller writes them itself.
    """

    def __init__(self, inner: Sink, head_length: int, tail_length: int) -> None:
        if inner.size < head_length + tail_length:
            raise ValueError(
                f"a disk of {inner.size} bytes is too small: both ends alone take {head_length + tail_length}"
            )
        self._inner = inner
        self.size = inner.size
        self.tail_offset = inner.size - tail_length
        self.head = bytearray(head_length)
        self.tail = bytearray(tail_length)

    def reset(self) -> None:
        """Forget what the ends held: the transfer starts again."""
        self.head[:] = bytes(len(self.head))
        self.tail[:] = bytes(len(self.tail))

    def write(self, offset: int, data: memoryview) -> None:
        """Write, splitting at the held ends."""
        for start, end, held, base in self._pieces(offset, offset + len(data)):
            piece = data[start - offset : end - offset]
            if held is None:
                self._inner.write(start, piece)
            else:
                held[start - base : end - base] = piece

    def zero(self, offset: int, length: int) -> None:
        """Zero, splitting at the held ends."""
        for start, end, held, base in self._pieces(offset, offset + length):
            if held is None:
                self._inner.zero(start, end - start)
            else:
                held[start - base : end - base] = bytes(end - start)

    def read(self, offset: int, length: int) -> bytes:
        """Read the guest disk as it will be: the held ends from memory, the rest from the inner sink."""
        return b"".join(
            self._inner.read(start, end - start) if held is None else bytes(held[start - base : end - base])
            for start, end, held, base in self._pieces(offset, offset + length)
        )

    def _pieces(self, start: int, end: int) -> list[tuple[int, int, bytearray | None, int]]:
        parts: tuple[tuple[int, int, bytearray | None, int], ...] = (
            (0, len(self.head), self.head, 0),
            (len(self.head), self.tail_offset, None, 0),
            (self.tail_offset, self.size, self.tail, self.tail_offset),
        )
        cut = [(max(start, low), min(end, high), held, base) for low, high, held, base in parts]
        return [piece for piece in cut if piece[0] < piece[1]]
