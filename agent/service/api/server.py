"""The listeners' bounds: how many may be connected, and how long each may take.

| bound | what happens beyond it |
|---|---|
| connections at once | a stranger of the network gives way, else the next one is closed at once |
| streams and long polls at once | the next one is answered with 503 |
| answers to a stranger of the network: one | the connection is closed |
| the time until a request's head and body are here, TLS handshake included | the connection is closed |
| the size of a request's head, and of what is sent ahead of an answer | the connection is closed |
| the time between requests | the connection is closed |
| the time until an answer is taken, streams included | the connection is closed |

The network, the Unix socket and root on it have places of their own, and none takes those of another (`places.py`,
`crowd.py`).

aiohttp has a time-out for idle connections only. So connections are accepted here, before any handshake, and handed to
a protocol of aiohttp's that also tells when bytes came and answers went; one task looks at all of them at intervals.
Everything lives in one TaskGroup: `serve` returns when nothing of it is left.
"""

import asyncio
import errno
import resource
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import structlog
from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict

from agent.aio import run_blocking
from agent.service.api.connection import DEFAULT, Connection, Limits
from agent.service.api.crowd import Crowd
from agent.service.api.errors import ApiError, error_of_status
from agent.service.api.middleware import error_response, response_of
from agent.service.api.places import Places, Shares
from agent.service.api.sockets import Listener
from agent.service.jobs.caller import Caller
from agent.service.jobs.peer import Peer, peer_of
from agent.units import KiB

log = structlog.get_logger(__name__)

# Out of file descriptors or memory, or a fault of the listener: connections stay in the kernel's queue for so long.
_ACCEPT_PAUSE = 0.5
# accept(2): the client, or the network to it, was gone before it was taken. The next one may be well.
_CLIENT_GONE = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    }
)
# File descriptors that are not for connections: disks, downloads, child processes.
_OTHER_DESCRIPTORS = 256
# What the kernel keeps of answers that nobody takes, for each connection.
_SEND_BUFFER = 64 * KiB
# poll(2) tells unasked that both halves of a connection are closed.
_GONE = 0
BadCertificate = Callable[[Peer, str], None]
_ABANDONABLE = web.RequestKey("abandonable", bool)


@contextmanager
def abandonable(request: web.BaseRequest) -> Iterator[None]:
    """Where a handler only waits for something to tell its client: it is cancelled there when the client goes away.

    Elsewhere a handler goes on without its client: what it does concerns others too.

    Raises:
        ApiError: 503 where too many wait already.
    """
    with _waiting(request.protocol):
        request[_ABANDONABLE] = True
        try:
            yield
        finally:
            request[_ABANDONABLE] = False


@contextmanager
def _waiting(protocol: web.RequestHandler) -> Iterator[None]:
    if not isinstance(protocol, _Protocol):  # another server's, which has bounds of its own
        yield
        return
    places = protocol.server.waiting
    kind = places.take(protocol.peer)
    if kind is None:
        message = "Too many clients follow this server in long polls and streams of events; try again."
        raise ApiError(503, message, error_code="TOO_MANY_STREAMS", headers={"Retry-After": "5"})
    try:
        yield
    finally:
        places.give_back(kind)


class _Writer(StreamWriter):
    """Writes answers that do not name what made them: whoever asks without credentials learns no versions."""

    async def write_headers(self, status_line: str, headers: "CIMultiDict[str]") -> None:
        headers.popall(hdrs.SERVER, None)
        await super().write_headers(status_line, headers)


def recognise(request: web.BaseRequest, caller: Caller) -> None:
    """The caller of this request has shown who they are: their connection is no stranger's any more."""
    protocol = request.protocol
    if isinstance(protocol, _Protocol):
        protocol.recognise(caller)


class _Protocol(web.RequestHandler):
    """aiohttp's protocol, that also tells what happens, and whose own refusals are JSON objects."""

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
        "connection",
        "peer",
        "server",
    )

    def __init__(
        self, server: "Server", connection: Connection, client: socket.socket, peer: Peer, listener: Listener
    ) -> None:
        limits = server.limits
        super().__init__(
            server.server,
            loop=server.loop,
            keepalive_timeout=limits.idle_seconds,
            access_log=None,  # type: ignore[arg-type]
            lingering_time=limits.linger_seconds,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            # A body is taken as it was sent: signatures are of those bytes, and nothing unpacks to a huge one.
            auto_decompress=False,
        )
        self.server = server
        self._client = client
        self.peer = peer
        self._certificates = listener.certificates
        self._trust = listener.trust
        self._half_closed = self._over_tls = False
        self._link: asyncio.Transport | None = None
        self._dropped = False
        self._caller: Caller | None = None
        """Who was recognised last."""
        self._orphan: asyncio.Task[None] | None = None
        self.connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._link = transport
            self._over_tls = transport.get_extra_info("sslcontext") is not None
            # So that each of `pause_writing` and `resume_writing` means what it says: bytes wait, or none.
            transport.set_write_buffer_limits(high=1, low=0)
        super().connection_made(transport)
        if self._dropped and self._link is not None:
            self._link.abort()  # its handshake was faster

    def connection_lost(self, exc: BaseException | None) -> None:
        # A handler may go on for a while without its client: until it ends the connection is counted.
        handler, request = self._task_handler, self._current_request
        may_end = request is not None and request.get(_ABANDONABLE, False)
        super().connection_lost(exc)
        self._link = None
        if handler is None or handler.done():
            self.server.left(self)
        else:
            self._orphan = handler
            handler.add_done_callback(lambda _: self.server.left(self))
            if may_end:
                handler.cancel()

    def cancel_orphan(self) -> None:
        """Cancel the handler that goes on without its client."""
        if self._orphan is not None:
            self._orphan.cancel()

    def pause_writing(self) -> None:
        self.connection.stuck(self._loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        self.connection.taken()
        super().resume_writing()

    def recognise(self, caller: Caller) -> None:
        """A request came from this caller."""
        self._caller = caller
        self.server.crowd.recognise(self)

    def is_outdated(self, is_current: Callable[[Caller], bool]) -> bool:
        """Whether what this connection was let in by, or may be in its handshake, is not taken any more."""
        if self._caller is not None and not is_current(self._caller):
            return True
        if self._certificates is None or self._certificates.trust == self._trust:
            return False
        return self._link is None or bool(self._link.get_extra_info("peercert"))

    def data_received(self, data: bytes) -> None:
        if self._dropped:
            return
        if data and not self.connection.received(len(data), self._loop.time()):
            self.drop("sent_too_much")
        else:
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. On the Unix socket it is answered all that it asked, if it is still there.

        asyncio's TLS drops whatever is written after this.
        """
        self._half_closed = not self._over_tls and not self._peer_has(_GONE)
        return self._half_closed and (bool(self._messages) or self.connection.is_answering)

    def _peer_has(self, event: int) -> bool:
        """Whether the client has closed both halves of the connection, or only the one (`select.POLLRDHUP`)."""
        number = self._client.fileno()
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, event)
        return bool(poll.poll(0))

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002
        """Called when an answer has been written, whatever became of it."""
        self.connection.answered()
        if self._half_closed and not self._messages:
            self.close()
        # While aiohttp holds all that it takes ahead, asyncio's TLS tells no end, and logs each answer that it drops.
        if self._messages and self._over_tls and self._peer_has(select.POLLRDHUP):
            self.drop("client_ended")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Answers that no middleware saw come here as well: they get a body like all others.

        A stranger gets one answer: connections that stay would keep others out, and a guess costs a handshake.
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

    def look(self, now: float) -> None:
        """Close the connection if something about it is overdue."""
        gone = "client_gone" if self._half_closed and self._peer_has(_GONE) else None
        reason = gone or self.connection.overdue(now)
        if reason is not None:
            self.drop(reason)

    def drop(self, reason: str) -> None:
        """Close the connection at once, be it in its handshake; what is not sent is not sent."""
        log.debug("connection_dropped", reason=reason)
        self._dropped = True
        if self._link is not None:
            with suppress(
                AttributeError
            ):  # asyncio's TLS, closed twice, has forgotten what to abort: it is ending
                self._link.abort()
        else:
            with suppress(OSError):  # the client was faster
                self._client.shutdown(socket.SHUT_RDWR)

    def give_way(self) -> None:
        """A newcomer has the place now."""
        self.drop("gave_way")


class Server:
    """All connections of one application. Made by `serve`."""

    def __init__(self, server: web.Server, limits: Limits, bad_certificate: BadCertificate) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.server = server
        self._bad_certificate = bad_certificate
        self._make_request = server.request_factory
        server.request_factory = self._begin
        self._open: set[_Protocol] = set()
        self.crowd = Crowd(_affordable(limits.connections), limits.per_address)
        self.waiting = Places(limits.waiting)
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def connections(self) -> int:
        """How many there are now, those in their handshake included."""
        return len(self._open)

    def _begin(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        _: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        """The way of aiohttp of making the request, told to the connection first."""
        if isinstance(protocol, _Protocol):
            protocol.connection.began(payload, self.loop.time())
        return self._make_request(message, payload, protocol, _Writer(protocol, self.loop), task)

    def left(self, protocol: _Protocol) -> None:
        """A connection is over, and so is its handler."""
        self.crowd.leave(protocol)
        self._open.discard(protocol)
        if not self._open:
            self._empty.set()

    async def accept(self, listener: Listener, group: asyncio.TaskGroup) -> None:
        """Take connections of a listener, for ever."""
        failure: int | None = None
        while True:
            try:
                client, _ = await self.loop.sock_accept(listener.socket)
            except OSError as error:
                if error.errno in _CLIENT_GONE:
                    await asyncio.sleep(0)  # an accept that fails at once has not given way to others
                    continue
                if error.errno != failure:  # told once, until one is taken again
                    log.warning("accept_failed", listener=listener.name, reason=error.strerror)
                failure = error.errno
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            failure = None
            protocol = self._admit(client, listener)
            if protocol is None:
                client.close()
            else:
                group.create_task(self._establish(protocol, client, listener.tls()))

    def _admit(self, client: socket.socket, listener: Listener) -> _Protocol | None:
        """Take a connection in, if there is a place for it."""
        try:
            peer = peer_of(client)
        except OSError:
            return None  # gone already
        protocol = _Protocol(self, Connection(self.limits, self.loop.time()), client, peer, listener)
        if not self.crowd.enter(protocol):
            return None
        self._open.add(protocol)
        self._empty.clear()
        return protocol

    async def _establish(
        self, protocol: _Protocol, client: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        limits = self.limits
        try:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            await self.loop.connect_accepted_socket(
                lambda: protocol,
                client,
                ssl=tls,
                ssl_handshake_timeout=limits.request_seconds if tls else None,
                ssl_shutdown_timeout=limits.tls_shutdown_seconds if tls else None,
            )
        except BaseException as error:
            client.close()
            self.left(protocol)
            # A failed handshake is an OSError; asyncio's TLS of Python 3.11 raises AttributeError, too, where a client
            # leaves in its midst. What one client does must end no other connection.
            if not isinstance(error, Exception):
                raise
            if isinstance(error, ssl.SSLCertVerificationError):
                self._bad_certificate(protocol.peer, error.verify_message)
            log.debug("handshake_failed", fault=getattr(error, "reason", None) or type(error).__name__)

    async def watch(self) -> None:
        """Look at every connection, at intervals that are short against the limits."""
        limits = self.limits
        interval = min(1.0, limits.request_seconds / 4, limits.answer_seconds / 4)
        while True:
            await asyncio.sleep(interval)
            now = self.loop.time()
            for protocol in list(self._open):
                protocol.look(now)

    def drop_outdated(self, is_current: Callable[[Caller], bool]) -> int:
        """Close every connection whose credential is not taken any more, whatever it is doing.

        A client certificate is checked in the handshake only: where the CA or the revocation list is another one
        now, all connections with a certificate are closed, and those that are still good come back.

        Args:
            is_current: whether what a caller was recognised by would be taken today.

        Returns:
            How many there were.
        """
        outdated = [protocol for protocol in self._open if protocol.is_outdated(is_current)]
        for protocol in outdated:
            protocol.drop("credential_gone")
        return len(outdated)

    async def end(self, seconds: float) -> None:
        """Close what is still connected, at once. Handlers get `seconds` to finish, and then `seconds` to be cancelled.

        aiohttp cancels those whose client is still there, and forgets the others.
        """
        for protocol in list(self._open):
            protocol.drop("shutdown")
        if not await self._emptied(seconds):
            for protocol in list(self._open):
                protocol.cancel_orphan()
            await self._emptied(seconds)

    async def _emptied(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True


def _affordable(shares: Shares) -> Shares:
    """The places of connections, fewer for the network where the process may not open so many files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = descriptors - _OTHER_DESCRIPTORS - shares.local - shares.root
    return replace(shares, network=min(shares.network, max(shares.local, most)))


@asynccontextmanager
async def serve(
    app: web.Application,
    listeners: Sequence[Listener],
    limits: Limits = DEFAULT,
    *,
    bad_certificate: BadCertificate = lambda _peer, _reason: None,
    shutdown_seconds: float = 5.0,
) -> AsyncIterator[Server]:
    """Serve the application on the listeners while the context lasts, then close them.

    At the end no new connection is taken, the application's `on_shutdown` is called (streams and long polls end
    there), and handlers have `shutdown_seconds` to finish before they are cancelled.

    Entered and left by one and the same task. `bad_certificate` is told of clients whose certificate fails, and why.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    failure: Exception | None = None
    server: Server | None = None
    try:
        if runner.server is None:
            raise RuntimeError("the runner has no server")
        server = Server(runner.server, limits, bad_certificate)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.watch())]
            tasks += [group.create_task(server.accept(listener, group)) for listener in listeners]
            try:
                yield server
            except Exception as error:  # noqa: BLE001 -- raised below, as it is: a TaskGroup would wrap it
                failure = error
            for task in tasks:
                task.cancel()
    finally:
        for listener in listeners:
            await run_blocking(listener.close)
        await runner.cleanup()
        if server is not None:
            await server.end(shutdown_seconds)
    if failure is not None:
        raise failure
