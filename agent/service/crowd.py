"""All who are connected: the place that each has, and who gives way when there is none left.

Who has shown over the network who they are keeps their place. All others there are strangers: they get one answer each
(`agent.service.guard` closes behind it), and the one who has been there the longest gives way to the next who comes. So
strangers, however many, keep nobody out who has a credential: who comes is heard. Pure.
"""

from collections import Counter
from typing import Protocol

from agent.service.peer import Peer
from agent.service.places import Kind, Places, Shares


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
        """Have the oldest stranger give way: one of the same address, where that is what has no place left."""
        if not peer.is_remote:
            return False
        crowded = self._is_crowded(peer)
        candidates = (other for other in self._strangers if not crowded or other.peer.who == peer.who)
        oldest = next(candidates, None)
        if oldest is None:
            return False
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
