"""The job in the slot, as the journal keeps it.

Immutable: `agent.service.jobs.phases` says what an event makes of it. The names of its members in the journal are older
than those here, and stay: an agent reads the journal of the one before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from agent.model.disk_state import DiskState
from agent.model.seal import Seal

Origin = Literal["api", "control", "ironic"]
RequestedEnd = Literal["erase", "cancel"]


class Phase(StrEnum):
    """What has become of a job, as far as it matters to an agent that comes back."""

    RUNNING = "running"
    SEALED = "sealed"
    """All but the commit is done."""
    FAILED = "failed"
    DONE = "done"
    """Committed; the server has not been handed over yet."""
    CLOSED = "closed"
    """Committed and handed over, or never to be: nothing is left to do."""


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job. `job` is the document as posted; once it is over, without its secrets, and `status` is its last one."""

    id: str
    origin: Origin
    job: Mapping[str, Any] = field(repr=False)
    accepted_at: float
    """Seconds since the epoch."""
    phase: Phase = Phase.RUNNING
    attempt: int = 1
    """How many agents have begun it."""
    seal: Seal | None = None
    status: Mapping[str, Any] | None = field(default=None, repr=False)
    outcome_seen: bool = False
    """Whether a client has got the outcome: the server of a job that was posted may be handed over."""
    acknowledged: bool = False
    """Whether the control plane that the job came from has taken the outcome: its server may be handed over."""
    requested_end: RequestedEnd | None = None
    """What somebody was promised who wanted it to end, and is done even by the next agent."""
    percent: float = 0.0
    """How far clients may have been told it is, and no further: the next attempt begins there."""
    ordered_at: float | None = None
    """When the reboot was ordered, in seconds since the epoch: it is not ordered again in the same boot."""
    disk_state: DiskState = DiskState.UNTOUCHED
    """What the attempts so far have left of the disk."""
    receipt: Mapping[str, Any] | None = field(default=None, repr=False)
    """Its receipt, an envelope, once it is over."""

    @property
    def is_over(self) -> bool:
        """Whether it has its outcome."""
        return self.status is not None

    def document(self) -> dict[str, Any]:
        """The entry as JSON, secrets included."""
        return {
            "id": self.id,
            "origin": self.origin,
            "job": dict(self.job),
            "acceptedAt": self.accepted_at,
            "phase": self.phase.value,
            "attempt": self.attempt,
            "seal": None if self.seal is None else self.seal.document(),
            "status": None if self.status is None else dict(self.status),
            "seen": self.outcome_seen,
            "told": self.acknowledged,
            "ending": self.requested_end,
            "percent": self.percent,
            "orderedAt": self.ordered_at,
            "diskState": self.disk_state.value,
            "receipt": None if self.receipt is None else dict(self.receipt),
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "JobEntry":
        """Read what `document` wrote.

        Raises:
            ValueError: it is no entry; the text names the member and never its value.
        """
        entry = cls(
            id=member(document, "id", str),
            origin=_one_of(document, "origin", ("api", "control", "ironic")),
            job=member(document, "job", dict),
            accepted_at=member(document, "acceptedAt", float, int),
            phase=Phase(member(document, "phase", str)),
            attempt=member(document, "attempt", int),
            seal=None if document.get("seal") is None else Seal.parse(member(document, "seal", dict)),
            status=member(document, "status", dict, type(None)),
            outcome_seen=member(document, "seen", bool),
            acknowledged=member(document, "told", bool),
            requested_end=_one_of(document, "ending", ("erase", "cancel", None)),
            percent=member(document, "percent", float, int),
            ordered_at=member(document, "orderedAt", float, int, type(None)),
            # An agent of an earlier version did not keep it.
            disk_state=DiskState(document.get("diskState", DiskState.UNKNOWN)),
            receipt=member({"receipt": None} | dict(document), "receipt", dict, type(None)),
        )
        if entry.phase is Phase.SEALED and entry.seal is None:
            raise ValueError("a sealed entry without its seal")
        if entry.phase in (Phase.FAILED, Phase.DONE, Phase.CLOSED) and entry.status is None:
            raise ValueError("an entry that is over, without its status")
        return entry


def member(document: Mapping[str, Any], key: str, *kinds: type) -> Any:
    """A member of one of these types.

    Raises:
        ValueError: it is of another; the text names the member and never its value.
    """
    value = document.get(key)
    if type(value) not in kinds:
        raise ValueError(f"its member {key} is not what it has to be")
    return value


def _one_of(document: Mapping[str, Any], key: str, values: tuple[str | None, ...]) -> Any:
    value = document.get(key)
    if value not in values:
        raise ValueError(f"its member {key} is not what it has to be")
    return value
