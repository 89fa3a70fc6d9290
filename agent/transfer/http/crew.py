"""The crew: several connections that bring one line of slices, to one server or to several.

For the HTTP source. It opens as many as it is told to, hands slices out, and takes back what a connection had that was
lost. Nothing that happens to one of them is a fault of the transfer: a server that takes no more, cuts, stalls or
answers strangely has fewer, and where none is left the source goes on with a single one, by whose rules faults count.

What holds: no connection and no task outlives `close`, and no memory that was borrowed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.aio import wait
from agent.transfer.http.client import Answer
from agent.transfer.http.faults import ChangedFault, FatalFault, TransientFault
from agent.transfer.http.head import Head
from agent.transfer.http.places import Place
from agent.transfer.http.ramp import Ramp
from agent.transfer.http.ranges import Ranges
from agent.transfer.http.slices import Line, Slice
from agent.transfer.http.stall import Pace
from agent.transfer.http.strand import Strand

STALL_SECONDS = 3.0
"""A connection that all others wait for may be silent for so long; a single one has the minute of `HttpLimits`."""
CHOKE_SECONDS = 1.0
"""So long may others stand still, their memory full, because of the one that brings the front."""
SETTLE_SECONDS = 1.0
"""So long may the single connection stand still, where the crew should begin and no connection of it stands yet."""
STRIKES = 2
"""So many connections of a place may bring nothing; then it is asked for no further ones, where there are others."""
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class _Opening:
    """A connection on its way."""

    place: Place
    slice: Slice
    since: float


class Crew:
    """Brings the bytes of a line.

    Args:
        line: what is to be brought.
        file: the head that the transfer began with.
        places: which may be asked, the one that the transfer began at first.
        ranges: asks them.
        ramp: says how many connections are wanted, and is told which could not be had.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        line: Line,
        file: Head,
        places: Sequence[Place],
        ranges: Ranges,
        ramp: Ramp,
        clock: Callable[[], float],
    ) -> None:
        self.changed = False
        """Whether the place that the single connection is of has another file now, at least in some answers."""
        self.proven = False
        """Whether a connection has answered as it should."""
        self._line = line
        self._file = file
        self._places = places
        self._ranges = ranges
        self._ramp = ramp
        self._clock = clock
        self._beside = 1  # the single connection, which still brings what is before the line
        self._pace = Pace(ranges.limits, clock)
        self._received = 0
        self._strands: list[Strand] = []
        self._opening: dict[asyncio.Task[Answer], _Opening] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._choked_since: float | None = None
        self._closed = False

    @property
    def start(self) -> int:
        """The first byte of the line."""
        return self._line.start

    @property
    def ahead(self) -> int:
        """Bytes that have come and are not delivered."""
        return self._line.ahead

    @property
    def connections(self) -> int:
        """Those that stand."""
        return len(self._strands)

    @property
    def is_over(self) -> bool:
        """Whether it brings nothing more: the line is at its end, one connection is enough, or none is left."""
        if self._closed or self._line.at_end:
            return True
        front = self._line.front
        if front is not None and front.complete:
            return False
        if self._ramp.count == 1 and (front is None or not front.taken):
            return True
        return not (self._opening or any(one.asked for one in self._strands))

    def begin(self) -> None:
        """Open the first connections, while the single one goes on."""
        self._tend()

    async def settled(self) -> None:
        """Wait until it is known whether it comes to anything, but not for long: meanwhile nothing comes."""
        until = self._clock() + SETTLE_SECONDS
        while self._opening and not self.proven and self._clock() < until:
            await self._wait()

    async def fill(self, view: memoryview) -> int:
        """Fill the view; fewer bytes than it holds mean that `is_over`.

        To be asked for once the single connection has been dropped.
        """
        self._beside = 0
        filled = 0
        self._pace.begin()
        try:
            while True:
                with view[filled:] as rest:  # see agent.tracebacks
                    filled += self._line.deliver(rest)
                self._tend()
                if filled == len(view) or self.is_over:
                    return filled
                front = self._line.front
                if front is None or not front.complete:
                    await self._wait()
                    self._judge_pace()
        finally:
            self._pace.end()

    def close(self) -> None:
        """Drop all connections and give the memory back; safe to call twice."""
        self._closed = True
        for strand in self._strands:
            strand.close()
        self._strands.clear()
        for task in self._opening:
            task.cancel()
        self._line.close()
        self._wake()

    @property
    def has_ended(self) -> bool:
        """Whether no task is left."""
        return not self._opening

    async def ended(self) -> None:
        """Wait until no task is left; after `close`."""
        while self._opening:
            await wait(tuple(self._opening))

    # -- what the strands call -------------------------------------------------------------------------------

    def give_cell(self, one: Slice) -> bool:
        """See `Owner`."""
        return self._line.give_cell(one)

    def fits(self, place: Place, head: Head, one: Slice) -> bool:
        """See `Owner`."""
        try:
            return self._ranges.is_slice(place, self._file, head, *one.missing)
        except ChangedFault:
            self._note_change(place)
            return False
        except FatalFault:
            return False

    def range_headers(self, place: Place, one: Slice) -> dict[str, str]:
        """See `Owner`."""
        return self._ranges.slice_headers(place, self._file, *one.missing)

    def completed(self, strand: Strand) -> None:
        """See `Owner`."""
        self._feed(strand)
        front = self._line.front
        if front is not None and front.complete:
            self._wake()

    def lost(self, strand: Strand) -> None:
        """See `Owner`."""
        self._put_back(strand)
        if strand.done == 0:
            self._strike(strand.place)
        self._wake()

    # -- who does what ---------------------------------------------------------------------------------------

    def _tend(self) -> None:
        """Bring connections and slices together, as many as are wanted."""
        if self._closed:
            return
        self._drop_who_holds_up()
        for strand in tuple(self._strands):
            if strand.starved:
                strand.resume()
        wanted = self._ramp.count - self._beside if self._ramp.count > 1 else 0
        self._open_more(wanted)
        for index, strand in enumerate(tuple(self._strands)):
            strand.retiring = index >= wanted
            if strand.retiring and not strand.asked:
                self._give_up(strand)
            else:
                self._feed(strand)

    def _feed(self, strand: Strand) -> None:
        """Ask for up to two slices: so it comes to have several asked for by and by, and the first ones mix.

        What another had before goes to one that has nothing else to bring first.
        """
        for _ in range(2):
            if not strand.can_ask or (strand.asked and self._line.put_back() is not None):
                return
            one = self._line.take()
            if one is None:
                return
            strand.ask(one)

    def _open_more(self, wanted: int) -> None:
        while len(self._strands) + len(self._opening) < wanted:
            place = self._choose()
            one = self._line.take()
            if one is None:
                return
            task = asyncio.get_running_loop().create_task(
                self._ranges.open_slice(place, self._file, *one.missing)
            )
            self._opening[task] = _Opening(place, one, self._clock())
            task.add_done_callback(self._opened)

    def _choose(self) -> Place:
        """The place with the fewest connections, of those that have not failed too often."""
        used = [one.place for one in self._strands] + [one.place for one in self._opening.values()]
        usable = [place for place in self._places if place.strikes < STRIKES]
        return min(usable or self._places[:1], key=used.count)

    def _opened(self, task: "asyncio.Task[Answer]") -> None:
        """A connection stands, or could not be had."""
        opening = self._opening.pop(task)
        self._wake()
        if not task.cancelled() and task.exception() is None and not self._closed:
            self.proven = True
            strand = Strand(self, opening.place, task.result(), opening.slice, self._clock)
            self._strands.append(strand)
            strand.start()
            return
        opening.slice.taken = False
        if self._closed:
            if not task.cancelled() and task.exception() is None:
                task.result().close()
            return
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, ChangedFault):
            self._note_change(opening.place)
        # What is no fault of a connection will not pass with time.
        self._strike(opening.place, 1 if fault is None or isinstance(fault, TransientFault) else STRIKES)

    def _note_change(self, place: Place) -> None:
        """A place has another file: no matter where it is a mirror, which is asked no more."""
        place.strikes = STRIKES
        self.changed = self.changed or place is self._places[0]

    def _strike(self, place: Place, count: int = 1) -> None:
        """A connection of a place has brought nothing: others are asked, or there are fewer."""
        place.strikes += count
        if not any(other.strikes < STRIKES for other in self._places if other is not place):
            self._ramp.refuse(self._clock(), self._beside + len(self._strands) + len(self._opening))

    def _put_back(self, strand: Strand) -> None:
        if strand in self._strands:
            self._strands.remove(strand)
        for one in strand.asked:
            one.taken = False
        strand.asked.clear()

    # -- who holds up the others -----------------------------------------------------------------------------

    def _drop_who_holds_up(self) -> None:
        """Drop the connection of the front if all others have long been waiting for it.

        And where a slice was put back, which nobody is free to fetch: the one that is farthest ahead, for its place.
        """
        front = self._line.front
        if front is None or front.complete:
            self._choked_since = None
            return
        if not front.taken:
            if self._strands and not self._opening and all(one.asked for one in self._strands):
                self._give_up(max(self._strands, key=lambda one: one.asked[0].start))
            return
        self._cancel_opening(front)
        owner = next((one for one in self._strands if front in one.asked), None)
        others = [one for one in self._strands if one is not owner]
        if owner is None or not others:
            return
        now = self._clock()
        if not any(one.starved for one in others):
            self._choked_since = None
        elif self._choked_since is None:
            self._choked_since = now
        choked = self._choked_since is not None and now - self._choked_since >= CHOKE_SECONDS
        silent = now - owner.last_byte >= STALL_SECONDS
        if choked or (silent and any(one.starved or one.last_byte > owner.last_byte for one in others)):
            self._choked_since = None
            self._give_up(owner)
            self._strike(owner.place)

    def _cancel_opening(self, front: Slice) -> None:
        """Do not wait for long for a connection that is to bring the front and does not come about."""
        for task, opening in self._opening.items():
            if opening.slice is front and self._clock() - opening.since >= STALL_SECONDS:
                task.cancel()

    def _give_up(self, strand: Strand) -> None:
        strand.close()
        self._put_back(strand)

    # -- waiting ---------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        await wait((waiter,), seconds=_LOOK_SECONDS)

    def _judge_pace(self) -> None:
        """Let everything go where next to nothing comes: a single connection meets that by its own rules."""
        received = self._line.received
        if received > self._received:
            self._pace.note(received - self._received)
        self._received = received
        if self._pace.verdict() is not None:
            self._ramp.refuse(self._clock(), 1)
            self.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
