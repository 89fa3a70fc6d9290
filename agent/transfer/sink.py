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
