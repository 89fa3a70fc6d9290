"""How patient an HTTP transfer is."""

from dataclasses import dataclass

from agent.transfer.retry import BackoffLimits
from agent.units import KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits(BackoffLimits):
    """How patient a transfer is. Seconds, bytes and counts."""

    connect_seconds: float = 30.0
    """Until a connection stands: name, TCP, proxy and TLS together."""
    head_seconds: float = 60.0
    """From there until the head of the response is complete."""
    stall_seconds: float = 60.0
    """Without a single byte the connection is dropped after this time."""
    window_seconds: float = 60.0
    """The time over which the rate is averaged."""
    min_rate: int = 4 * KiB
    """Bytes a second. A connection that stays below it for a whole window is dropped as stalled, and what a transfer
    brings below it, connecting and waiting included, is no progress."""
    attempts: int = 6
    """Failures in a row, without progress between them, after which the transfer fails."""
    restarts: int = 3
    """How often a transfer that cannot be resumed may start again from byte 0."""
    small_file_seconds: float = 300.0
    """For a file that belongs to the image, such as a checksum file, from first to last, all attempts included."""
    redirects: int = 10
    """Redirects followed for one request."""


DEFAULT_LIMITS = HttpLimits()
