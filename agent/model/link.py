"""Whether the control plane can be reached: what people and metrics are told of it."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from agent.model.status import timestamp


class Link:
    """The way to one control plane. Both loops of the client report to it what became of their calls.

    Args:
        url: of the control plane; told without user, password and query.
        clock: seconds since the epoch.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        parts = urlsplit(url)
        self.url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        self._clock = clock
        self.up: bool | None = None
        """None: it has not been asked yet."""
        self.faults = 0
        """Calls that failed, since the start."""
        self._reason: str | None = None
        self._since: float | None = None
        self._next_try: float | None = None

    def answered(self) -> None:
        """A call was answered."""
        self.up, self._reason, self._since, self._next_try = True, None, None, None

    def failed(self, reason: str, delay: float) -> None:
        """A call failed, and is tried again in `delay` seconds."""
        now = self._clock()
        if self.up is not False:
            self._since = now
        self.up, self._reason, self._next_try = False, reason, now + delay
        self.faults += 1

    def document(self) -> dict[str, Any]:
        """The member `controlPlane` of what /v1/status tells of the agent."""
        return {
            "url": self.url,
            "reachable": self.up,
            "reason": self._reason,
            "since": None if self._since is None else timestamp(self._since),
            "nextTry": None if self._next_try is None else timestamp(self._next_try),
        }
