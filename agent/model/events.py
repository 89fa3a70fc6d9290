"""What a running deployment tells its listeners: one event a stage, never one a chunk.

Progress is not an event here: whoever shows it pulls a snapshot at a pace of its own, so reporting cannot
slow a deploy.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.model.stage import State
from agent.model.status import Status


@dataclass(frozen=True, slots=True)
class StageBegan:
    """A stage begins."""

    stage: State


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A stage is over, well or not."""

    stage: State
    seconds: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that people should know and that changes nothing: a repaired backup table, a retry."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The deployment is over; the last event."""

    status: Status


DeployEvent = StageBegan | StageEnded | Noted | Finished
Listener = Callable[[DeployEvent], None]
