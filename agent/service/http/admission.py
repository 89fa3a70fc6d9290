"""Which connections are admitted, and which one is closed to make room for another.

A connection over the network is unauthenticated until a request on it has shown a right credential, and gets one answer
as long as it is (`agent.service.http.connection` closes behind it). Where the quota of the network is used up, the
oldest unauthenticated connection of the address that has the most of them is evicted for a newcomer whose own address
has fewer connections. So unauthenticated clients keep nobody out who comes from another address, however many they are
and however fast they come back; authenticated connections are never evicted. Pure.
"""

from collections import Counter
from typing import Protocol

from agent.service.http.quotas import CallerKind, QuotaCounter, Quotas
from agent.service.jobs.peer import Peer


class Client(Protocol):
    """One connection."""

    @property
    def peer(self) -> Peer:
        """Who is at its other end."""

    def evict(self) -> None:
        """Close it: another one has taken its place."""


class Admission:
    """All connections that were admitted and not released. Used by the server, on the event loop."""

    def __init__(self, quotas: Quotas, per_address: int) -> None:
        """Nobody is admitted yet.

        Args:
            quotas: connections at once, for each kind of caller.
            per_address: connections at once of one address of the network.
        """
        self._quotas = QuotaCounter(quotas)
        self._per_address = per_address
        self._charged: dict[Client, CallerKind] = {}
        self._unauthenticated: dict[Client, None] = {}
        """Of the network only, the oldest first."""
        self._of_address: Counter[str] = Counter()

    def admit(self, client: Client) -> bool:
        """Admit a new connection, evicting another one if need be. False: it has to be closed at once."""
        if not self._charge(client) and not (self._make_room(client.peer) and self._charge(client)):
            return False
        if client.peer.is_remote:
            self._of_address[client.peer.who] += 1
            self._unauthenticated[client] = None
        return True

    def authenticated(self, client: Client) -> None:
        """A request on this connection has shown a right credential: it is not evicted any more."""
        self._unauthenticated.pop(client, None)

    def release(self, client: Client) -> None:
        """A connection is over. Nothing happens where it has been released before, or was evicted."""
        kind = self._charged.pop(client, None)
        if kind is None:
            return
        self._quotas.release(kind)
        self._unauthenticated.pop(client, None)
        if client.peer.is_remote:
            self._of_address[client.peer.who] -= 1
            if not self._of_address[client.peer.who]:
                del self._of_address[client.peer.who]

    def _charge(self, client: Client) -> bool:
        kind = None if self._address_is_full(client.peer) else self._quotas.acquire(client.peer)
        if kind is not None:
            self._charged[client] = kind
        return kind is not None

    def _address_is_full(self, peer: Peer) -> bool:
        return peer.is_remote and self._of_address[peer.who] >= self._per_address

    def _make_room(self, peer: Peer) -> bool:
        """Evict one, if an address has more unauthenticated connections than this peer's has connections."""
        if not peer.is_remote or self._address_is_full(peer) or not self._unauthenticated:
            return False
        [(address, count)] = Counter(client.peer.who for client in self._unauthenticated).most_common(1)
        if count <= self._of_address[peer.who]:
            return False
        oldest = next(client for client in self._unauthenticated if client.peer.who == address)
        oldest.evict()
        self.release(oldest)
        return True
