"""How many connections a transfer wants: decided from its rate alone. Pure.

It begins with one. While the network is what is waited for, twice as many are tried; they stay if the rate grows and go
if it does not, and the next try is then made ever later. Nothing is tried while disk or processor are slower than the
network, or while receiving keeps its own processor busy, as over a loopback.
"""

from dataclasses import dataclass

from agent.units import MiB

MOST_CONNECTIONS = 8
"""To all servers of a transfer together, unless the caller says otherwise."""
WORTH = 64 * MiB
"""With less of the file left than this, nothing is tried."""
ALONE = 300_000_000
"""Bytes a second. A single connection that brings so much is held back by nothing that another one would not be."""
ENOUGH = 600_000_000
"""Bytes a second, of several. Above, no more are tried: one thread receives for all."""
GROWTH = 1.2
"""Twice as many connections have to bring so many times as much, in two windows in a row: one may be chance."""
LEAP = 1.6
"""Or so many times as much in one."""
SETTLED = 1.25
"""A single connection that brings more than so many times what it did a window before is still growing by itself."""
WAITING = 0.6
"""More are tried where so much of the time is spent on waiting for the network."""
IDLE = 0.1
"""Half of them go where no more of the time than this is, for `IDLE_SECONDS` on end: a disk pauses now and then."""
IDLE_SECONDS = 5.0
WINDOW_SECONDS = 0.15
"""A rate is taken over so much time at least."""
TRIAL_SECONDS = 2.0
"""A try that has shown no growth by then has failed."""
HOLD_SECONDS = 15.0
"""The first pause after a try that failed; each further one is twice as long."""
HOLD_CAP = 480.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A transfer at one moment. Only differences count."""

    now: float
    """Monotonic seconds."""
    received: int
    """Bytes."""
    waited: float
    """Seconds in which the network was waited for."""


class Ramp:
    """Wants `count` connections, never more than `most`."""

    worth = WORTH
    """Bytes that have to be left of the file for a beginning."""

    def __init__(self, most: int = MOST_CONNECTIONS) -> None:
        self.most = most
        self.count = 1
        self.rate = 0.0
        """Bytes a second, lately."""
        self._mark: Sample | None = None
        self._before = 0.0  # bytes a second, and
        self._fallback = 1  # connections, before the try
        self._deadline: float | None = None  # of a try
        self._grown = False  # in the last window
        self._idle_since: float | None = None
        self._hold = HOLD_SECONDS
        self._held_until = 0.0

    def observe(self, sample: Sample) -> None:
        """Look at the transfer, as often as is convenient."""
        mark = self._mark
        if mark is None or sample.received < mark.received:
            self._mark = sample
            return
        seconds = sample.now - mark.now
        if seconds < WINDOW_SECONDS:
            return
        self._mark = sample
        rate, last = (sample.received - mark.received) / seconds, self.rate
        self.rate = rate
        if self._deadline is not None:
            self._judge(sample.now, rate)
        if self._deadline is None and (self.count > 1 or rate <= SETTLED * last):
            self._consider(sample.now, rate, (sample.waited - mark.waited) / seconds)

    def refuse(self, now: float, standing: int) -> None:
        """A connection could not be had, or brought nothing: there are only so many."""
        self._give_up(now, standing)

    def _judge(self, now: float, rate: float) -> None:
        """Whether a try has succeeded, has failed, or goes on."""
        grown = rate >= GROWTH * self._before
        if rate >= LEAP * self._before or (grown and self._grown):
            self._deadline, self._hold = None, HOLD_SECONDS
        elif self._deadline is not None and now >= self._deadline:
            self._give_up(now, self._fallback)
        self._grown = grown

    def _consider(self, now: float, rate: float, share: float) -> None:
        """Whether to try more, or to have fewer; `share` is that of the time in which the network was waited for."""
        slow = rate < (ALONE if self.count == 1 else ENOUGH)
        if slow and share >= WAITING and self.count < self.most and now >= self._held_until:
            self._before, self._fallback = rate, self.count
            self.count = min(2 * self.count, self.most)
            self._deadline, self._grown = now + TRIAL_SECONDS, False
        if share >= IDLE:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= IDLE_SECONDS:
            self.count, self._idle_since = max(1, self.count // 2), now

    def _give_up(self, now: float, count: int) -> None:
        self.count = max(1, min(count, self.count))
        self._deadline = None
        self._held_until = now + self._hold
        self._hold = min(2 * self._hold, HOLD_CAP)
