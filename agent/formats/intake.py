"""How a parser takes bytes that come in pieces of any length.

A parser is a generator: it asks its `Intake` for bytes with `yield from`, gives what it finds with `yield`, and
gives None when it needs more bytes than are there. `Parser` drives it, so that a format reads top to bottom
although its bytes come one by one. For the decoders of this package only. A parser that has raised must not be fed
again.
"""

from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

from agent.errors import ImageDamaged

T = TypeVar("T")

_SKIP_BYTES = 1 << 30


class Intake:
    """The bytes of one file or member, in order. Holds what `take` gathers, and never more."""

    def __init__(self, content: str) -> None:
        self.content = content
        """What messages call the file: `vmdk`, `gzip`."""
        self.offset = 0
        """Position of the next byte in the file."""
        self._view = memoryview(b"")
        self._ended = False

    @property
    def left(self) -> int:
        """Bytes that were given and not taken yet."""
        return len(self._view)

    def give(self, data: memoryview) -> None:
        """Add the next bytes; all before them must have been taken."""
        if self._view:
            raise RuntimeError("bytes were fed before the extents of the last ones were taken")
        self._view = data

    def end(self) -> None:
        """There are no more bytes."""
        self._ended = True

    def give_back(self, data: bytes) -> None:
        """Put bytes that were taken last back in front."""
        self.offset -= len(data)
        self._view = memoryview(data + bytes(self._view)) if self._view else memoryview(data)

    def at_end(self) -> Generator[None, None, bool]:
        """Whether every byte has been taken; waits until that is known."""
        while not self._view and not self._ended:
            yield
        return not self._view

    def some(self, limit: int, what: str) -> Generator[None, None, memoryview]:
        """At least one byte and at most `limit`; the view is valid until the next feed.

        Raises:
            ImageDamaged: the file ends here, within `what`.
        """
        if (yield from self.at_end()):
            raise self.damaged(f"it ends at byte {self.offset}, within {what}")
        piece = self._view[:limit]
        self._view = self._view[len(piece) :]
        self.offset += len(piece)
        return piece

    def take(self, length: int, what: str) -> Generator[None, None, memoryview]:
        """Exactly `length` bytes, which the caller has bounded; the view is valid until the next feed.

        Raises:
            ImageDamaged: the file ends within `what`.
        """
        if length == 0:
            return memoryview(b"")
        piece = yield from self.some(length, what)
        if len(piece) == length:
            return piece
        gathered = bytearray(piece)
        while len(gathered) < length:
            gathered += yield from self.some(length - len(gathered), what)
        return memoryview(gathered).toreadonly()

    def up_to(self, length: int) -> Generator[None, None, bytes]:
        """The next `length` bytes, which the caller has bounded; fewer only where the file ends before."""
        gathered = bytearray()
        while len(gathered) < length and not (yield from self.at_end()):
            gathered += yield from self.some(length - len(gathered), "what may end here")
        return bytes(gathered)

    def skip(self, length: int, what: str, *, may_end: bool = False) -> Generator[None, None, None]:
        """Drop `length` bytes; with `may_end` the file may end within them.

        Raises:
            ImageDamaged: the file ends within `what`.
        """
        while length:
            if may_end and (yield from self.at_end()):
                return
            length -= len((yield from self.some(min(length, _SKIP_BYTES), what)))

    def damaged(self, reason: str) -> ImageDamaged:
        """The error for a fault in this file."""
        return ImageDamaged(format=self.content, reason=reason)


class Parser(Generic[T]):
    """Drives one parser over its intake."""

    def __init__(self, intake: Intake, steps: Generator[T | None, None, None]) -> None:
        self._intake = intake
        self._steps = steps

    def feed(self, data: memoryview) -> Iterator[T]:
        """Give the next bytes and take what they complete.

        Raises:
            ImageDamaged: bytes follow what the parser knows to be the end.
        """
        self._intake.give(data)
        yield from self._run()

    def finish(self) -> Iterator[T]:
        """There are no more bytes: take what is left.

        Raises:
            ImageDamaged: the file is not whole.
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
