"""The listeners' bounds: how many may be connected, and how long each may take.

| bound | what happens beyond it |
|---|---|
| connections at once, over all listeners | the next one is closed at once; the Unix socket keeps some for itself |
| the time until a request's head and body are here, TLS handshake included | the connection is closed |
| the size of a request's head, and of what is sent ahead of an answer | the connection is closed |
| the time between requests | the connection is closed |
| the time until an answer is taken, streams included | the connection is closed |

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
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict

from agent.aio import run_blocking
from agent.lean import structlog
from agent.service.documents import error_of_status
from agent.service.heads import MAX_HEAD_BYTES
from agent.service.json_errors import error_response, response_of
from agent.service.listen import Listener
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
_ABANDONABLE = web.RequestKey("abandonable", bool)


@contextmanager
def abandonable(request: web.BaseRequest) -> Iterator[None]:
    """Where a handler only waits for something to tell its client: it is cancelled there when the client goes away.

    Elsewhere a handler goes on without its client: what it does concerns others too.
    """
    request[_ABANDONABLE] = True
    try:
        yield
    finally:
        request[_ABANDONABLE] = False


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of all listeners together. Times are seconds, sizes are bytes."""

    connections: int = 1024
    reserved: int = 384
    """Connections that only the Unix socket may take: the network cannot lock out who sits at the machine. Those of the
    network hold about 290 KiB each, nearly all of it asyncio's buffers for TLS (measured)."""
    request_seconds: float = 30.0
    idle_seconds: float = 75.0
    answer_seconds: float = 60.0
    linger_seconds: float = 5.0
    """How long the rest of a body is taken in after it was refused, so that the client gets to read why."""
    tls_shutdown_seconds: float = 5.0
    head_bytes: int = MAX_HEAD_BYTES
    line_bytes: int = 8190
    """One header, and the request line."""


class _Writer(StreamWriter):
    """Writes answers that do not name what made them: whoever asks without credentials learns no versions."""

    async def write_headers(self, status_line: str, headers: "CIMultiDict[str]") -> None:
        headers.popall(hdrs.SERVER, None)
        await super().write_headers(status_line, headers)


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


class _Protocol(web.RequestHandler):
    """aiohttp's protocol, that also tells what happens, and whose own refusals are JSON objects."""

    __slots__ = ("_half_closed", "_link", "_orphan", "_over_tls", "_server", "_socket", "connection")

    def __init__(self, server: "Server", connection: Connection) -> None:
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
        self._server = server
        self._half_closed = self._over_tls = False
        self._link: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._orphan: asyncio.Task[None] | None = None
        self.connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._link = transport
            self._socket = transport.get_extra_info("socket")
            self._over_tls = transport.get_extra_info("sslcontext") is not None
            # So that each of `pause_writing` and `resume_writing` means what it says: bytes wait, or none.
            transport.set_write_buffer_limits(high=1, low=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        # A handler may go on for a while without its client: until it ends the connection is counted.
        handler, request = self._task_handler, self._current_request
        may_end = request is not None and request.get(_ABANDONABLE, False)
        super().connection_lost(exc)
        self._link = None
        if handler is None or handler.done():
            self._server.left(self)
        else:
            self._orphan = handler
            handler.add_done_callback(lambda _: self._server.left(self))
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

    def data_received(self, data: bytes) -> None:
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
        number = -1 if self._socket is None else self._socket.fileno()
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
        """Answers that no middleware saw come here as well: they get a body like all others."""
        if isinstance(resp, web.HTTPException):
            resp = response_of(resp)
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
        """Close the connection at once; what is not sent is not sent."""
        if self._link is not None:
            log.debug("connection_dropped", reason=reason)
            with suppress(
                AttributeError
            ):  # asyncio's TLS, closed twice, has forgotten what to abort: it is ending
                self._link.abort()


class Server:
    """All connections of one application. Made by `serve`."""

    def __init__(self, server: web.Server, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.server = server
        self._make_request = server.request_factory
        server.request_factory = self._begin
        self._open: set[_Protocol] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(2 * limits.reserved, min(limits.connections, descriptors - _OTHER_DESCRIPTORS))

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
        self._open.discard(protocol)
        if not self._open:
            self._empty.set()

    async def accept(self, listener: Listener, group: asyncio.TaskGroup) -> None:
        """Take connections of a listener, for ever."""
        most = self._most if listener.local else self._most - self.limits.reserved
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
            if len(self._open) >= most:
                client.close()
                continue
            protocol = _Protocol(self, Connection(self.limits, self.loop.time()))
            self._open.add(protocol)
            self._empty.clear()
            group.create_task(self._establish(protocol, client, listener.tls()))

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
            if not isinstance(error, OSError):  # a failed handshake is an ssl.SSLError, which is one
                raise
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


@asynccontextmanager
async def serve(
    app: web.Application,
    listeners: Sequence[Listener],
    limits: Limits = Limits(),
    *,
    shutdown_seconds: float = 5.0,
) -> AsyncIterator[Server]:
    """Serve the application on the listeners while the context lasts, then close them.

    At the end no new connection is taken, the application's `on_shutdown` is called (streams and long polls end
    there), and handlers have `shutdown_seconds` to finish before they are cancelled.

    Entered and left by one and the same task.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    failure: Exception | None = None
    server: Server | None = None
    try:
        if runner.server is None:
            raise RuntimeError("the runner has no server")
        server = Server(runner.server, limits)
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
