"""The answer of /v1/status, and the deployment events between two such answers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.cli.surroundings import UNTOLD, Surroundings, read_surroundings
from agent.model.events import DeployEvent, Finished, Noted, StageBegan, StageEnded
from agent.model.stage import EVERY_STAGE, State
from agent.model.status import StageTime, Status, read_status, read_timestamp


@dataclass(frozen=True, slots=True)
class Reboot:
    """The reboot that follows a deployment: waiting, due, disabled or failed."""

    state: str
    at: float | None = None
    """When it comes at the latest, in seconds since the epoch."""
    reason: str | None = None
    """Why it failed, or why it has not come yet."""
    waiting_for: str | None = None
    """Of whom it waits to see the outcome: client or controlPlane."""


@dataclass(frozen=True, slots=True)
class Report:
    """One answer. `status` is None where there is no deployment."""

    revision: int
    server_name: str | None
    id: str | None
    status: Status | None
    reboot: Reboot | None
    document: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()
    """What the agent has to tell where there is no deployment."""
    surroundings: Surroundings = UNTOLD


def read_report(document: object) -> Report:
    """Read an answer of /v1/status.

    Raises:
        ValueError: it is not such an answer; the text names the member at fault.
    """
    if not isinstance(document, dict):
        raise ValueError("the status is not a JSON object")  # noqa: TRY004 - callers expect one kind of error
    revision, identity = document.get("revision"), document.get("id")
    server_name = document.get("servername")
    if type(revision) is not int:
        raise ValueError("the member revision of the status is not a number")
    return Report(
        revision=revision,
        server_name=server_name if isinstance(server_name, str) else None,
        id=identity if isinstance(identity, str) else None,
        status=None if document.get("status") is None else read_status(document),
        reboot=_read_reboot(document.get("reboot")),
        document=document,
        notes=_read_notes(document.get("notes")),
        surroundings=read_surroundings(document),
    )


def _read_notes(items: object) -> tuple[str, ...]:
    return tuple(item for item in items if isinstance(item, str)) if isinstance(items, list) else ()


def _read_reboot(document: object) -> Reboot | None:
    if not isinstance(document, dict) or not isinstance(document.get("state"), str):
        return None
    at, reason, awaited = (document.get(key) for key in ("at", "reason", "waitingFor"))
    return Reboot(
        state=document["state"],
        at=read_timestamp(at) if isinstance(at, str) else None,
        reason=reason if isinstance(reason, str) else None,
        waiting_for=awaited if isinstance(awaited, str) else None,
    )


def changes(before: Status | None, after: Status) -> list[DeployEvent]:
    """The events that lead from one status of a deployment to a later one, in the order of their happening.

    Where `before` is None, or is of an attempt before the agent was restarted: all events since the start. A stage
    that began and ended between the two gives both events.
    """
    if before is not None and not _is_continued(before.stages, after.stages):
        before = None
    known = 0 if before is None else len(before.stages)
    events: list[DeployEvent] = []
    noted: list[DeployEvent] = [
        Noted(text) for text in _new_notes(before.notes if before else (), after.notes)
    ]
    for index, stage in enumerate(after.stages):
        if stage.name not in EVERY_STAGE:
            continue
        if index >= known:
            events.append(StageBegan(State(stage.name)))
        if stage.seconds is not None and _has_ended(after, index) and not _has_ended(before, index):
            failed = after.state is State.ERROR and index == len(after.stages) - 1
            events.append(StageEnded(State(stage.name), stage.seconds, failed))
    if after.is_over and (before is None or not before.is_over):
        events.append(Finished(after))
    return noted + events if before is not None else events[:-1] + noted + events[-1:]


def _has_ended(status: Status | None, index: int) -> bool:
    """Whether it is known how a stage ended: of the last one only the end of the deployment tells that."""
    return status is not None and (index < len(status.stages) - 1 or status.is_over)


def _is_continued(before: tuple[StageTime, ...], after: tuple[StageTime, ...]) -> bool:
    """Whether the later list of stages begins with the earlier one: else the deployment was begun again."""

    def begun(stages: tuple[StageTime, ...]) -> list[tuple[str, float]]:
        return [(stage.name, stage.started_at) for stage in stages]

    return begun(after)[: len(before)] == begun(before)


def _new_notes(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    """The notes that were added. A status keeps only the last ones: the first of `before` may have left `after`."""
    for length in range(min(len(before), len(after)), 0, -1):
        if before[-length:] == after[:length]:
            return after[length:]
    return after
