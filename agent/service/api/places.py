"""Who may take which place: shares of what a server has, none of which the others can take.

Three kinds of callers have places of their own: the network, the Unix socket, and root on the socket beside those of
all others there. So no caller of one kind can lock out another kind, and nobody root. Pure.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto

from agent.service.jobs.peer import Peer


@dataclass(frozen=True, slots=True)
class Shares:
    """How many places there are, for each kind of caller."""

    network: int
    local: int
    root: int
    """On the socket, beside `local`, for root alone."""


class Kind(Enum):
    """Whose place one is."""

    NETWORK = auto()
    LOCAL = auto()
    ROOT = auto()


class Places:
    """Counts the places that are taken. Whoever took one gives the same back."""

    def __init__(self, shares: Shares) -> None:
        self._most = {Kind.NETWORK: shares.network, Kind.LOCAL: shares.local, Kind.ROOT: shares.root}
        self._taken: Counter[Kind] = Counter()

    def take(self, peer: Peer) -> Kind | None:
        """Take a place for this caller; None if it has none left."""
        if peer.is_remote:
            kinds: tuple[Kind, ...] = (Kind.NETWORK,)
        else:
            kinds = (Kind.LOCAL, Kind.ROOT) if peer.is_root else (Kind.LOCAL,)
        for kind in kinds:
            if self._taken[kind] < self._most[kind]:
                self._taken[kind] += 1
                return kind
        return None

    def give_back(self, kind: Kind) -> None:
        """Free a place that `take` gave."""
        self._taken[kind] -= 1
