"""One connection to the API: aiohttp's protocol, with bounds, and with refusals of its own as JSON objects.

Made by the accept loop before the TLS handshake, and held by the server until it is closed and its handler has ended.
It tells `ConnectionTimeouts` what happens on it; the server asks it at intervals whether something is overdue.
"""

import asyncio
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import structlog
from aiohttp import web

from agent.service.http.aiohttp_internals import RequestHandler
from agent.service.http.errors import ApiError, error_of_status
from agent.service.http.limits import Limits
from agent.service.http.middleware import error_response, response_of
from agent.service.http.quotas import QuotaCounter
from agent.service.http.sockets import ListeningSocket
from agent.service.http.timeouts import ConnectionTimeouts
from agent.service.jobs.caller import Caller
from agent.service.jobs.peer import Peer

log = structlog.get_logger(__name__)

# poll(2) reports unasked that both halves of a connection are closed.
_BOTH_CLOSED = 0
_CANCELLABLE = web.RequestKey("cancellable", bool)


class Owner(Protocol):
    """What a connection needs of the server that holds it."""

    handlers: web.Server
    limits: Limits
    long_waits: QuotaCounter

    def admit(self, connection: "Connection") -> bool:
        """Hold a new connection; False: there is no room for it, it has to be closed."""

    def authenticated(self, connection: "Connection") -> None:
        """A request on it has shown a right credential."""

    def closed(self, connection: "Connection") -> None:
        """It is over, and so is its handler. May be called twice."""


class Connection(RequestHandler):
    """One client's connection, from the accept on."""

    __slots__ = (
        "_caller",
        "_certificates",
        "_client",
        "_dropped",
        "_half_closed",
        "_link",
        "_orphan",
        "_over_tls",
        "_trust",
        "owner",
        "peer",
        "timeouts",
    )

    def __init__(self, owner: Owner, client: socket.socket, peer: Peer, listener: ListeningSocket) -> None:
        """A connection that was accepted, and has had no handshake yet.

        Args:
            owner: the server.
            client: the accepted socket; closed by whoever accepted it, or by its transport.
            peer: who is at its other end.
            listener: that accepted it.
        """
        limits, loop = owner.limits, asyncio.get_running_loop()
        super().__init__(
            owner.handlers,
            loop=loop,
            keepalive_timeout=limits.idle_seconds,
            access_log=None,  # type: ignore[arg-type]
            lingering_time=limits.linger_seconds,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            # A body is taken as it was sent: signatures are of those bytes, and nothing unpacks to a huge one.
            auto_decompress=False,
        )
        self.owner = owner
        self.peer = peer
        self.timeouts = ConnectionTimeouts(limits, loop.time())
        self._client = client
        self._certificates = listener.certificates
        self._trust = listener.trust
        """What a client certificate was checked by, if there was one."""
        self._link: asyncio.Transport | None = None
        """The transport; None before the handshake is done and after the connection is lost."""
        self._over_tls = False
        self._half_closed = False
        """The client sends no more and still reads."""
        self._dropped = False
        self._caller: Caller | None = None
        """Who authenticated last."""
        self._orphan: asyncio.Task[None] | None = None
        """The handler, where it goes on without its client."""

    # -- called by the server ----------------------------------------------------------------------------------

    def drop_if_overdue(self, now: float) -> None:
        """Close the connection if something about it is overdue, or its client has gone."""
        gone = "client_gone" if self._half_closed and self._peer_has(_BOTH_CLOSED) else None
        reason = gone or self.timeouts.overdue(now)
        if reason is not None:
            self.drop(reason)

    def drop(self, reason: str) -> None:
        """Close the connection at once, be it in its handshake; what is not sent is not sent."""
        log.debug("connection_dropped", reason=reason)
        self._dropped = True
        if self._link is not None:
            # asyncio's TLS, closed twice, has forgotten what to abort: it is ending
            with suppress(AttributeError):
                self._link.abort()
        else:
            with suppress(OSError):  # the client has gone already
                self._client.shutdown(socket.SHUT_RDWR)

    def evict(self) -> None:
        """Close it: another connection has its place now."""
        self.drop("gave_way")

    def authenticated(self, caller: Caller) -> None:
        """A request on it came from this caller."""
        self._caller = caller
        self.owner.authenticated(self)

    def is_outdated(self, is_current: Callable[[Caller], bool]) -> bool:
        """Whether what let this connection in, or may do so in its handshake, is not taken any more."""
        if self._caller is not None and not is_current(self._caller):
            return True
        if self._certificates is None or self._certificates.trust == self._trust:
            return False
        return self._link is None or bool(self._link.get_extra_info("peercert"))

    def cancel_orphan(self) -> None:
        """Cancel the handler that goes on without its client."""
        if self._orphan is not None:
            self._orphan.cancel()

    # -- called by the event loop ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done, where there is one."""
        if isinstance(transport, asyncio.Transport):
            self._link = transport
            self._over_tls = transport.get_extra_info("sslcontext") is not None
            # So that each of `pause_writing` and `resume_writing` means what it says: bytes wait, or none.
            transport.set_write_buffer_limits(high=1, low=0)
        super().connection_made(transport)
        if self._dropped and self._link is not None:
            self._link.abort()  # dropped while its handshake came to its end

    def connection_lost(self, exc: BaseException | None) -> None:
        """The transport is gone. A handler may go on for a while: until it ends the connection is counted."""
        handler, request = self.handler_task, self.current_request
        may_end = request is not None and request.get(_CANCELLABLE, False)
        super().connection_lost(exc)
        self._link = None
        if handler is None or handler.done():
            self.owner.closed(self)
        else:
            self._orphan = handler
            handler.add_done_callback(lambda _: self.owner.closed(self))
            if may_end:
                handler.cancel()

    def pause_writing(self) -> None:
        """Bytes of an answer wait for the client."""
        self.timeouts.writing_blocked(asyncio.get_running_loop().time())
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has taken all of them."""
        self.timeouts.writing_resumed()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes came; aiohttp calls this too, without any, to go on with what it has."""
        if self._dropped:
            return
        if data and not self.timeouts.received(len(data), asyncio.get_running_loop().time()):
            self.drop("sent_too_much")
        else:
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. On the Unix socket it is answered all that it asked, if it is still there.

        Over TLS the transport closes whatever is returned here: asyncio's TLS drops what is written after the
        client's end.
        """
        self._half_closed = not self._over_tls and not self._peer_has(_BOTH_CLOSED)
        return self._half_closed and (self.has_requests_ahead or self.timeouts.is_answering)

    # -- called by aiohttp -------------------------------------------------------------------------------------

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002
        """An answer has been written, whatever became of it."""
        self.timeouts.request_answered()
        if self._half_closed and not self.has_requests_ahead:
            self.close()
        # aiohttp stops reading when it holds all the requests that it takes ahead. asyncio's TLS does not report the
        # client's end then, and logs a warning for each answer that it drops.
        if self.has_requests_ahead and self._over_tls and self._peer_has(select.POLLRDHUP):
            self.drop("client_ended")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer. Those that no middleware saw come here as well: they get a body like all others.

        An unauthenticated client gets one answer: connections that stay would keep others out, and each guess at a
        credential costs a handshake.
        """
        if isinstance(resp, web.HTTPException):
            resp = response_of(resp)
        if self.peer.is_remote and self._caller is None:
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """The answer to a head that cannot be parsed. What was sent is neither logged nor answered."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        log.debug("request_refused", status=status, fault=type(exc).__name__)
        answer = error_response(error_of_status(status))
        answer.force_close()
        return answer

    def _peer_has(self, event: int) -> bool:
        """Whether the client has closed both halves of the connection, or only the one (`select.POLLRDHUP`)."""
        number = self._client.fileno()
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, event)
        return bool(poll.poll(0))


# -- called by handlers --------------------------------------------------------------------------------------------


def authenticated(request: web.BaseRequest, caller: Caller) -> None:
    """The caller of this request has shown a right credential: its connection is not evicted any more."""
    if isinstance(request.protocol, Connection):
        request.protocol.authenticated(caller)


@contextmanager
def long_wait(request: web.BaseRequest) -> Iterator[None]:
    """For a handler that only waits for something to tell its client: a stream of events, or a long poll.

    The wait is charged to the caller's quota, and the handler is cancelled in it when the client goes away. Elsewhere a
    handler goes on without its client: what it does concerns others too.

    Raises:
        ApiError: 503 where the quota is used up.
    """
    with _charged(request.protocol):
        request[_CANCELLABLE] = True
        try:
            yield
        finally:
            request[_CANCELLABLE] = False


@contextmanager
def _charged(connection: web.RequestHandler) -> Iterator[None]:
    if not isinstance(connection, Connection):  # another server's, which has bounds of its own
        yield
        return
    long_waits = connection.owner.long_waits
    kind = long_waits.acquire(connection.peer)
    if kind is None:
        message = "Too many clients follow this server in long polls and streams of events; try again."
        raise ApiError(503, message, error_code="TOO_MANY_STREAMS", headers={"Retry-After": "5"})
    try:
        yield
    finally:
        long_waits.release(kind)
