"""How long to wait before another try: full jitter under a ceiling that doubles, and what the other side asks for.

For whoever asks over a network: the HTTP source, and the client of the control plane. Pure but for the dice, which are
injected; nothing here sleeps.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffLimits:
    """The longest waits, in seconds."""

    backoff_base: float = 1.0
    """The longest first wait; it doubles with every further failure."""
    backoff_cap: float = 30.0
    """The longest wait of our own choice."""
    retry_after_cap: float = 120.0
    """The longest wait that a server can ask for by Retry-After."""


class Backoff:
    """Counts failures in a row, and says how long to wait after each."""

    def __init__(self, limits: BackoffLimits, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self.failures = 0
        """So many since the last success."""

    def succeed(self) -> None:
        """The next failure is the first one again."""
        self.failures = 0

    def fail(self, retry_after: str | None = None) -> float:
        """Count a failure.

        Args:
            retry_after: the raw Retry-After header of the answer, if there was one.

        Returns:
            Seconds to wait before the next try.
        """
        self.failures += 1
        return retry_delay(self.failures, retry_after, self._limits, self._rng)


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


def backoff_ceiling(failures: int, limits: BackoffLimits) -> float:
    """The longest wait after so many failures in a row (1 or more); the wait is drawn from 0 up to it."""
    return min(limits.backoff_cap, limits.backoff_base * 2.0 ** min(failures - 1, 32))


def retry_delay(failures: int, retry_after: str | None, limits: BackoffLimits, rng: random.Random) -> float:
    """Seconds to wait before the next attempt: full jitter, but never shorter than the server asked for."""
    delay = rng.uniform(0.0, backoff_ceiling(failures, limits))
    asked = parse_retry_after(retry_after, datetime.now(UTC)) if retry_after else None
    return delay if asked is None else max(delay, min(asked, limits.retry_after_cap))
