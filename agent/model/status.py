"""The status of a deployment: an immutable snapshot, written to and read from its JSON document."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.model.stage import EVERY_STAGE, State

DOING, DONE, ERROR = "doing", "done", "error"


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage that has begun: its start in seconds since the epoch, and its duration (None while it runs)."""

    name: str
    started_at: float
    seconds: float | None

    def document(self) -> dict[str, Any]:
        """The stage in a status document."""
        return {"name": self.name, "startedAt": timestamp(self.started_at), "seconds": _rounded(self.seconds)}


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters of the transfer. `rate` is in bytes a second, `eta` in seconds."""

    bytes_downloaded: int = 0
    bytes_total: int | None = None
    bytes_written: int = 0
    rate: float = 0.0
    eta: float | None = None
    waiting_on: str | None = None
    slow_disk: str | None = None
    """The path of the one for which the transfer waits; None where it waits for no disk, or has one only."""
    connections: int = 0
    """To the image's servers; 0 where none is open."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the transfer has waited for network, disk and cpu; for the metrics, not in the document."""


@dataclass(frozen=True, slots=True)
class Status:
    """A deployment at one moment. Times are in seconds since the epoch."""

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
    disks: tuple[dict[str, Any], ...] = ()
    """Those that the image goes to; none as long as that is not known. `failed` tells why one is kept out."""
    image_type: str | None = None
    """What the content of the file showed, without what is around it; None as long as that is not known."""
    image_packing: str | None = None
    """What is around it, such as `gzip`."""
    signature: dict[str, Any] | None = None
    """Who has signed what; None as long as nobody is known to have."""
    read_back: str | None = None
    """What was read back from the device and is as it was written (`agent.model.verification`); None: nothing yet."""
    registry: dict[str, Any] | None = None
    """Digests of what the URL has led to in a registry; None elsewhere, and as long as that is not known."""
    job: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """`doing`, `done` or `error`, as in the OVH API."""
        return {State.DONE: DONE, State.ERROR: ERROR}.get(self.state, DOING)

    @property
    def disk(self) -> dict[str, Any] | None:
        """The first of the disks that is not kept out."""
        return next((disk for disk in self.disks if not disk.get("failed")), None)

    @property
    def is_over(self) -> bool:
        """Whether the deployment has ended, with success or not."""
        return self.state in (State.DONE, State.ERROR)

    def document(self) -> dict[str, Any]:
        """The JSON document; the first four members are those of the OVH API."""
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
            "slowDisk": progress.slow_disk,
            "connections": progress.connections,
            "attempt": self.attempt,
            "startedAt": timestamp(self.started_at),
            "updatedAt": timestamp(self.updated_at),
            "finishedAt": None if self.finished_at is None else timestamp(self.finished_at),
            "stages": [stage.document() for stage in self.stages],
            "error": self.error,
            "disk": self.disk,
            "disks": list(self.disks),
            "imageType": self.image_type,
            "imagePacking": self.image_packing,
            "signature": self.signature,
            "readBack": self.read_back,
            "registry": self.registry,
            "job": self.job,
            "notes": list(self.notes),
        }


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


# -- reading -------------------------------------------------------------------------------------------------

# No counter of bytes or seconds gets that large; larger numbers would only make texts long.
_LIMIT = 2**63


def read_status(document: Mapping[str, Any]) -> Status:
    """Read what `Status.document` returned. Unknown members are ignored, since a newer agent may have more.

    A stage with an unknown name is kept in `stages`; while it is the last one, the state is `starting`.

    Raises:
        ValueError: a member is missing or invalid; the text names it.
    """
    member = _Members(document)
    stages = tuple(_read_stage(item) for item in member.items("stages", dict))
    return Status(
        server_name=member.text("servername"),
        state=_read_state(member.text("status"), stages),
        message=member.text("message") or "",
        checksum=member.text("checksum"),
        percent=min(member.number("percent"), 100.0),
        attempt=member.count("attempt"),
        progress=Progress(
            bytes_downloaded=member.count("bytesDownloaded"),
            bytes_total=None if document.get("bytesTotal") is None else member.count("bytesTotal"),
            bytes_written=member.count("bytesWritten"),
            rate=member.number("rate"),
            eta=None if document.get("eta") is None else member.number("eta"),
            waiting_on=member.text("waitingOn"),
            slow_disk=member.text("slowDisk"),
            # An older agent did not tell it, and its document may still be in the journal.
            connections=0 if "connections" not in document else member.count("connections"),
        ),
        started_at=member.time("startedAt"),
        updated_at=member.time("updatedAt"),
        finished_at=None if document.get("finishedAt") is None else member.time("finishedAt"),
        stages=stages,
        error=_read_error(member.table("error")),
        disks=_read_disks(member, document),
        image_type=member.text("imageType"),
        image_packing=member.text("imagePacking"),
        signature=member.table("signature"),
        read_back=member.text("readBack"),
        registry=member.table("registry"),
        job=member.table("job") or {},
        notes=tuple(member.items("notes", str)),
    )


def read_timestamp(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time.

    Raises:
        ValueError: it is not such a time, or has no offset from UTC.
    """
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time without its offset from UTC")
    try:
        return when.astimezone(UTC).timestamp()
    except OverflowError:
        raise ValueError("a time outside of the calendar") from None


class _Members:
    """Typed access to the members of a decoded JSON object; null counts as absent."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def _get(self, key: str, *kinds: type) -> Any:
        value = self._document.get(key)
        if type(value) not in kinds:
            raise _fault(key)
        return value

    def text(self, key: str) -> str | None:
        value: str | None = self._get(key, str, type(None))
        return value

    def number(self, key: str) -> float:
        value = self._get(key, int, float)
        if not 0 <= value < _LIMIT:  # also false for NaN
            raise _fault(key)
        return float(value)

    def count(self, key: str) -> int:
        value: int = self._get(key, int)
        if not 0 <= value < _LIMIT:
            raise _fault(key)
        return value

    def time(self, key: str) -> float:
        try:
            return read_timestamp(self._get(key, str))
        except ValueError:
            raise _fault(key) from None

    def table(self, key: str) -> dict[str, Any] | None:
        value: dict[str, Any] | None = self._get(key, dict, type(None))
        return value

    def items(self, key: str, kind: type) -> list[Any]:
        value: list[Any] = self._get(key, list)
        if any(type(item) is not kind for item in value):
            raise _fault(key)
        return value


def _fault(key: str) -> ValueError:
    return ValueError(f"the member {key} of the status is missing or not what it has to be")


def _read_stage(document: Mapping[str, Any]) -> StageTime:
    member = _Members(document)
    name = member.text("name")
    if name is None:
        raise _fault("stages")
    seconds = None if document.get("seconds") is None else member.number("seconds")
    return StageTime(name, member.time("startedAt"), seconds)


def _read_state(status: str | None, stages: tuple[StageTime, ...]) -> State:
    match status:
        case "done":
            return State.DONE
        case "error":
            return State.ERROR
        case "doing":
            return State(stages[-1].name) if stages and stages[-1].name in EVERY_STAGE else State.STARTING
        case _:
            raise _fault("status")


def _read_disks(member: _Members, document: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    if "disks" in document:
        return tuple(member.items("disks", dict))
    disk = member.table("disk")  # of an older agent, which had one at most
    return () if disk is None else (disk,)


def _read_error(document: dict[str, Any] | None) -> dict[str, Any] | None:
    if document is None:
        return None
    for key, kinds in {
        **dict.fromkeys(("code", "blame", "message"), (str,)),
        **dict.fromkeys(("detail", "hint"), (str, type(None))),
    }.items():
        if type(document.get(key)) not in kinds:
            raise _fault(f"error.{key}")
    return document
