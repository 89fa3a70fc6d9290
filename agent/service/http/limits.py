"""The bounds of the API's listeners, in one record; docs/api.md states them."""

from dataclasses import dataclass

from agent.service.http.quotas import Quotas
from agent.service.http.request_head import MAX_HEAD_BYTES

_CONNECTIONS = Quotas(network=640, local=368, root=16)
_LONG_WAITS = Quotas(network=256, local=192, root=16)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of all listeners together. Times are seconds, sizes are bytes."""

    connections: Quotas = _CONNECTIONS
    """Those of the network hold about 290 KiB each, nearly all of it asyncio's buffers for TLS (measured)."""
    per_address: int = 256
    """Connections that one address may have, or one IPv6 network of 64 bits."""
    long_waits: Quotas = _LONG_WAITS
    """Streams of events and long polls: a connection that only listens is kept for as long as its client likes."""
    request_seconds: float = 30.0
    """From a request's first byte, or from the connection's start, to the last byte of its body; TLS included."""
    idle_seconds: float = 75.0
    """Between an answer and the next request."""
    answer_seconds: float = 60.0
    """For which bytes of an answer may wait to be taken by the client."""
    linger_seconds: float = 5.0
    """How long the rest of a body is taken in after it was refused, so that the client gets to read why."""
    tls_shutdown_seconds: float = 5.0
    """For the client's part of TLS' goodbye."""
    head_bytes: int = MAX_HEAD_BYTES
    """Of a request's head, and of what is sent ahead while a request is being answered."""
    line_bytes: int = 8190
    """One header, and the request line."""


DEFAULT = Limits()
