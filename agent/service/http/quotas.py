"""How many connections, or long waits, each kind of caller may have at once; none takes those of another kind.

There are three kinds: callers over the network, callers on the Unix socket, and root, who on the socket has a quota of
its own beside that of all others there. So no kind of caller can lock out another one, and nobody locks out root. Pure.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto

from agent.service.jobs.peer import Peer


@dataclass(frozen=True, slots=True)
class Quotas:
    """The most that each kind of caller may have at once."""

    network: int
    local: int
    """On the Unix socket, root's included."""
    root: int
    """On the Unix socket, for root alone, once `local` is used up."""


class CallerKind(Enum):
    """Whose quota is charged."""

    NETWORK = auto()
    LOCAL = auto()
    ROOT = auto()


class QuotaCounter:
    """Counts what is in use. Each `acquire` that succeeded is followed by one `release` of what it returned."""

    def __init__(self, quotas: Quotas) -> None:
        self._most = {
            CallerKind.NETWORK: quotas.network,
            CallerKind.LOCAL: quotas.local,
            CallerKind.ROOT: quotas.root,
        }
        self._used: Counter[CallerKind] = Counter()

    def acquire(self, peer: Peer) -> CallerKind | None:
        """Charge a caller's quota; the kind that was charged, or None where its quota is used up."""
        for kind in _kinds_of(peer):
            if self._used[kind] < self._most[kind]:
                self._used[kind] += 1
                return kind
        return None

    def release(self, kind: CallerKind) -> None:
        """Give back what `acquire` charged."""
        self._used[kind] -= 1


def _kinds_of(peer: Peer) -> tuple[CallerKind, ...]:
    """The quotas that a caller may be charged to, the first of them first."""
    if peer.is_remote:
        return (CallerKind.NETWORK,)
    return (CallerKind.LOCAL, CallerKind.ROOT) if peer.is_root else (CallerKind.LOCAL,)
