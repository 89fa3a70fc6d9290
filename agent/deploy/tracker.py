"""The state of one deployment as it runs, and the snapshots that clients read of it.

Owned by the runner and used on the event loop only. A state changes by the table in model/stage.py and
nowhere else; the percentage never goes back, whatever is restarted.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from agent.errors import DeployError, JobCancelled
from agent.model.disk_state import DiskState, with_disk_state
from agent.model.events import DeployEvent, Finished, Listener, Noted, StageBegan, StageEnded
from agent.model.job import Job
from agent.model.seal import KeptOut, Seal, SealedDisk
from agent.model.stage import EVERY_STAGE, Event, State, advance
from agent.model.status import Progress, StageTime, Status
from agent.model.verification import COMMIT

if TYPE_CHECKING:
    pass  # the daemon needs this module at its start, but no plan

log = structlog.get_logger(__name__)

MESSAGES = {
    State.STARTING: "starting",
    State.PREFLIGHT: "Checking the image and the disk before anything is written.",
    State.CLAIM: "Taking the disk and wiping its old system.",
    State.WRITE: "Downloading the image and writing it to the disk.",
    State.VERIFY: "Verifying the downloaded image.",
    State.READBACK: "Reading back from the disk everything that was written.",
    State.FINISH: "Fitting the partition table and writing the config drive.",
    State.COMMIT: "Making the disk bootable; both its ends and the config drive are read back.",
    State.DONE: "The image is deployed and verified.",
}
# Of a job without a checksum.
UNCHECKED_MESSAGES = MESSAGES | {
    State.VERIFY: "Verifying the length of the downloaded image; the job names no checksum.",
    State.DONE: "The image is deployed. Only its length was verified: the job names no checksum.",
}

# A transfer over a bad line notes every retry; the status keeps the last ones.
MAX_NOTES = 100
# The stages in which bytes of the image come in. In the others the meter's last rate means nothing.
_FLOWING = (State.PREFLIGHT, State.WRITE)


class Tracker:
    """Where a deployment is, since when, and how far."""

    def __init__(
        self,
        job: Job,
        server_name: str | None,
        listener: Listener,
        clock: Callable[[], float] = time.time,
        *,
        attempt: int = 1,
        min_percent: float = 0.0,
        disk_state: DiskState = DiskState.UNTOUCHED,
    ) -> None:
        """Nothing has begun.

        Args:
            job: what is deployed.
            server_name: as clients see it.
            listener: is told the events; one that raises is told the next one all the same.
            clock: seconds since the epoch.
            attempt: which one this is.
            min_percent: what clients were told of an attempt before this one: they are never told less.
            disk_state: what that attempt left of the disk.
        """
        self._job = job
        self._server_name = server_name
        self._listener = listener
        self._clock = clock
        self.weights: Mapping[State, float] = {}
        """The plan's shares of the stages in the percentage; none before there is a plan."""
        self._percent = min(max(min_percent, 0.0), 100.0)
        self._stages: list[StageTime] = []
        self._began = time.monotonic()
        self.state = State.STARTING
        self.attempt = attempt
        self.started_at = clock()
        self.finished_at: float | None = None
        self.error: DeployError | None = None
        self.checksum: str | None = None
        self.signature: dict[str, Any] | None = None
        self.read_back: str | None = None
        """What was read back from the device and is as it was written."""
        self.read_back_share: Callable[[], float] = lambda: 0.0
        """How much of what is to be read back has been, from 0 to 1."""
        self.registry: dict[str, Any] | None = None
        self.disks: list[dict[str, Any]] = []
        self.failed: Callable[[], Mapping[str, str]] = dict
        """Why disks are kept out, by their paths."""
        self.image_type: str | None = None
        self.image_packing: str | None = None
        self.disk_state = disk_state
        """What is on the disk; told where the deployment fails."""
        self.notes: deque[str] = deque(maxlen=MAX_NOTES)
        self.noted = 0
        """How many notes there were in all."""
        self.progress: Callable[[], Progress] = Progress

    def next(self, stage: State | None = None) -> None:
        """One stage is over (or none had begun), the next one begins.

        Args:
            stage: the plan's next one; None: the one that follows as a rule.
        """
        self._end_stage()
        self.state = advance(self.state, Event.READ_BACK if stage is State.READBACK else Event.NEXT)
        if self.state in EVERY_STAGE:
            self._began = time.monotonic()
            self._stages.append(StageTime(self.state.value, self._clock(), None))
            self._tell(StageBegan(self.state))
        else:
            self._finish()

    def restart(self) -> None:
        """The transfer begins again from byte 0."""
        self.state = advance(self.state, Event.RESTART)
        self._begin_again()

    def _begin_again(self) -> None:
        self.attempt += 1
        self.note("the transfer cannot be resumed: it begins again from the first byte")

    def fail(self, error: DeployError) -> None:
        """The deployment is over and has failed."""
        self._percent = max(self._percent, self._percent_now(self.progress()))
        self._end_stage(failed=True)
        self.state = advance(self.state, Event.CANCEL if isinstance(error, JobCancelled) else Event.FAIL)
        self.error = error
        self._finish()

    def note(self, text: str) -> None:
        """Keep something for people to read."""
        self.notes.append(text)
        self.noted += 1
        self._tell(Noted(text))

    def source_event(self, event: str, details: Mapping[str, object]) -> None:
        """What the source says of its retries, in words."""
        match event:
            case "retrying":
                where = (
                    f"attempt {details['attempt']} of {details['attempts']}, at byte {details['position']}"
                )
                self.note(f"trying again in {details['delay']:.1f} s ({where}): {details['reason']}")
            case "resumed":
                self.note(f"resumed at byte {details['position']}")
            case "redirected":
                self.note(f"redirected to {details['url']}")
            case "mirror":
                self.note(f"going on with {details['url']}: {details['reason']}")
            case "restarted" if self.state is State.PREFLIGHT:
                self._begin_again()
            case _:
                pass  # a restart of the write is told by its stage

    def fetch_event(self, event: str, details: Mapping[str, object]) -> None:
        """What is said of the retries of a file that belongs to the image."""
        match event:
            case "retrying":
                attempt = f"attempt {details['attempt']} of {details['attempts']}"
                self.note(
                    f"a file of the job is tried again in {details['delay']:.1f} s ({attempt}): {details['reason']}"
                )
            case "redirected":
                self.note(f"a file of the job is redirected to {details['url']}")
            case _:
                pass  # it is small: that it was resumed, or begun again, is of no interest

    def snapshot(self) -> Status:
        """The status now."""
        progress = self.progress()
        self._percent = max(self._percent, self._percent_now(progress))
        failed = self.failed()
        return Status(
            server_name=self._server_name,
            state=self.state,
            message=self._message(failed),
            checksum=self.checksum,
            signature=self.signature,
            read_back=self.read_back,
            registry=self.registry,
            percent=self._percent,
            attempt=self.attempt,
            progress=progress
            if self.state in _FLOWING
            else replace(progress, rate=0.0, eta=None, waiting_on=None, slow_disk=None, connections=0),
            started_at=self.started_at,
            updated_at=self._clock(),
            finished_at=self.finished_at,
            stages=tuple(self._stages),
            error=None if self.error is None else with_disk_state(self.error.document(), self.disk_state),
            disks=tuple({**disk, "failed": failed.get(disk["path"])} for disk in self.disks),
            image_type=self.image_type,
            image_packing=self.image_packing,
            job=self._job.redacted(),
            notes=tuple(self.notes),
        )

    def _message(self, failed: Mapping[str, str]) -> str:
        if self.error is not None:
            return self.error.message
        message = (MESSAGES if self._job.tells_content else UNCHECKED_MESSAGES)[self.state]
        if self.state is State.DONE and failed:
            return f"{message} Not on {' and '.join(failed)}: kept out, having failed."
        return message

    def _percent_now(self, progress: Progress) -> float:
        if self.state is State.DONE:
            return 100.0
        if self.state not in self.weights:
            return 0.0
        before = sum(self.weights.get(stage, 0) for stage in EVERY_STAGE[: EVERY_STAGE.index(self.state)])
        total = progress.bytes_total
        fraction = progress.bytes_written / total if self.state is State.WRITE and total else 0.0
        if self.state is State.READBACK:
            fraction = self.read_back_share()
        return before + self.weights[self.state] * min(fraction, 1.0)

    def _end_stage(self, *, failed: bool = False) -> None:
        if self._stages and self._stages[-1].seconds is None:
            seconds = time.monotonic() - self._began
            last = self._stages[-1]
            self._stages[-1] = StageTime(last.name, last.started_at, seconds)
            self._tell(StageEnded(State(last.name), seconds, failed))

    def _finish(self) -> None:
        self.finished_at = self._clock()
        self._tell(Finished(self.snapshot()))

    def _tell(self, event: DeployEvent) -> None:
        # Whoever watches a deployment must not be able to end it: a log that nobody reads any more, a full disk.
        try:
            self._listener(event)
        except Exception as error:
            log.exception("listener_failed", told=type(event).__name__, fault=type(error).__name__)


def starting(job: Job, server_name: str | None, *, attempt: int, min_percent: float = 0.0) -> Status:
    """The first status of a deployment that has been accepted and has not begun."""
    return Tracker(job, server_name, lambda _: None, attempt=attempt, min_percent=min_percent).snapshot()


def concluded(
    job: Job,
    server_name: str | None,
    *,
    attempt: int,
    outcome: Seal | DeployError,
    disk_state: DiskState,
    note: str = "",
    min_percent: float = 0.0,
) -> Status:
    """The last status of a deployment that nobody carries on: committed as its seal says, or failed with the disk in
    this state.
    """
    tracker = Tracker(
        job, server_name, lambda _: None, attempt=attempt, min_percent=min_percent, disk_state=disk_state
    )
    if note:
        tracker.note(note)
    if isinstance(outcome, DeployError):
        tracker.fail(outcome)
        return tracker.snapshot()
    tracker.checksum = outcome.checksum
    tracker.signature = json.loads(outcome.signature) if outcome.signature else None
    tracker.read_back = outcome.read_back or COMMIT
    tracker.registry = json.loads(outcome.registry) if outcome.registry else None
    disks: tuple[SealedDisk | KeptOut, ...] = (*outcome.disks, *outcome.kept_out)
    tracker.disks = [{"path": disk.path, "size": disk.size} for disk in disks]
    tracker.failed = lambda: {disk.path: disk.failed for disk in outcome.kept_out}
    tracker.image_type = outcome.image_type or None
    tracker.image_packing = outcome.image_packing or None
    while tracker.state is not State.DONE:
        tracker.state = advance(tracker.state, Event.NEXT)
    tracker.finished_at = tracker.started_at
    return tracker.snapshot()
