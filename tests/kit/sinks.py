"""What a sink in memory needs besides `write`: several writes are one after the other there."""

from collections.abc import Callable, Sequence
from typing import Any

from agent.errors import WriteFault


def one_by_one(write: Callable[[int, memoryview], Any], writes: Sequence[tuple[int, memoryview]]) -> None:
    """Carry out several writes in their order; a failure tells which one it was."""
    for offset, data in writes:
        try:
            write(offset, data)
        except OSError as error:
            raise WriteFault(offset, error) from error


class OneByOne:
    """Gives `start` and `finish` to a sink that has a `write`."""

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        one_by_one(getattr(self, "write"), writes)  # noqa: B009 - there is none here

    def finish(self) -> None:
        """Nothing is under way."""
