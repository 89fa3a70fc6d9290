"""How a transfer over HTTP is made, whatever comes: one plain object, handed down from where a URL is opened.

It needs nothing of aiohttp: `agent.transfer.open` hands it on before that is loaded.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from agent.transfer.http.attempts import Attempts
from agent.transfer.http.limits import DEFAULT_LIMITS, HttpLimits
from agent.transfer.source import EventHook, ignore_events


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """What all requests of one transfer have in common."""

    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    """Names and values to send to the origin of the URL, and to no other."""
    ca_file: str | None = None
    """A bundle of CA certificates (PEM) for https in place of the system's."""
    limits: HttpLimits = DEFAULT_LIMITS
    """How patient it is."""
    on_event: EventHook = ignore_events
    """Is told about retries, resumptions and redirects."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits so many seconds between attempts."""
    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds."""
    rng: random.Random = field(default_factory=random.Random)
    """The jitter of the waits."""

    def attempts(self) -> Attempts:
        """The attempts at one place."""
        return Attempts(self.limits, sleep=self.sleep, clock=self.clock, rng=self.rng, on_event=self.on_event)
