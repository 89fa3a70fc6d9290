"""The states of a deployment, and the table of their transitions.

The tracker changes the state only through `advance`, which looks the transition up in the table; a transition that the
table does not have is an error in the program and raises. The diagram in docs/architecture.md is made from the table.
"""

from enum import StrEnum
from itertools import pairwise


class State(StrEnum):
    """The state of a deployment: a stage, the beginning, or one of the two ends."""

    STARTING = "starting"
    PREFLIGHT = "preflight"
    CLAIM = "claim"
    WRITE = "write"
    VERIFY = "verify"
    READBACK = "readback"
    FINISH = "finish"
    COMMIT = "commit"
    DONE = "done"
    ERROR = "error"


class Event(StrEnum):
    """An event that changes the state."""

    NEXT = "next"
    READ_BACK = "read back"
    RESTART = "restart"
    FAIL = "fail"
    CANCEL = "cancel"


# The order in which a deployment is carried out: plan, table and documents follow it.
STAGES = (State.PREFLIGHT, State.CLAIM, State.WRITE, State.VERIFY, State.FINISH, State.COMMIT)
# With the one that is only there where it was asked for.
EVERY_STAGE = (*STAGES[:4], State.READBACK, *STAGES[4:])
ACTIVE = (State.STARTING, *EVERY_STAGE)

TRANSITIONS: dict[tuple[State, Event], State] = {
    **{(before, Event.NEXT): after for before, after in pairwise((State.STARTING, *STAGES, State.DONE))},
    (State.VERIFY, Event.READ_BACK): State.READBACK,
    (State.READBACK, Event.NEXT): State.FINISH,
    # The connection to a server without Range support was lost: the transfer begins again.
    (State.WRITE, Event.RESTART): State.WRITE,
    **{(state, event): State.ERROR for state in ACTIVE for event in (Event.FAIL, Event.CANCEL)},
}

# The stages in which the disk has been written but not committed: after an error in them, its first and last MiB are
# zeroed.
UNCOMMITTED = EVERY_STAGE[EVERY_STAGE.index(State.CLAIM) :]


def advance(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        RuntimeError: the table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise RuntimeError(f"a deployment in state {state} cannot take the event {event}") from None


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.STARTING}"]
    lines += [f"    {source} --> {target}: {event}" for (source, event), target in TRANSITIONS.items()]
    lines += [f"    {State.DONE} --> [*]", f"    {State.ERROR} --> [*]"]
    return "\n".join(lines)
