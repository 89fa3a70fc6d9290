"""One table for a job's life: in which phase which event may come, and what it makes of the entry.

Pure. Nobody changes an entry by hand: `advance` looks the event up, and one that the table does not have in that phase
is a fault of ours and raises. `JobStore` makes each change durable. The diagram in docs/architecture.md is drawn from
the table.

Promises that hold by the table:

- The first outcome counts: none that comes later replaces it, a cancellation least of all.
- An erasure that was asked for outranks a cancellation, and neither is taken back.
- A percentage that clients may have been told never goes back.
- What is over is never begun again: only a running or sealed job can be.

The reboot that follows a deployment has a small table of its own, at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from agent.model.disk_state import DiskState
from agent.model.seal import Seal
from agent.service.jobs.entry import JobEntry, Phase, RequestedEnd

MAX_ATTEMPTS = 5
"""A job that this many agents have died over is given up."""


# -- events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BegunAgain:
    """An agent begins the job again that the one before it left undone; a seal is void."""


@dataclass(frozen=True, slots=True)
class DiskChanged:
    """The deployment has changed what is on the disk, or is about to."""

    state: DiskState


@dataclass(frozen=True, slots=True)
class PercentPromised:
    """Clients may be told percentages up to this one."""

    percent: float


@dataclass(frozen=True, slots=True)
class Sealed:
    """All but the commit is done: what the ends of the disk will hold is known."""

    seal: Seal


@dataclass(frozen=True, slots=True)
class Committed:
    """The outcome: the disk holds the image. The last status, the job without its secrets, and the receipt if any."""

    status: Mapping[str, Any]
    job: Mapping[str, Any]
    receipt: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The outcome: an error or a cancellation. The last status, the job without its secrets, the receipt if any."""

    status: Mapping[str, Any]
    job: Mapping[str, Any]
    receipt: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ReceiptIssued:
    """A job that is over gets the receipt that it has not yet."""

    receipt: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EndRequested:
    """Somebody was promised that the job ends."""

    end: RequestedEnd


@dataclass(frozen=True, slots=True)
class OutcomeSeen:
    """A client has asked for the outcome and got it."""


@dataclass(frozen=True, slots=True)
class OutcomeAcknowledged:
    """The control plane that the job came from has taken the outcome."""


@dataclass(frozen=True, slots=True)
class NoteAdded:
    """The last status gets one more note."""

    text: str


@dataclass(frozen=True, slots=True)
class RebootMarked:
    """The reboot is ordered (seconds since the epoch), or with None was not ordered after all."""

    at: float | None


@dataclass(frozen=True, slots=True)
class HandedOver:
    """No reboot is to come any more: it has been, has failed, or was called off.

    `reboot` is the member of that name in the status, where it changes.
    """

    reboot: Mapping[str, Any] | None = None


Event = (
    BegunAgain | DiskChanged | PercentPromised | Sealed | Committed | Failed | EndRequested | OutcomeSeen
    | OutcomeAcknowledged | NoteAdded | ReceiptIssued | RebootMarked | HandedOver
)  # fmt: skip

# -- the table -----------------------------------------------------------------------------------------------

UNDECIDED = (Phase.RUNNING, Phase.SEALED)
"""The phases of a job that has no outcome."""
OVER = (Phase.FAILED, Phase.DONE, Phase.CLOSED)

# Events that leave the phase as it is, and in which phases they may come.
_NOTED: dict[type[Event], tuple[Phase, ...]] = {
    DiskChanged: UNDECIDED,
    PercentPromised: UNDECIDED,
    EndRequested: tuple(Phase),
    # A disk has failed in the commit, and the rest goes on without it.
    Sealed: (Phase.SEALED,),
    OutcomeSeen: OVER,
    OutcomeAcknowledged: OVER,
    NoteAdded: OVER,
    ReceiptIssued: OVER,
    RebootMarked: (Phase.DONE,),
    # The first outcome counts.
    Committed: OVER,
    Failed: OVER,
}

CHANGES: dict[tuple[Phase, type[Event]], Phase] = {
    (Phase.RUNNING, Sealed): Phase.SEALED,
    (Phase.SEALED, Committed): Phase.DONE,
    (Phase.RUNNING, Failed): Phase.FAILED,
    (Phase.SEALED, Failed): Phase.FAILED,
    (Phase.RUNNING, BegunAgain): Phase.RUNNING,
    (Phase.SEALED, BegunAgain): Phase.RUNNING,
    (Phase.DONE, HandedOver): Phase.CLOSED,
}
"""Events by which a job gets on, or begins again."""

TRANSITIONS: dict[tuple[Phase, type[Event]], Phase] = CHANGES | {
    (phase, kind): phase for kind, phases in _NOTED.items() for phase in phases
}


def advance(entry: JobEntry, event: Event) -> JobEntry:
    """The entry after `event`; the same object where nothing is new.

    Raises:
        RuntimeError: the event cannot come in this phase.
    """
    phase = TRANSITIONS.get((entry.phase, type(event)))
    if phase is None:
        raise RuntimeError(f"a job that is {entry.phase} cannot take the event {type(event).__name__}")
    changed = _changed(entry, event, phase)
    return entry if changed == entry else changed


def _changed(entry: JobEntry, event: Event, phase: Phase) -> JobEntry:  # noqa: C901 - a line each
    match event:
        case BegunAgain():
            return replace(entry, phase=phase, attempt=entry.attempt + 1, seal=None)
        case DiskChanged(state):
            return replace(entry, disk_state=state)
        case PercentPromised(percent):
            return replace(entry, percent=max(entry.percent, percent))
        case Sealed(seal):
            return replace(entry, phase=phase, seal=seal)
        case Committed(status, job, receipt) | Failed(status, job, receipt):
            over = replace(entry, phase=phase, status=status, job=job, receipt=receipt)
            return entry if entry.is_over else over
        case EndRequested(end):
            return entry if entry.requested_end == "erase" else replace(entry, requested_end=end)
        case OutcomeSeen():
            return replace(entry, outcome_seen=True)
        case OutcomeAcknowledged():
            return replace(entry, outcome_seen=True, acknowledged=True)
        case NoteAdded(text):
            return _with_note(entry, text)
        case ReceiptIssued(receipt):
            return replace(entry, receipt=receipt) if entry.receipt is None else entry
        case RebootMarked(at):
            return replace(entry, ordered_at=at)
        case HandedOver(reboot):
            told = {} if reboot is None else {"reboot": reboot}
            return replace(entry, phase=phase, status={**(entry.status or {}), **told})


def _with_note(entry: JobEntry, text: str) -> JobEntry:
    notes = (entry.status or {}).get("notes", ())
    return (
        entry if text in notes else replace(entry, status={**(entry.status or {}), "notes": [*notes, text]})
    )


def mermaid() -> str:
    """The changes of phase as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.RUNNING}"]
    lines += [f"    {source} --> {target}: {event.__name__}" for (source, event), target in CHANGES.items()]
    lines += [f"    {phase} --> [*]" for phase in OVER]
    return "\n".join(lines)


# -- after a restart of the agent, and before a new job --------------------------------------------------------


class Restart(StrEnum):
    """What an agent makes of the job that it finds in the journal."""

    COMPARE = "compare"
    """The last agent died in the commit: first compare the disk with the seal."""
    ERASE = "erase"
    """Somebody was promised that: forget the job."""
    CANCELLED = "cancelled"
    """Somebody was promised that: the job has failed, `job.cancelled`."""
    COMMITTED = "committed"
    """The commit was complete."""
    GIVE_UP = "give up"
    """Too many agents have died over it: it has failed, `job.interrupted`."""
    BEGIN_AGAIN = "begin again"
    HAND_OVER = "hand over"
    """It is done; wait for whoever has to know, then reboot."""
    CALLED_OFF = "called off"
    """It is done, and the reboot was called off."""
    REBOOTED = "rebooted"
    """It is done, and this is another boot: the reboot has been."""
    ANSWER = "answer"
    """Nothing is left to do but to answer."""


def after_restart(entry: JobEntry, *, same_boot: bool, is_committed: bool | None = None) -> Restart:
    """What is to be done with a job that an agent before this one had.

    Args:
        entry: as the journal has it.
        same_boot: whether the server has not been booted since.
        is_committed: whether the disk is as the seal says; None: not looked at.
    """
    if entry.phase is Phase.SEALED and is_committed is None:
        return Restart.COMPARE
    if entry.requested_end == "erase":
        return Restart.ERASE
    if entry.phase in UNDECIDED:
        if is_committed:
            return Restart.COMMITTED
        if entry.requested_end == "cancel":
            return Restart.CANCELLED
        return Restart.GIVE_UP if entry.attempt >= MAX_ATTEMPTS else Restart.BEGIN_AGAIN
    if entry.phase is not Phase.DONE:
        return Restart.ANSWER
    if entry.requested_end == "cancel":
        return Restart.CALLED_OFF
    return Restart.HAND_OVER if same_boot else Restart.REBOOTED


def may_be_replaced(
    entry: JobEntry | None, reboot: "RebootState | None", *, is_recorded: bool, has_ended: bool
) -> bool:
    """Whether the slot takes another job in place of this one.

    Args:
        entry: the job in the slot.
        reboot: how far its hand-over is, where there is one.
        is_recorded: whether the journal has its outcome.
        has_ended: whether its task is at its end, or it has none.
    """
    if entry is None:
        return True
    if entry.is_over and not is_recorded:
        return False  # the next agent would begin it again
    if reboot is not None:
        return reboot.is_settled
    return has_ended or entry.phase in (Phase.FAILED, Phase.CLOSED)


# -- the reboot ----------------------------------------------------------------------------------------------


class RebootState(StrEnum):
    """How far the reboot into the deployed system is."""

    DISABLED = "disabled"
    WAITING = "waiting"
    """For whoever gave the job to know its outcome, or for the end of the time for that."""
    ORDERED = "due"
    CALLED_OFF = "calledOff"
    FAILED = "failed"

    @property
    def is_settled(self) -> bool:
        """Whether no reboot is to come."""
        return self not in (RebootState.WAITING, RebootState.ORDERED)


class RebootEvent(StrEnum):
    """What happens to a reboot."""

    ORDER = "order"
    WITHDRAW = "withdraw"
    """The order was cut before the command had begun."""
    CALL_OFF = "call off"
    FAIL = "fail"


REBOOT_TRANSITIONS = {
    (RebootState.WAITING, RebootEvent.ORDER): RebootState.ORDERED,
    (RebootState.WAITING, RebootEvent.CALL_OFF): RebootState.CALLED_OFF,
    (RebootState.ORDERED, RebootEvent.WITHDRAW): RebootState.WAITING,
    (RebootState.ORDERED, RebootEvent.FAIL): RebootState.FAILED,
}


def advance_reboot(state: RebootState, event: RebootEvent) -> RebootState:
    """The state after `event`.

    Raises:
        RuntimeError: the event cannot come in this state.
    """
    try:
        return REBOOT_TRANSITIONS[state, event]
    except KeyError:
        raise RuntimeError(f"a reboot that is {state} cannot take the event {event}") from None
