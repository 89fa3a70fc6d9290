"""Lets a parser of a stream be written as one generator, though its bytes arrive in pieces of any length.

The generator takes bytes from its `Intake` with `yield from`, yields its results, and yields None (inside of `Intake`)
when it needs more bytes than have arrived. `Parser` runs the generator. Used by the decoders of this package only. A
parser that has raised must not be fed again.
"""

from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

from agent.errors import ImageDamaged

T = TypeVar("T")

_SKIP_BYTES = 1 << 30
# What is no longer than a header may be kept for long, and a view of it would keep the whole buffer that it came in, of
# 4 MiB, which the pool has given up by then. (The longest header of a block of xz has so many bytes.)
_COPIED_BYTES = 1024


class Intake:
    """The input bytes of one parser, in order. Memory: only what one `take` or `up_to` collects."""

    def __init__(self, content: str) -> None:
        self.content = content
        """The name of the format in messages: `vmdk`, `gzip`."""
        self.offset = 0
        """Offset of the next byte in the input."""
        self._view = memoryview(b"")
        self._behind: list[memoryview] = []
        """What follows the view, the next last: an input that bytes were given back to is not copied for them."""
        self._ended = False

    @property
    def left(self) -> int:
        """Number of bytes that have arrived and were not taken."""
        return len(self._view) + sum(map(len, self._behind))

    def add(self, data: memoryview) -> None:
        """Add the next bytes of the input; all earlier ones must have been taken."""
        if self.left:
            raise RuntimeError("bytes were fed before the extents of the last ones were taken")
        self._view = data

    def end(self) -> None:
        """Note that the input has ended."""
        self._ended = True

    def give_back(self, data: bytes) -> None:
        """Put back the bytes that were taken last: they are the next ones again."""
        self.offset -= len(data)
        if self._view:
            self._behind.append(self._view)
        self._view = memoryview(data)

    def at_end(self) -> Generator[None, None, bool]:
        """Whether the input has ended and every byte was taken; waits for the next byte or the end."""
        while not self._view:
            if self._behind:
                self._view = self._behind.pop()
            elif self._ended:
                return True
            else:
                yield
        return False

    def some(self, limit: int, what: str) -> Generator[None, None, memoryview]:
        """At least one byte and at most `limit`; the view is valid until the next `feed`.

        Raises:
            ImageDamaged: the input has ended, within `what`.
        """
        if (yield from self.at_end()):
            raise self.damaged(f"it ends at byte {self.offset}, within {what}")
        piece = self._view[:limit]
        self._view = self._view[len(piece) :]
        self.offset += len(piece)
        return piece

    def take(self, length: int, what: str) -> Generator[None, None, memoryview]:
        """Exactly `length` bytes, held in memory if they arrive in pieces; the view is valid until the next `feed`.

        Raises:
            ImageDamaged: the input ends within `what`.
        """
        if length == 0:
            return memoryview(b"")
        piece = yield from self.some(length, what)
        if len(piece) == length:
            return piece if length > _COPIED_BYTES else memoryview(bytes(piece))
        gathered = bytearray(piece)
        while len(gathered) < length:
            gathered += yield from self.some(length - len(gathered), what)
        return memoryview(gathered).toreadonly()

    def up_to(self, length: int) -> Generator[None, None, bytes]:
        """The next `length` bytes as a copy; fewer only if the input ends before."""
        gathered = bytearray()
        while len(gathered) < length and not (yield from self.at_end()):
            gathered += yield from self.some(length - len(gathered), "what may end here")
        return bytes(gathered)

    def skip(self, length: int, what: str, *, may_end: bool = False) -> Generator[None, None, None]:
        """Skip `length` bytes; with `may_end` the input may end within them.

        Raises:
            ImageDamaged: the input ends within `what`.
        """
        while length:
            if may_end and (yield from self.at_end()):
                return
            length -= len((yield from self.some(min(length, _SKIP_BYTES), what)))

    def damaged(self, reason: str) -> ImageDamaged:
        """The error for a fault in this input."""
        return ImageDamaged(format=self.content, reason=reason)


class Parser(Generic[T]):
    """Runs one parser (a generator) over its intake; T is the type of its results."""

    def __init__(self, intake: Intake, steps: Generator[T | None, None, None]) -> None:
        self._intake = intake
        self._steps = steps

    def feed(self, data: memoryview) -> Iterator[T]:
        """Add the next bytes of the input and yield the results that they complete.

        Raises:
            ImageDamaged: the parser has ended before its input, or raised it.
        """
        self._intake.add(data)
        yield from self._run()

    def finish(self) -> Iterator[T]:
        """End the input and yield the last results.

        Raises:
            ImageDamaged: the input is truncated.
        """
        self._intake.end()
        yield from self._run()

    def _run(self) -> Iterator[T]:
        for step in self._steps:
            if step is None:
                return
            yield step
        if self._intake.left:
            raise self._intake.damaged(f"there are bytes behind its end, at byte {self._intake.offset}")
