"""One connection's bounds and its time, without the connection: the arithmetic of `agent.service.api.server`. Pure."""

from dataclasses import dataclass

from aiohttp import StreamReader

from agent.service.api.heads import MAX_HEAD_BYTES
from agent.service.api.places import Shares

_CONNECTIONS = Shares(network=640, local=368, root=16)
_WAITING = Shares(network=256, local=192, root=16)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of all listeners together. Times are seconds, sizes are bytes."""

    connections: Shares = _CONNECTIONS
    """Those of the network hold about 290 KiB each, nearly all of it asyncio's buffers for TLS (measured)."""
    per_address: int = 256
    """Connections that one address may have, or one IPv6 network of 64 bits."""
    waiting: Shares = _WAITING
    """Streams of events and long polls: a connection that only listens is kept for as long as its client likes."""
    request_seconds: float = 30.0
    idle_seconds: float = 75.0
    answer_seconds: float = 60.0
    linger_seconds: float = 5.0
    """How long the rest of a body is taken in after it was refused, so that the client gets to read why."""
    tls_shutdown_seconds: float = 5.0
    head_bytes: int = MAX_HEAD_BYTES
    line_bytes: int = 8190
    """One header, and the request line."""


DEFAULT = Limits()


class Connection:
    """What is known of one connection's time. Pure: it is told what happens and asked what is overdue."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._since: float | None = now
        """When the request began that is not complete yet; None while none is on its way."""
        self._payload: StreamReader | None = None
        self._busy = False
        self._ahead = 0
        """Bytes of a head, or behind a request that is being answered, as far as nobody has looked at them."""
        self._stuck_since: float | None = None

    def received(self, length: int, now: float) -> bool:
        """Bytes came; False if they are more than a client may send unasked."""
        if self._busy and not self._complete():
            return True  # the body of the request: its length is the reader's business
        too_many = self._ahead > self._limits.head_bytes
        self._ahead += length
        if self._since is None and not self._busy:
            self._since = now
        return not too_many

    def began(self, payload: StreamReader, now: float) -> None:
        """A request's head is complete, its handler begins."""
        self._busy, self._payload, self._ahead = True, payload, 0
        if self._since is None:
            self._since = now

    def answered(self) -> None:
        """The answer has been handed to the transport. What is missing of the body is still waited for."""
        self._busy, self._ahead = False, 0
        if self._complete():
            self._since = self._payload = None

    @property
    def is_answering(self) -> bool:
        """Whether a request that is here to its end is being answered."""
        return self._busy and self._complete()

    def _complete(self) -> bool:
        return self._payload is not None and self._payload.is_eof()

    def stuck(self, now: float) -> None:
        """Bytes of an answer wait to be taken by the client."""
        self._stuck_since = now

    def taken(self) -> None:
        """None wait any more."""
        self._stuck_since = None

    def overdue(self, now: float) -> str | None:
        """Why the connection has to be closed; None if it may stay."""
        if self._stuck_since is not None and now - self._stuck_since >= self._limits.answer_seconds:
            return "answer_not_taken"
        waiting = self._since is not None and not self._complete()
        if waiting and self._since is not None and now - self._since >= self._limits.request_seconds:
            return "request_not_complete"
        return None
