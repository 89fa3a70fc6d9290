"""The meter: counts bytes and waits, and says which side is slow. Pulled by whoever shows progress; never
blocks.
"""

import time
from collections import deque
from collections.abc import Callable

from agent.model.status import Progress

# Rates and waits are taken over about this many seconds, so that they follow the transfer without flickering.
WINDOW_SECONDS = 5.0
NETWORK, DISK, CPU = "network", "disk", "cpu"


class Meter:
    """Counters of one transfer. All methods belong to the event loop's thread."""

    def __init__(
        self,
        total: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        connections: Callable[[], int] = lambda: 0,
        slow_disk: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._slow_disk = slow_disk
        self.total = total
        self.downloaded = 0
        self.written = 0
        self.waits = {NETWORK: 0.0, DISK: 0.0, CPU: 0.0}
        self._samples: deque[tuple[float, int, dict[str, float]]] = deque()
        self._sample()

    def restart(self) -> None:
        """The transfer begins again from byte 0; the waits so far still count."""
        self.downloaded = self.written = 0
        self._samples.clear()
        self._sample()

    def received(self, length: int, waited: float) -> None:
        """`length` bytes came in after `waited` seconds."""
        self.downloaded += length
        self.waits[NETWORK] += waited
        if self._clock() - self._samples[-1][0] >= WINDOW_SECONDS / 10:
            self._sample()

    def wrote(self, length: int) -> None:
        """`length` bytes of the file have been decoded and written."""
        self.written += length

    def waited(self, side: str, seconds: float) -> None:
        """The transfer stood still for `seconds` because of `side`."""
        self.waits[side] += seconds

    def _sample(self) -> None:
        now = self._clock()
        self._samples.append((now, self.downloaded, dict(self.waits)))
        while len(self._samples) > 2 and now - self._samples[1][0] >= WINDOW_SECONDS:
            self._samples.popleft()

    def progress(self) -> Progress:
        """A frozen snapshot."""
        since, downloaded, waits = self._samples[0]
        seconds = self._clock() - since
        rate = (self.downloaded - downloaded) / seconds if seconds > 0 else 0.0
        eta = (self.total - self.downloaded) / rate if self.total is not None and rate > 0 else None
        recent = {side: self.waits[side] - waits[side] for side in self.waits}
        slowest = max(recent, key=lambda side: recent[side])
        waiting_on = slowest if recent[slowest] > 0 else None
        return Progress(
            bytes_downloaded=self.downloaded,
            bytes_total=self.total,
            bytes_written=self.written,
            rate=rate,
            eta=eta,
            waiting_on=waiting_on,
            slow_disk=self._slow_disk() if waiting_on == DISK else None,
            connections=self._connections(),
            waits=dict(self.waits),
        )
