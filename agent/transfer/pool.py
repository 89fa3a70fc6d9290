"""The buffer pool: a fixed number of page-aligned buffers, the only bulk memory of a transfer and its
back-pressure.

Buffers are anonymous mappings: aligned for O_DIRECT, touched once, and used again and again, because what
costs at a gigabyte a second is the page fault on fresh memory. All methods belong to the event loop's thread.
"""

import asyncio
import mmap
from collections import deque

from agent.units import KiB, MiB

# Measured (docs/performance.md): against 32 buffers of 1 MiB these take a tenth less processor time, most of it in
# the kernel. Smaller ones cost more waits and wake-ups; more memory gains nothing.
BUFFER_SIZE = 4 * MiB
BUFFER_COUNT = 8
# What the pool and the decoder may take together: with the rest of the process that is less than 128 MiB. A decoder
# with a window of 64 MiB leaves room for the smaller kind, and is so slow that they are enough.
SHARED_BYTES = 70 * MiB
SMALL_SIZE = 512 * KiB
SMALL_COUNT = 4
KEPT_COUNT = 3
"""So many buffers are never lent: one that fills, and one each for hash and disk."""


class Buffer:
    """One pooled buffer: `view` is all of it, `data` the part that is filled."""

    __slots__ = ("_holders", "_pool", "length", "view")

    def __init__(self, pool: "BufferPool", view: memoryview) -> None:
        self._pool = pool
        self._holders = 0
        self.view = view
        self.length = 0

    @property
    def data(self) -> memoryview:
        """The filled part."""
        return self.view[: self.length]

    def hold(self, holders: int) -> None:
        """Say how many `release` calls give the buffer back."""
        self._holders = holders

    def release(self) -> None:
        """One holder is done; the last one gives the buffer back to the pool."""
        self._holders -= 1
        if self._holders == 0:
            self._pool.give_back(self)
        elif self._holders < 0:
            raise RuntimeError("a buffer was released more often than it was held")


class BufferPool:
    """`count` buffers of `size` bytes each, mapped on first use."""

    def __init__(self, count: int = BUFFER_COUNT, size: int = BUFFER_SIZE) -> None:
        if size % mmap.PAGESIZE:
            raise ValueError(f"a buffer of {size} bytes is not a whole number of pages")
        self.count = count
        self.size = size
        self.lent = 0
        """Buffers that a source has, for bytes that came early. They are part of `count`."""
        self._free: deque[Buffer] = deque()
        self._made: list[Buffer] = []  # without those that are lent
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def in_use(self) -> int:
        """Buffers that are held now."""
        return len(self._made) - len(self._free)

    def make_room(self, held: int) -> None:
        """A decoder holds `held` bytes: have so few buffers that `SHARED_BYTES` are enough for both.

        There are never more of them again. Those in use that are too many or too long go when they are given back.
        """
        room = SHARED_BYTES - held
        if self.count * self.size <= room:
            return
        if room >= SMALL_COUNT * self.size:
            self.count = room // self.size
        else:
            self.count, self.size = min(self.count, SMALL_COUNT), min(self.size, SMALL_SIZE)
        free, self._free = self._free, deque()
        for buffer in free:
            self._put_back(buffer)

    def take(self) -> Buffer | None:
        """A free buffer, held once, or None. The one that was used last comes first: its pages are
        warmest.
        """
        if not self._free and len(self._made) < self._own:
            buffer = Buffer(self, memoryview(mmap.mmap(-1, self.size)))
            self._made.append(buffer)
            self._free.append(buffer)
        if not self._free:
            return None
        buffer = self._free.pop()
        buffer.length = 0
        buffer.hold(1)
        return buffer

    @property
    def _own(self) -> int:
        """How many there may be beside those that are lent. At least one, or these would never come back."""
        return max(1, self.count - self.lent)

    @property
    def lends(self) -> bool:
        """Whether there are any to lend: a decoder may need their memory for itself."""
        return self.count > KEPT_COUNT and self.size > SMALL_SIZE

    def lend(self) -> Buffer | None:
        """A free buffer for whoever brings the bytes, if enough are left; `take_back` ends it, and no `reclaim`."""
        if not self.lends or self._own <= KEPT_COUNT or (buffer := self.take()) is None:
            return None
        self._made.remove(buffer)
        self.lent += 1
        return buffer

    def take_back(self, buffer: Buffer) -> None:
        """A buffer that was lent is free again."""
        self.lent -= 1
        self._made.append(buffer)
        self.give_back(buffer)

    async def acquire(self) -> Buffer:
        """Wait for a free buffer; it is held once."""
        while (buffer := self.take()) is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        """Called by the buffer's last `release`."""
        self._put_back(buffer)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def reclaim(self) -> None:
        """Take every buffer back, whoever held it: the transfer that used them has ended and its threads
        with it.
        """
        self._free.clear()
        for buffer in tuple(self._made):
            self._put_back(buffer)

    def _put_back(self, buffer: Buffer) -> None:
        if len(buffer.view) == self.size and len(self._made) <= self._own:
            self._free.append(buffer)
        elif buffer in self._made:
            self._made.remove(buffer)

    def close(self) -> None:
        """Let the buffers go; none may be in use any more. New ones are mapped if the pool is used again."""
        for buffer in self._made:
            buffer.view.release()  # see agent.tracebacks
        self._made.clear()
        self._free.clear()
