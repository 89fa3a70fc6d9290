"""The API's server: holds every connection of all listeners, within bounds of number and time, and ends them.

| bound | what happens beyond it |
|---|---|
| connections at once | an unauthenticated one of the network is evicted, else the next one is closed at once |
| streams and long polls at once | the next one is answered with 503 |
| answers to an unauthenticated client of the network: one | the connection is closed |
| the time until a request's head and body are here, TLS handshake included | the connection is closed |
| the size of a request's head, and of what is sent ahead of an answer | the connection is closed |
| the time between requests | the connection is closed |
| the time until an answer is taken, streams included | the connection is closed |

aiohttp has a time-out for idle connections only, and counts none. So connections are accepted by us, before any
handshake (`accept`), admitted by number (`admission`, `quotas`), handed to a protocol that aiohttp's is the base of
(`connection`), and looked at by one task at intervals (`timeouts`). Everything lives in one TaskGroup: when `serve` is
left nothing of it goes on, but a handler that did not end when it was cancelled.
"""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from aiohttp import StreamReader, web

from agent.aio import run_blocking
from agent.service.http.accept import Acceptor, BadCertificate
from agent.service.http.admission import Admission
from agent.service.http.aiohttp_internals import prepare_requests
from agent.service.http.connection import Connection
from agent.service.http.limits import DEFAULT, Limits
from agent.service.http.quotas import QuotaCounter, Quotas
from agent.service.http.sockets import ListeningSocket
from agent.service.jobs.caller import Caller

# File descriptors that are not for connections: disks, downloads, child processes.
_OTHER_DESCRIPTORS = 256


class Server:
    """All connections of one application. Made by `serve`."""

    def __init__(self, handlers: web.Server, limits: Limits) -> None:
        """No connection is held yet.

        Args:
            handlers: aiohttp's part, which runs the handlers of requests.
            limits: the bounds.
        """
        self.handlers = handlers
        self.limits = limits
        self.long_waits = QuotaCounter(limits.long_waits)
        self._admission = Admission(_affordable(limits.connections), limits.per_address)
        self._open: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._occupied = asyncio.Event()
        prepare_requests(handlers, self._request_began)

    @property
    def connections(self) -> int:
        """How many there are now, those in their handshake and those whose handler goes on included."""
        return len(self._open)

    # -- called by connections and the accept loop, see `connection.Owner` ------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Hold a new connection, if there is room for it or room can be made."""
        if not self._admission.admit(connection):
            return False
        self._open.add(connection)
        self._empty.clear()
        self._occupied.set()
        return True

    def authenticated(self, connection: Connection) -> None:
        """A request on it has shown a right credential."""
        self._admission.authenticated(connection)

    def closed(self, connection: Connection) -> None:
        """It is over, and so is its handler."""
        self._admission.release(connection)
        self._open.discard(connection)
        if not self._open:
            self._empty.set()
            self._occupied.clear()

    @staticmethod
    def _request_began(protocol: web.RequestHandler, body: StreamReader) -> None:
        if isinstance(protocol, Connection):
            protocol.timeouts.request_began(body, asyncio.get_running_loop().time())

    # -- closing -----------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Close what is overdue, at intervals that are short against the limits; until it is cancelled."""
        limits = self.limits
        interval = min(1.0, limits.request_seconds / 4, limits.answer_seconds / 4)
        while True:
            await self._occupied.wait()  # an idle daemon wakes for nothing
            await asyncio.sleep(interval)
            now = asyncio.get_running_loop().time()
            for connection in list(self._open):
                connection.drop_if_overdue(now)

    def drop_outdated(self, is_current: Callable[[Caller], bool]) -> int:
        """Close every connection whose credential is not taken any more, whatever it is doing.

        A client certificate is checked in the handshake only: where the CA or the revocation list is another one
        now, all connections with a certificate are closed, and those that are still good come back.

        Args:
            is_current: whether what a caller authenticated with would be taken today.

        Returns:
            How many there were.
        """
        outdated = [connection for connection in self._open if connection.is_outdated(is_current)]
        for connection in outdated:
            connection.drop("credential_gone")
        return len(outdated)

    async def end(self, seconds: float) -> None:
        """Close what is still connected, at once. Handlers get `seconds` to finish, and then `seconds` to be cancelled.

        aiohttp cancels those whose client is still there, and forgets the others.
        """
        for connection in list(self._open):
            connection.drop("shutdown")
        if not await self._emptied(seconds):
            for connection in list(self._open):
                connection.cancel_orphan()
            await self._emptied(seconds)

    async def _emptied(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True


def _affordable(quotas: Quotas) -> Quotas:
    """The quotas of connections, less for the network where the process may not open so many files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = descriptors - _OTHER_DESCRIPTORS - quotas.local - quotas.root
    return replace(quotas, network=min(quotas.network, max(quotas.local, most)))


@asynccontextmanager
async def serve(
    app: web.Application,
    listeners: Sequence[ListeningSocket],
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
        server = Server(runner.server, limits)
        async with asyncio.TaskGroup() as group:
            acceptors = [Acceptor(listener, server, group, bad_certificate) for listener in listeners]
            tasks = [group.create_task(work) for work in (server.watch(), *(one.run() for one in acceptors))]
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
