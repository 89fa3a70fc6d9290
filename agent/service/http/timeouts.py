"""What one connection is doing, and what of it is overdue: the clock of `agent.service.http.connection`. Pure."""

from aiohttp import StreamReader

from agent.service.http.limits import Limits


class ConnectionTimeouts:
    """The times of one connection. It is told what happens, with the loop's clock, and asked what is overdue."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._incomplete_since: float | None = now
        """When the request began that is not here to its end yet; None while none is on its way."""
        self._body: StreamReader | None = None
        """Of the request that is being answered, or whose rest is still to come after the answer."""
        self._handling = False
        self._unread_bytes = 0
        """Of a head that is not complete, or behind the request that is being answered."""
        self._blocked_since: float | None = None

    def received(self, length: int, now: float) -> bool:
        """Bytes came; False if they are more than a client may send unasked."""
        if self._handling and not self._body_is_complete():
            return True  # the body of the request: whoever reads it bounds it
        too_many = self._unread_bytes > self._limits.head_bytes
        self._unread_bytes += length
        if self._incomplete_since is None and not self._handling:
            self._incomplete_since = now
        return not too_many

    def request_began(self, body: StreamReader, now: float) -> None:
        """A request's head is complete, its handler begins."""
        self._handling, self._body, self._unread_bytes = True, body, 0
        if self._incomplete_since is None:
            self._incomplete_since = now

    def request_answered(self) -> None:
        """The answer has been handed to the transport. What is missing of the body is still waited for."""
        self._handling, self._unread_bytes = False, 0
        if self._body_is_complete():
            self._incomplete_since = self._body = None

    def writing_blocked(self, now: float) -> None:
        """Bytes of an answer wait to be taken by the client."""
        self._blocked_since = now

    def writing_resumed(self) -> None:
        """None wait any more."""
        self._blocked_since = None

    @property
    def is_answering(self) -> bool:
        """Whether a request that is here to its end is being answered."""
        return self._handling and self._body_is_complete()

    def overdue(self, now: float) -> str | None:
        """Why the connection has to be closed, as the log names it; None if it may stay."""
        if self._blocked_since is not None and now - self._blocked_since >= self._limits.answer_seconds:
            return "answer_not_taken"
        since = None if self._body_is_complete() else self._incomplete_since
        if since is not None and now - since >= self._limits.request_seconds:
            return "request_not_complete"
        return None

    def _body_is_complete(self) -> bool:
        return self._body is not None and self._body.is_eof()
