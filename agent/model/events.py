"""The events that a running deployment sends to its listeners: the beginning and end of stages, notes, its own end.

Progress is not an event: clients that show it read a snapshot (`Status`) whenever they want one, so that reporting
cannot slow a deployment.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.model.stage import State
from agent.model.status import Status


@dataclass(frozen=True, slots=True)
class StageBegan:
    """A stage has begun."""

    stage: State


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A stage has ended, after `seconds`, with success or not."""

    stage: State
    seconds: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """A note for people without any consequence: a repaired backup table, a retry."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The deployment has ended, with this final status; always the last event."""

    status: Status


DeployEvent = StageBegan | StageEnded | Noted | Finished
Listener = Callable[[DeployEvent], None]
