"""The places of one file: its URL and its mirrors, and whose turn it is.

For the HTTP source alone. The places stand in a ring, in the order of the job. One that refuses for good, or has
another file, is left for ever; one that only fails is passed over after a few tries, and has its turn again. What a
place tells of the file is kept with it, since an ETag speaks of one URL (RFC 9110, section 8.8.3).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from agent.errors import Blame
from agent.transfer.http.attempts import Attempts
from agent.transfer.http.client import HttpClient
from agent.transfer.http.faults import ChangedFault, FatalFault
from agent.transfer.http.head import Head
from agent.transfer.source import EventHook

TURN = 2
"""Failures in a row, without progress between them, after which the next place is tried, where there is one."""


@dataclass(slots=True, eq=False)
class Place:
    """One URL of the file."""

    shown_url: str
    client: HttpClient
    attempts: Attempts
    first: Head | None = None
    """Its first answer; later ones have to be of the same file. None as long as it has not been asked."""
    has_ranges: bool | None = None
    """None: it has not shown it yet."""
    cuts: list[int] = field(default_factory=list)
    """Where the transfer was when it had to begin again there."""
    strikes: int = 0
    """Connections beside the single one that have brought nothing."""

    def known(self, file: Head) -> Head:
        """What its answers are compared with: its own first answer, or else the file but for what one URL has of it."""
        return self.first or replace(file, etag=None, last_modified=None, accept_ranges=None)

    def note_range(self, file: Head, head: Head) -> None:
        """Keep the head of a range that fits the file, where it was the first answer, as that of the whole file."""
        self.first = self.first or replace(
            head, status=200, length=file.length, chunked=False, content_range=None
        )


class Places:
    """The ring. There is always a current place.

    Args:
        places: in the order in which they are tried, at least one.
        on_event: is told when another place becomes the current one (`mirror`, with `url` and `reason`).
    """

    def __init__(self, places: Iterable[Place], on_event: EventHook) -> None:
        self._all = tuple(places)
        self._ring = deque(self._all)
        self._left: list[tuple[Place, FatalFault | ChangedFault]] = []
        self._on_event = on_event

    @property
    def current(self) -> Place:
        """Whose turn it is."""
        return self._ring[0]

    @property
    def is_only(self) -> bool:
        """Whether no other is left."""
        return len(self._ring) == 1

    def __iter__(self) -> Iterator[Place]:
        """Those that are left, the current one first."""
        return iter(tuple(self._ring))

    def pass_over(self, reason: str) -> None:
        """The current one fails: it is the next one's turn."""
        self._ring.rotate(-1)
        self._tell(reason)

    def leave(self, fault: FatalFault | ChangedFault) -> None:
        """The current one is left for ever.

        Raises:
            FatalFault, ChangedFault: it was the last: of all of them where there were several.
        """
        place = self.current
        self._left.append((place, fault))
        if self.is_only:
            raise fault if len(self._all) == 1 else self._none_left()
        self._ring.popleft()
        self._tell(str(fault))

    async def close(self) -> None:
        """Close all connections; safe to call twice."""
        for place in self._all:
            await place.client.close()

    def _tell(self, reason: str) -> None:
        self._on_event("mirror", {"url": self.current.shown_url, "reason": reason})

    def _none_left(self) -> FatalFault:
        faults = [fault for _, fault in self._left if isinstance(fault, FatalFault)]
        blames = {fault.blame for fault in faults}
        return FatalFault(
            "; ".join(f"{place.shown_url}: {fault}" for place, fault in self._left),
            hint=next((fault.hint for fault in faults if fault.hint), ""),
            blame=blames.pop() if len(blames) == 1 else Blame.NETWORK,
            retryable=any(fault.retryable for fault in faults),
        )
