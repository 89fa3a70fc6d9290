"""One connection or several, and the change from the one to the others.

For the HTTP source. A transfer begins with a single connection, which brings the file from byte 0 to its end. When more
are wanted, a crew takes over from a byte a little further on: until the transfer is there, the single one goes on, and
the crew shows what it can. If that is nothing, the single one was never touched. What it leaves, a single one goes on
with.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agent.transfer.http.crew import Crew
from agent.transfer.http.head import Head
from agent.transfer.http.places import Place
from agent.transfer.http.ramp import Ramp, Sample
from agent.transfer.http.ranges import Ranges
from agent.transfer.http.slices import Cells, Lender, Line
from agent.units import MiB

LEAD_SECONDS = 0.3
"""So far ahead the crew begins, at the rate of the single connection: about what its connections take to stand."""
LEAD_LEAST, LEAD_MOST = 4 * MiB, 16 * MiB


class Width:
    """Decides between one and several.

    Args:
        ranges: asks the places.
        ramp: says how many are wanted.
        lender: has the memory for bytes that come early; without one there are never several.
        clock: monotonic seconds.
        cpu: seconds of processor time of this thread: while it works, it does not wait for the network.
    """

    def __init__(
        self,
        ranges: Ranges,
        ramp: Ramp,
        lender: Lender | None,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._ranges = ranges
        self._ramp = ramp
        self._lender = lender
        self._clock = clock
        self._cpu = cpu
        self._waited = 0.0
        self._crew: Crew | None = None
        self._ending: list[Crew] = []
        self.uneven = False
        """Whether a server gave answers that are not of one file: a new connection may be answered in either way."""

    @property
    def connections(self) -> int:
        """Those of the crew."""
        return 0 if self._crew is None else self._crew.connections

    @property
    def has_crew(self) -> bool:
        """Whether a crew is at work."""
        return self._crew is not None

    @contextmanager
    def measured(self) -> Iterator[None]:
        """The network is waited for while the block runs, but for what it works itself."""
        began, worked = self._clock(), self._cpu()
        try:
            yield
        finally:
            self._waited += max(0.0, self._clock() - began - (self._cpu() - worked))

    def consider(self, position: int, places: Sequence[Place], begun_at: Place | None, file: Head) -> None:
        """Look at the transfer, which a single connection brings, and begin with several if that is wanted."""
        if self._lender is None or self.uneven:
            return
        self._observe(position)
        if self._crew is not None or self._ramp.count == 1 or file.length is None:
            return
        usable = [place for place in places if self._ranges.has_parts(place, file, begun_at)]
        start = position + min(max(int(self._ramp.rate * LEAD_SECONDS), LEAD_LEAST), LEAD_MOST)
        if not usable or usable[0] is not places[0] or not _offers_ranges(places[0], file):
            return
        cells = Cells(self._lender)
        if file.length - start < self._ramp.worth or not cells.reserve():
            self._ramp.refuse(self._clock(), 1)
            return
        self._crew = Crew(
            Line(start, file.length, cells), file, usable, self._ranges, self._ramp, self._clock
        )
        self._crew.begin()

    async def takes_over(self, position: int) -> bool:
        """Whether the crew goes on from here. One that has come to nothing by now is let go."""
        crew = self._crew
        if crew is None or position < crew.start:
            return False
        await crew.settled()
        if crew.proven and not crew.changed and self._ramp.count > 1:
            return True
        self._ramp.refuse(self._clock(), 1)
        self.drop()
        return False

    def until(self, position: int, length: int) -> int:
        """So many bytes, of `length`, are the single connection's."""
        return length if self._crew is None else min(length, self._crew.start - position)

    async def fill(self, position: int, view: memoryview) -> int:
        """Have the crew fill the view; where it brings fewer bytes, it is gone."""
        crew = self._crew
        if crew is None:
            raise RuntimeError("there is no crew")
        self._observe(position)
        count = await crew.fill(view)
        if crew.is_over:
            self.drop()
        return count

    def drop(self) -> None:
        """Let the crew go, with all that it has ahead; safe to call twice."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()
            self.uneven = self.uneven or crew.changed
            self._ending = [*(one for one in self._ending if not one.has_ended), crew]

    async def ended(self) -> None:
        """Wait until nothing of any crew is left; after `drop`."""
        for crew in self._ending:
            await crew.ended()

    def _observe(self, position: int) -> None:
        if self._crew is not None and self._lender is not None and not self._lender.lends:
            self._ramp.refuse(self._clock(), 1)
        ahead = 0 if self._crew is None else self._crew.ahead
        self._ramp.observe(Sample(self._clock(), position + ahead, self._waited))


def _offers_ranges(place: Place, file: Head) -> bool:
    """Whether a server has said or shown that it has ranges: else a second connection would only be to find out."""
    return place.has_ranges is True or place.known(file).offers_ranges
