"""The clock for connections that stall or trickle."""

from collections.abc import Callable

from agent.transfer.http.faults import TransientFault
from agent.transfer.http.limits import HttpLimits
from agent.units import format_duration, format_size


class Pace:
    """Finds a connection that sends nothing (a stall) or too little (a trickle).

    Time in which nobody asks for bytes does not count. The rate is taken over whole windows, one after the other, so a
    trickle is found after one window at the earliest and two at the latest.
    """

    def __init__(self, limits: HttpLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._idle_since = self._last_byte = self._window_start = clock()
        self._window_bytes = 0

    def begin(self) -> None:
        """Somebody asks for bytes from now on."""
        idle = self._clock() - self._idle_since
        self._last_byte += idle
        self._window_start += idle

    def end(self) -> None:
        """Nobody asks for bytes any more; what follows is our own back-pressure."""
        self._idle_since = self._clock()

    def note(self, count: int) -> None:
        """So many bytes came."""
        self._last_byte = self._clock()
        self._window_bytes += count

    def patience(self) -> float:
        """Seconds until `verdict` has something to say; never less than 10 ms."""
        due = min(
            self._last_byte + self._limits.stall_seconds,
            self._window_start + self._limits.window_seconds,
        )
        return max(0.01, due - self._clock())

    def verdict(self) -> TransientFault | None:
        """The fault of a connection that is too slow, or None."""
        now = self._clock()
        limits = self._limits
        if now - self._last_byte >= limits.stall_seconds:
            return TransientFault(f"no byte came for {limits.stall_seconds:g} s")
        elapsed = now - self._window_start
        if elapsed < limits.window_seconds:
            return None
        if self._window_bytes < limits.min_rate * elapsed:
            rate = format_size(self._window_bytes / elapsed)
            return TransientFault(f"only {rate}/s came for {format_duration(elapsed)}")
        self._window_start = now
        self._window_bytes = 0
        return None
