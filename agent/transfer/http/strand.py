"""One of several connections: it fetches slice after slice, and asks for the next before it needs it.

aiohttp connects, speaks TLS and reads the first answer, as for every body (see `body`). From there on the connection is
ours: the same request with another Range, the heads of the answers read by `read_head`, the bodies received in place.
Requests are sent ahead (pipelined), since a slice is small and the way to the server may be long. Whatever is unusual
ends the connection; the slices that it had are fetched by others, so nothing is decided here about the file.

Memory: the cells of its slices; a spill for heads, and for what TLS holds back (about 0.5 MiB at most).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from agent.transfer.http.body import drop
from agent.transfer.http.client import Answer
from agent.transfer.http.head import Head, read_head
from agent.transfer.http.places import Place
from agent.transfer.http.slices import Slice
from agent.units import KiB, MiB

AHEAD = 4 * MiB
"""What a connection has asked for and does not have: more than a window of the kernel's default buffers."""
_TLS_RECORD = 16 * KiB
_SPILL = 64 * KiB
_HEAD_LIMIT = 32 * KiB


class Owner(Protocol):
    """Who has the strands. All is called by the event loop, and must not raise."""

    def give_cell(self, one: Slice) -> bool:
        """Give a slice memory; False where there is none now: `resume` tries again."""

    def fits(self, place: Place, head: Head, one: Slice) -> bool:
        """Whether an answer is what was asked for, of the right file."""

    def range_headers(self, place: Place, one: Slice) -> dict[str, str]:
        """What asks for the rest of a slice."""

    def completed(self, strand: "Strand") -> None:
        """A slice of this strand is complete."""

    def lost(self, strand: "Strand") -> None:
        """The connection is gone; the strand still names its slices."""


class Strand(asyncio.BufferedProtocol):
    """A connection over which the first answer's head has come, the one to the first slice."""

    def __init__(
        self,
        owner: Owner,
        place: Place,
        answer: Answer,
        first: Slice,
        clock: Callable[[], float],
    ) -> None:
        self.place = place
        self.asked = deque([first])
        """What it was asked for and has not brought whole; the one that comes now is the first."""
        self.done = 0
        """Slices that it has brought."""
        self.retiring = False
        """Whether it is asked for no more."""
        self.starved = False
        """Whether it stands still for want of memory."""
        self.last_byte = clock()
        self._owner = owner
        self._answer = answer
        self._clock = clock
        self._persists = answer.head.persists and answer.response.version == (1, 1)
        self._left = first.length - first.filled  # of the body that comes now; 0: a head comes
        self._pending = bytearray()
        self._spill = bytearray(_SPILL)
        self._to_spill = True
        self._over = False
        connection = answer.response.connection
        while data := answer.response.content.read_nowait(-1):
            self._pending += data
        self._transport = None if connection is None else connection.transport
        if self._transport is not None:
            # aiohttp waits in its close() until its own protocol has lost the connection: it must be told.
            self._original = self._transport.get_protocol()
            self._transport.set_protocol(self)

    def start(self) -> None:
        """Begin to receive. Apart from the constructor, since it calls the owner."""
        self._persists = self._persists and self._transport is not None
        self.resume()
        if self._transport is None or self._transport.is_closing():
            self._end()

    @property
    def can_ask(self) -> bool:
        """Whether it may be asked for another slice, beside those that it was asked for."""
        ahead = sum(one.length - one.filled for one in self.asked)
        return self._persists and not self.retiring and not self._over and ahead < AHEAD

    def ask(self, one: Slice) -> None:
        """Ask for another slice."""
        self.asked.append(one)
        if self._transport is not None:
            extra = self._owner.range_headers(self.place, one)
            self._transport.write(self._answer.request_again(extra))

    def resume(self) -> None:
        """Go on, where there may be memory again."""
        self.starved = False
        self._work()

    def close(self) -> None:
        """Drop the connection at once, without a word to the owner; safe to call twice."""
        if not self._over:
            self._over = True
            drop(self._answer.response)

    def _end(self) -> None:
        """Drop it, and say so."""
        if not self._over:
            self.close()
            self._owner.lost(self)

    def _work(self) -> None:
        """Take apart what has come, and read on or not."""
        while not self._over and self.asked and self._step():
            pass
        if self._over or self._transport is None:
            return
        if self._pending and not self.asked:
            self._end()  # more than was asked for
        elif self.starved:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _step(self) -> bool:
        """Use some of what has come; False where there is nothing to do with it."""
        if self._left == 0:
            return self._take_head()
        one = self.asked[0]
        if not self._owner.give_cell(one) or one.cell is None:
            self.starved = True
            return False
        count = min(self._left, len(self._pending))
        if count == 0:
            return False
        one.cell[one.filled : one.filled + count] = self._pending[:count]
        del self._pending[:count]
        self._count(count)
        return True

    def _take_head(self) -> bool:
        end = self._pending.find(b"\r\n\r\n")
        if end < 0:
            if len(self._pending) > _HEAD_LIMIT:
                self._end()
            return False
        head = read_head(bytes(self._pending[:end]))
        one = self.asked[0]
        if head is None or not self._owner.fits(self.place, head, one):
            self._end()
            return False
        del self._pending[: end + 4]
        self._persists = self._persists and head.persists
        self._left = one.length - one.filled
        return True

    def _count(self, count: int) -> None:
        """So many bytes of the slice that comes now have come."""
        one = self.asked[0]
        one.filled += count
        self._left -= count
        if one.complete:
            self.asked.popleft()
            self.done += 1
            self._owner.completed(self)
            if not self._persists:
                self._end()

    # -- called by the event loop ----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: into the slice, or where it has no memory or a head comes, the spill.

        A TLS transport says by `sizehint` how much it holds; see `DirectBody.get_buffer`.
        """
        one = self.asked[0] if self.asked else None
        self._to_spill = self._over or self._left == 0 or one is None or one.cell is None
        if not self._to_spill and one is not None and one.cell is not None:
            return one.cell[one.filled : one.length]
        needed = sizehint + _TLS_RECORD if sizehint > 0 else 1
        if len(self._spill) < needed:
            self._spill = bytearray(needed)
        return memoryview(self._spill)

    def buffer_updated(self, nbytes: int) -> None:
        """Count what came, and use it."""
        self.last_byte = self._clock()
        if self._over:
            return
        if self._to_spill:
            self._pending += memoryview(self._spill)[:nbytes]
        else:
            self._count(nbytes)
        self._work()

    def eof_received(self) -> None:
        """The server closes: `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, and aiohttp."""
        self._original.connection_lost(exc)
        self._end()
