"""When an HTTP transfer tries again, and when it gives up."""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from agent.transfer.http.faults import FatalFault, TransientFault
from agent.transfer.http.limits import HttpLimits
from agent.transfer.retry import Backoff
from agent.transfer.source import EventHook


class Attempts:
    """Counts the failures of a transfer without progress between them, and waits between attempts.

    Progress is what `min_rate` brings in all the time since the last progress, connecting and waiting included, and
    at least in a second. A server that cuts each connection after a few bytes cannot go on for ever.
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
        self._backoff = Backoff(limits, rng)
        self._sleep = sleep
        self._clock = clock
        self._on_event = on_event
        self._gained = 0  # bytes since the last progress
        self._idle_since = self._since = clock()

    @property
    def failures(self) -> int:
        """Failures in a row, without progress between them."""
        return self._backoff.failures

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
        return self._gained >= self._limits.min_rate * seconds

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
            self._backoff.succeed()
            self._gained, self._since = 0, self._clock()
        delay = self._backoff.fail(fault.retry_after)
        failures = self._backoff.failures
        if failures >= self._limits.attempts:
            place = f"byte {position}" if total is None else f"byte {position} of {total}"
            raise FatalFault(
                f"{fault}, at {place}, after {failures} attempts", hint=fault.hint, retryable=True
            )
        self._on_event(
            "retrying",
            {
                "reason": str(fault),
                "delay": delay,
                "attempt": failures,
                "attempts": self._limits.attempts,
                "position": position,
            },
        )
        await self._sleep(delay)
