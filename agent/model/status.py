"""The status document: a frozen snapshot of a deployment, as clients and people read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.model.stage import State

DOING, DONE, ERROR = "doing", "done", "error"


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage that has begun: when, and how long it took (None while it runs)."""

    name: str
    started_at: float
    seconds: float | None

    def document(self) -> dict[str, Any]:
        """The stage as it stands in a status document."""
        return {"name": self.name, "startedAt": timestamp(self.started_at), "seconds": _rounded(self.seconds)}


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters of the transfer: bytes, bytes a second, seconds."""

    bytes_downloaded: int = 0
    bytes_total: int | None = None
    bytes_written: int = 0
    rate: float = 0.0
    eta: float | None = None
    waiting_on: str | None = None
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the transfer has stood still because of each side; for the metrics, not in the document."""


@dataclass(frozen=True, slots=True)
class Status:
    """A deployment at one instant. Times are seconds since the epoch."""

    server_name: str | None
    state: State
    message: str
    checksum: str | None
    percent: float
    attempt: int
    progress: Progress
    started_at: float
    updated_at: float
    finished_at: float | None = None
    stages: tuple[StageTime, ...] = ()
    error: dict[str, Any] | None = None
    disk: dict[str, Any] | None = None
    job: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """`doing`, `done` or `error`: all that the seed API knew."""
        return {State.DONE: DONE, State.ERROR: ERROR}.get(self.state, DOING)

    def document(self) -> dict[str, Any]:
        """The JSON document; the first four members are the seed API's, the rest is ours."""
        progress = self.progress
        return {
            "servername": self.server_name,
            "status": self.status,
            "message": self.message,
            "checksum": self.checksum,
            "stage": self.stages[-1].name if self.stages else None,
            "percent": round(self.percent, 1),
            "bytesDownloaded": progress.bytes_downloaded,
            "bytesTotal": progress.bytes_total,
            "bytesWritten": progress.bytes_written,
            "rate": round(progress.rate),
            "eta": _rounded(progress.eta),
            "waitingOn": progress.waiting_on,
            "attempt": self.attempt,
            "startedAt": timestamp(self.started_at),
            "updatedAt": timestamp(self.updated_at),
            "finishedAt": None if self.finished_at is None else timestamp(self.finished_at),
            "stages": [stage.document() for stage in self.stages],
            "error": self.error,
            "disk": self.disk,
            "job": self.job,
            "notes": list(self.notes),
        }


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
