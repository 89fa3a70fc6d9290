"""The stages of a deployment and the one table of state changes.

Nothing sets a state by hand: `advance` looks the change up in the table, and an event that the table does
not have is a fault of ours and raises. The diagram in docs/architecture.md is drawn from this table.
"""

from enum import StrEnum
from itertools import pairwise


class State(StrEnum):
    """Where a deployment is; the first is what a client sees as `starting`."""

    STARTING = "starting"
    PREFLIGHT = "preflight"
    CLAIM = "claim"
    WRITE = "write"
    VERIFY = "verify"
    FINISH = "finish"
    COMMIT = "commit"
    DONE = "done"
    ERROR = "error"


class Event(StrEnum):
    """What happens to a deployment."""

    NEXT = "next"
    RESTART = "restart"
    FAIL = "fail"
    CANCEL = "cancel"


# The order in which a deployment is carried out: plan, table and documents follow it.
STAGES = (State.PREFLIGHT, State.CLAIM, State.WRITE, State.VERIFY, State.FINISH, State.COMMIT)
ACTIVE = (State.STARTING, *STAGES)

TRANSITIONS: dict[tuple[State, Event], State] = {
    **{(before, Event.NEXT): after for before, after in pairwise((*ACTIVE, State.DONE))},
    # A server without Range support was cut: the whole transfer begins again.
    (State.WRITE, Event.RESTART): State.WRITE,
    **{(state, event): State.ERROR for state in ACTIVE for event in (Event.FAIL, Event.CANCEL)},
}

# In these the disk has been touched and not committed: leaving them any other way than forward wipes both ends.
UNCOMMITTED = STAGES[STAGES.index(State.CLAIM) :]


def advance(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        RuntimeError: the table has no such change.
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
