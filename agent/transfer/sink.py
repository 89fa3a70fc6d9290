"""The sink protocol: where extents go. Blocking; called in one thread at a time, never on the event loop."""

from collections.abc import Sequence
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

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        """Begin several writes (offset, data), behind those that were begun before; the later one of two wins.

        Their memory must not change, and nothing else must be asked of the sink for the same bytes, until `finish`.

        Raises:
            WriteFault: one of these failed, or one that was begun before.
        """

    def finish(self) -> None:
        """Wait until all that was begun is written.

        Raises:
            WriteFault: one of those writes failed.
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
