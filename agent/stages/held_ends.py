"""A sink that keeps both ends of a disk in memory, so that nothing on the disk can boot before the commit."""

from collections.abc import Sequence

from agent.transfer.record import Record, Recorder
from agent.transfer.sink import Sink


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

    def record(self, record: Record) -> None:
        """Have a record made of all that goes to the inner sink from now on."""
        self._inner = Recorder(self._inner, record)

    def write(self, offset: int, data: memoryview) -> None:
        """Write, splitting at the held ends."""
        for start, end, held, base in self._pieces(offset, offset + len(data)):
            piece = data[start - offset : end - offset]
            if held is None:
                self._inner.write(start, piece)
            else:
                held[start - base : end - base] = piece

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        """Begin writes, splitting at the held ends."""
        low, high = len(self.head), self.tail_offset
        beyond: list[tuple[int, memoryview]] = []
        for offset, data in writes:
            if low <= offset and offset + len(data) <= high:
                beyond.append((offset, data))
                continue
            for start, end, held, base in self._pieces(offset, offset + len(data)):
                piece = data[start - offset : end - offset]
                if held is None:
                    beyond.append((start, piece))
                else:
                    held[start - base : end - base] = piece
        self._inner.start(beyond)

    def finish(self) -> None:
        """Wait for the inner sink."""
        self._inner.finish()

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
