"""The accept loop: takes a listener's connections before any handshake, and leads each through its own."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

import structlog

from agent.service.http.connection import Connection, Owner
from agent.service.http.sockets import ListeningSocket
from agent.service.jobs.peer import Peer, peer_of
from agent.units import KiB

log = structlog.get_logger(__name__)

BadCertificate = Callable[[Peer, str], None]
"""Is told of a client whose certificate failed in the handshake, and why."""

# Out of file descriptors or memory, or a fault of the listener: connections stay in the kernel's queue for so many
# seconds.
_PAUSE_SECONDS = 0.5
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
# What the kernel keeps of answers that nobody takes, for each connection.
_SEND_BUFFER = 64 * KiB


class Acceptor:
    """Accepts the connections of one listener for a server."""

    def __init__(
        self,
        listener: ListeningSocket,
        owner: Owner,
        handshakes: asyncio.TaskGroup,
        bad_certificate: BadCertificate,
    ) -> None:
        """Nothing is accepted yet.

        Args:
            listener: is closed by whoever made it, once `run` has been cancelled.
            owner: holds the connections that are admitted.
            handshakes: runs them, beside each other.
            bad_certificate: is told of each that fails for its client's certificate.
        """
        self._listener = listener
        self._owner = owner
        self._handshakes = handshakes
        self._bad_certificate = bad_certificate

    async def run(self) -> None:
        """Accept until it is cancelled."""
        while True:
            client = await self._next_client()
            connection = self._admit(client)
            if connection is None:
                client.close()
            else:
                self._handshakes.create_task(self._establish(connection, client, self._listener.tls()))

    async def _next_client(self) -> socket.socket:
        """The next client; what keeps it from being accepted is logged once, until one is accepted again."""
        failure: int | None = None
        while True:
            try:
                client, _ = await asyncio.get_running_loop().sock_accept(self._listener.socket)
            except OSError as error:
                if error.errno in _CLIENT_GONE:
                    await asyncio.sleep(0)  # an accept that fails at once has not given way to others
                    continue
                if error.errno != failure:
                    log.warning("accept_failed", listener=self._listener.name, reason=error.strerror)
                failure = error.errno
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return client

    def _admit(self, client: socket.socket) -> Connection | None:
        try:
            peer = peer_of(client)
        except OSError:
            return None  # gone already
        connection = Connection(self._owner, client, peer, self._listener)
        return connection if self._owner.admit(connection) else None

    async def _establish(
        self, connection: Connection, client: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        """Give the socket to a transport, after the handshake where there is one. No client's fault is raised."""
        limits = self._owner.limits
        try:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                client,
                ssl=tls,
                ssl_handshake_timeout=limits.request_seconds if tls else None,
                ssl_shutdown_timeout=limits.tls_shutdown_seconds if tls else None,
            )
        except BaseException as error:
            client.close()
            self._owner.closed(connection)
            # A failed handshake is an OSError; asyncio's TLS of Python 3.11 raises AttributeError, too, where a client
            # leaves in its midst. What one client does must end no other connection.
            if not isinstance(error, Exception):
                raise
            if isinstance(error, ssl.SSLCertVerificationError):
                self._bad_certificate(connection.peer, error.verify_message)
            log.debug("handshake_failed", fault=getattr(error, "reason", None) or type(error).__name__)
