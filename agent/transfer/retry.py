"""When an HTTP transfer tries again and when it gives up: limits, faults, waits, and the clock for stalls.

Owned by the HTTP source. Decisions are plain functions here; only `Retry.wait` awaits, and only its injected
sleep. No text of a fault holds a header value, userinfo or a value of a query.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from agent.errors import Blame
from agent.units import KiB, format_duration, format_size

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})
"""Answers that another try may mend (RFC 9110, RFC 6585, RFC 8470; 520 to 530 are those of content delivery networks
whose origin fails); every other error status is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """How patient a transfer is. Seconds, bytes and counts."""

    connect_seconds: float = 30.0
    """Until a connection stands: name, TCP, proxy and TLS together."""
    head_seconds: float = 60.0
    """From there until the head of the response is complete."""
    stall_seconds: float = 60.0
    """Without a single byte the connection is dropped after this time."""
    window_seconds: float = 60.0
    """The time over which the rate is averaged."""
    floor_rate: int = 4 * KiB
    """Bytes a second. A connection that stays below it for a whole window is dropped as stalled, and what a transfer
    brings below it, connecting and waiting included, is no progress."""
    attempts: int = 6
    """Failures in a row, without progress between them, after which the transfer fails."""
    restarts: int = 3
    """How often a transfer that cannot be resumed may start again from byte 0."""
    backoff_base: float = 1.0
    """The longest first wait; it doubles with every further failure."""
    backoff_cap: float = 30.0
    """The longest wait of our own choice."""
    retry_after_cap: float = 120.0
    """The longest wait that a server can ask for by Retry-After."""
    redirects: int = 10
    """Redirects followed for one request."""


DEFAULT_LIMITS = HttpLimits()


class TransientFault(Exception):
    """A fault of the connection or of a busy server.

    Args:
        reason: what happened, fit for the user.
        retry_after: the raw Retry-After header of the answer, if there was one.
        hint: what to do about it when the attempts are used up.
    """

    def __init__(self, reason: str, *, retry_after: str | None = None, hint: str = "") -> None:
        self.hint = hint
        self.retry_after = retry_after
        super().__init__(reason)


class FatalFault(Exception):
    """A fault that ends the transfer.

    Args:
        reason: what happened, fit for the user.
        hint: what to do about it.
        blame: who has to mend it; the servers on the way are of the network.
        retryable: whether the same transfer may work later.
    """

    def __init__(
        self, reason: str, *, hint: str = "", blame: Blame = Blame.NETWORK, retryable: bool = False
    ) -> None:
        self.hint = hint
        self.blame = blame
        self.retryable = retryable
        super().__init__(reason)


class ChangedFault(Exception):
    """The file behind the URL is not the one that the transfer began with."""


class EventHook(Protocol):
    """Is told what the source does, for the status. It must return at once and not raise."""

    def __call__(self, event: str, details: Mapping[str, object], /) -> None:
        """Take one event.

        `retrying` has `reason`, `delay` (seconds), `attempt`, `attempts`, `position`; `resumed` has
        `position` (bytes); `restarted` has `restart`, `restarts`; `redirected` has `url` (redacted).
        """


def ignore_events(_event: str, _details: Mapping[str, object], /) -> None:
    """The hook for callers that do not listen."""


def parse_retry_after(value: str, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks for: a count or an HTTP date (RFC 9110, section 10.2.3).

    Returns:
        At least 0; None where the value is neither.
    """
    text = value.strip()[:64]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # no date, or numbers that no date can hold
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def backoff_ceiling(failures: int, limits: HttpLimits) -> float:
    """The longest wait after so many failures in a row (1 or more); the wait is drawn from 0 up to it."""
    return min(limits.backoff_cap, limits.backoff_base * 2.0 ** min(failures - 1, 32))


def retry_delay(failures: int, retry_after: str | None, limits: HttpLimits, rng: random.Random) -> float:
    """Seconds to wait before the next attempt: full jitter, but never shorter than the server asked for."""
    delay = rng.uniform(0.0, backoff_ceiling(failures, limits))
    asked = parse_retry_after(retry_after, datetime.now(UTC)) if retry_after else None
    return delay if asked is None else max(delay, min(asked, limits.retry_after_cap))


class Retry:
    """Counts the failures of a transfer without progress between them, and waits between attempts.

    Progress is the floor of the rate over all the time since the last progress, connecting and waiting included, and
    at least a second's worth of it. A server that cuts each connection after a few bytes cannot go on for ever.
    """

    def __init__(
        self,
        limits: HttpLimits,
        *,
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
        rng: random.Random,
        on_event: EventHook,
    ) -> None:
        self._limits = limits
        self._sleep = sleep
        self._clock = clock
        self._rng = rng
        self._on_event = on_event
        self._failures = 0
        self._gained = 0  # bytes since the last progress
        self._idle_since = self._since = clock()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Somebody asks for bytes while the block runs; time between such blocks does not count."""
        self._since += self._clock() - self._idle_since
        try:
            yield
        finally:
            self._idle_since = self._clock()

    def note(self, count: int) -> None:
        """So many bytes came."""
        self._gained += count

    def _is_progress(self) -> bool:
        seconds = max(1.0, self._clock() - self._since)
        return self._gained >= self._limits.floor_rate * seconds

    async def wait(self, fault: TransientFault, *, position: int, total: int | None) -> None:
        """Count a failure, and wait until the next attempt is due.

        Args:
            fault: what went wrong.
            position: bytes received so far.
            total: bytes of the whole file, None where unknown.

        Raises:
            FatalFault: the attempts are used up.
        """
        if self._is_progress():
            self._failures, self._gained, self._since = 0, 0, self._clock()
        self._failures += 1
        if self._failures >= self._limits.attempts:
            place = f"byte {position}" if total is None else f"byte {position} of {total}"
            raise FatalFault(
                f"{fault}, at {place}, after {self._failures} attempts", hint=fault.hint, retryable=True
            )
        delay = retry_delay(self._failures, fault.retry_after, self._limits, self._rng)
        self._on_event(
            "retrying",
            {
                "reason": str(fault),
                "delay": delay,
                "attempt": self._failures,
                "attempts": self._limits.attempts,
                "position": position,
            },
        )
        await self._sleep(delay)


class Pace:
    """Finds a connection that stalls or trickles; time in which nobody asks for bytes does not count.

    A window that is over is judged as a whole, so a trickle is found after one window at the earliest and two
    at the latest.
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
        if self._window_bytes < limits.floor_rate * elapsed:
            rate = format_size(self._window_bytes / elapsed)
            return TransientFault(f"only {rate}/s came for {format_duration(elapsed)}")
        self._window_start = now
        self._window_bytes = 0
        return None
