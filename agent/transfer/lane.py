"""A lane: buffers on their way from the receiver to the one thread that works on them.

The thread lives as long as the copy and takes its next buffer by itself: it does not wait for an event loop that is
busy receiving. A lane has no bound of its own, because the pool has one: no more buffers can be on it than there are.
"""

import asyncio
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from agent.transfer.pool import Buffer


class Stopped(Exception):
    """The copy has ended before the lane did: whatever works on it ends too. Nobody sees it but its thread."""


class Lane:
    """Buffers in order. `put`, `stop` and `waiting` belong to the event loop's thread, the iteration to the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Buffer | None] = SimpleQueue()
        self._stopped = False

    @property
    def waiting(self) -> int:
        """Buffers that nobody has begun to work on."""
        return self._queue.qsize()

    def put(self, buffer: Buffer | None) -> None:
        """Hand a buffer on; None after the last one."""
        self._queue.put(buffer)

    def stop(self) -> None:
        """Have the iteration raise `Stopped` when it asks for the next buffer, whatever is on the lane."""
        self._stopped = True
        self._queue.put(None)

    def __iter__(self) -> Iterator[Buffer]:
        while (buffer := self._queue.get()) is not None and not self._stopped:
            yield buffer
        if self._stopped:
            raise Stopped

    def on_loop(self, act: Callable[..., None], *args: object) -> None:
        """From the lane's thread: have the event loop call this, in the order of the calls."""
        self._loop.call_soon_threadsafe(act, *args)
