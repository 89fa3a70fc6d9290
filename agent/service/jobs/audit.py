"""Who did what: the lines of the log that name callers.

`acted` tells of everything that changes what becomes of the server; `Failures` of those who wanted to and had no right.
Neither tells a secret, nor anything that a stranger chose: a path or a header may hold what is nobody's business.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import structlog

from agent.service.jobs.caller import Caller
from agent.service.jobs.peer import Peer

log = structlog.get_logger(__name__)

Act = Literal["accepted", "erased", "cancelled"]
WINDOW_SECONDS = 60.0
MAX_TOLD = 32


def acted(act: Act, caller: Caller, job_id: object) -> None:
    """Tell who gave a job, erased it, or had it cancelled.

    Args:
        act: what was done; it may still wait for a disk to answer.
        caller: who did it.
        job_id: of the job.
    """
    who = {"way": caller.auth_method.value, "peer": str(caller.peer), "credential": caller.name or None}
    log.info("audit", act=act, id=job_id, **who)


@dataclass(frozen=True, slots=True)
class _Failure:
    """What failures have in common that are told together."""

    who: str
    way: str
    reason: str


_OTHERS = _Failure("others", "any", "any")


class Failures:
    """Tells of failed authentications: the first of a kind at once, those like it by their number once a minute.

    However many fail, and from wherever: at most `2 * (most + 1)` lines in a window.
    """

    def __init__(self, most: int = MAX_TOLD) -> None:
        """`most`: kinds of failures (who, by what, why) that are told apart in a window."""
        self._most = most
        self._again: Counter[_Failure] = Counter()

    def failed(self, peer: Peer, way: str, reason: str) -> None:
        """Somebody showed no credential, or a wrong one.

        Args:
            peer: who it was.
            way: what they tried.
            reason: why it failed, in words or a code of our own.
        """
        failure = _Failure(peer.who, way, reason)
        if failure not in self._again and len(self._again) >= self._most:
            failure = _OTHERS
        if failure not in self._again:
            _tell(failure, peer=failure.who if failure is _OTHERS else str(peer))
            self._again[failure] = 0
        else:
            self._again[failure] += 1

    def end_window(self) -> None:
        """Tell how many there were beyond the first of each kind, and begin anew."""
        for failure, count in self._again.items():
            if count:
                _tell(failure, peer=failure.who, again=count)
        self._again.clear()

    async def run(self, seconds: float = WINDOW_SECONDS) -> None:
        """End a window every so many seconds, and when it is cancelled."""
        try:
            while True:
                await asyncio.sleep(seconds)
                self.end_window()
        finally:
            self.end_window()


def _tell(failure: _Failure, **facts: object) -> None:
    log.warning("authentication_failed", way=failure.way, reason=failure.reason, **facts)
