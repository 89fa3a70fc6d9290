"""All who are connected: the place that each has, and who gives way when there is none left.

Who has shown over the network who they are keeps their place. All others there are strangers: they get one answer each
(`agent.service.api.server` closes behind it), and where no place is left the oldest of the address that has the most
of them gives way to a newcomer whose own address has fewer. So strangers keep nobody out who comes from elsewhere,
however many they are and however fast they come back. Pure.
"""

from collections import Counter
from typing import Protocol

from agent.service.api.places import Kind, Places, Shares
from agent.service.jobs.peer import Peer


class Guest(Protocol):
    """One connection."""

    @property
    def peer(self) -> Peer:
        """Who is at its other end."""

    def give_way(self) -> None:
        """Close: somebody else has the place now."""


class Crowd:
    """Every guest who has a place."""

    def __init__(self, shares: Shares, per_address: int) -> None:
        """Args:
        shares: the places of each kind of caller.
        per_address: how many of the network's one address may have.
        """
        self._places = Places(shares)
        self._per_address = per_address
        self._kinds: dict[Guest, Kind] = {}
        self._strangers: dict[Guest, None] = {}
        """In the order in which they came."""
        self._addresses: Counter[str] = Counter()

    def enter(self, guest: Guest) -> bool:
        """Give a guest a place, that of a stranger if need be. False: they have to be sent away."""
        if not self._take(guest) and not (self._make_room(guest.peer) and self._take(guest)):
            return False
        if guest.peer.is_remote:
            self._addresses[guest.peer.who] += 1
            self._strangers[guest] = None
        return True

    def _take(self, guest: Guest) -> bool:
        kind = None if self._is_crowded(guest.peer) else self._places.take(guest.peer)
        if kind is not None:
            self._kinds[guest] = kind
        return kind is not None

    def _is_crowded(self, peer: Peer) -> bool:
        return peer.is_remote and self._addresses[peer.who] >= self._per_address

    def _make_room(self, peer: Peer) -> bool:
        """Have a stranger give way, if another address has more of them than this peer's has connections."""
        if not peer.is_remote or self._is_crowded(peer) or not self._strangers:
            return False
        [(address, many)] = Counter(guest.peer.who for guest in self._strangers).most_common(1)
        if many <= self._addresses[peer.who]:
            return False
        oldest = next(guest for guest in self._strangers if guest.peer.who == address)
        oldest.give_way()
        self.leave(oldest)
        return True

    def recognise(self, guest: Guest) -> None:
        """A guest has shown who they are."""
        self._strangers.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        """A guest is gone; nothing happens where they have left before."""
        kind = self._kinds.pop(guest, None)
        if kind is None:
            return
        self._places.give_back(kind)
        self._strangers.pop(guest, None)
        if guest.peer.is_remote:
            self._addresses[guest.peer.who] -= 1
            if not self._addresses[guest.peer.who]:
                del self._addresses[guest.peer.who]
