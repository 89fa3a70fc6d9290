"""The run of one job: from its acceptance, or from what the journal knows of it, to the hand-over.

A run reports what happens as events to the store, and has the view show it; what becomes of the slot when it ends is
the slot's business. The slot carries it out in a task, and ends it by `request_end`. Whatever ends it, the outcome of
the deployment is recorded before anything else is made of it, and nothing but a cancellation leaves it: a fault of ours
becomes the job's error, never the daemon's end.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, Protocol

import structlog

from agent.aio import alongside
from agent.deploy.tracker import concluded
from agent.errors import DeployError, JobCancelled, JobInterrupted, StateUnusable, unforeseen
from agent.model.disk_state import DiskState
from agent.model.events import DeployEvent, Finished, Listener
from agent.model.job import Job
from agent.model.seal import Seal
from agent.model.status import DOING, DONE, Status
from agent.service.config.model import RebootConfig
from agent.service.jobs.entry import JobEntry, Phase
from agent.service.jobs.phases import (
    UNDECIDED,
    BegunAgain,
    Committed,
    DiskChanged,
    Event,
    Failed,
    HandedOver,
    PercentPromised,
    RebootMarked,
    Restart,
    Sealed,
    after_restart,
)
from agent.service.jobs.reboot import HandOver
from agent.service.jobs.receipts import Receipts
from agent.service.jobs.store import JobStore
from agent.service.jobs.view import StatusView
from agent.units import KiB

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
# How far ahead the journal knows what clients may be told, in per cent, and where that ends: only a job that is over is
# at 100.
PERCENT_STEP = 5.0
MAX_PERCENT = 99.0
# Of a status that is kept: the room for it is reserved.
MAX_NOTES_BYTES = 32 * KiB

EndReason = Literal["erase", "cancel", "stop"]
"""Why a run is to end: the state is to be erased, the job is cancelled, or the daemon stops."""


class Running(Protocol):
    """A deployment, as far as a run needs it."""

    def snapshot(self) -> Status:
        """The status now."""

    def activity(self) -> tuple[object, ...]:
        """A token that differs from the last one while anything moves."""

    async def run(self) -> Status:
        """Deploy; returns the final status, raises only CancelledError."""


Keep = Callable[[DiskState | Seal], Awaitable[None]]
"""Makes durable what the deployment has done to the disk, or is about to do."""


class Deployer(Protocol):
    """Makes deployments. `reboot` says whether, how and when the server is rebooted after one."""

    reboot: RebootConfig

    async def launch(self, job: Job, listener: Listener, keep: Keep, entry: JobEntry) -> Running:
        """A deployment of this job; `entry` tells what the attempts before it have come to."""

    async def is_committed(self, seal: Seal) -> bool:
        """Whether the disk is as the seal says. Raises OSError."""

    def observe(self, event: DeployEvent) -> None:
        """Is told what deployments do, for the log, the metrics and the subscribers."""


class JobRun:
    """The run of one job."""

    def __init__(
        self,
        entry: JobEntry,
        job: Job,
        store: JobStore,
        view: StatusView,
        deployer: Deployer,
        receipts: Receipts,
        *,
        resumed: bool,
    ) -> None:
        """Nothing happens yet, but that a job that is done has its hand-over at once.

        Args:
            entry: as it is in the store.
            job: its job, read.
            store: where its facts are kept.
            view: shows them.
            deployer: what it works with.
            receipts: makes that of its outcome.
            resumed: another agent had begun it.
        """
        self._entry = entry
        self._job = job
        self._store = store
        self._view = view
        self._deployer = deployer
        self._receipts = receipts
        self._resumed = resumed
        self._called_off = False
        """Whether no reboot is to follow, also where the hand-over has not begun."""
        self._outcome: Status | None = None
        """What the deployment came to, from the moment on at which nothing can change it."""
        self._activity: tuple[object, ...] = ()
        self._moved_at = time.monotonic()
        self._deployment: Running | None = None
        self.end_reason: EndReason | None = None
        self.is_to_be_delivered = True
        """Whether a control plane whose job it is has to be told how it ended, where it is erased."""
        self.hand_over: HandOver | None = None
        if entry.phase is Phase.DONE:
            self._prepare_hand_over()

    # -- what others ask and do ----------------------------------------------------------------------------

    @property
    def deploying(self) -> bool:
        """Whether the deployment is under way."""
        return self._deployment is not None

    @property
    def still_seconds(self) -> float:
        """For how many seconds the deployment has not moved at all."""
        return time.monotonic() - self._moved_at if self.deploying else 0.0

    @property
    def is_to_be_erased(self) -> bool:
        """Whether somebody was promised, now or before the agent was restarted, that nothing is left of it."""
        return self.end_reason == "erase" or self._latest().requested_end == "erase"

    def live_status(self) -> Status | None:
        """The status of the deployment that is under way."""
        return None if self._deployment is None else self._deployment.snapshot()

    def last_status(self) -> Status | None:
        """The status of the deployment that is under way, or its outcome."""
        return self._outcome if self._deployment is None else self._deployment.snapshot()

    def reboot_document(self) -> Mapping[str, Any] | None:
        """The member `reboot` of the status, where there is a hand-over."""
        return None if self.hand_over is None else self.hand_over.document()

    @property
    def job_id(self) -> str:
        """The id of its job."""
        return self._entry.id

    def request_end(self, reason: EndReason, *, deliver: bool = True) -> bool:
        """Have it end; an erasure outranks the other reasons. Whether its task is to be cancelled for that.

        Once: a second cancellation would cut into the cleaning up after the first.

        Args:
            reason: why.
            deliver: whether a control plane whose job it is has to be told of the end.
        """
        first = self.end_reason is None
        if first or reason == "erase":
            self.end_reason, self.is_to_be_delivered = reason, deliver
        return first

    def call_off(self) -> bool:
        """No reboot follows, also where the deployment is not over yet; False if one has been ordered already."""
        self._called_off = True
        if self.hand_over is None:
            return True
        self.hand_over.call_off()
        return not self.hand_over.is_ordered

    def waiting_for(self) -> str:
        """What keeps it, where it was told to end."""
        status = self.live_status()
        if status is None:
            return (
                "the agent is at its last step" if self.hand_over is None else "the hand-over has not ended"
            )
        where = status.disk["path"] if status.disk else "the disk"
        still = f"{self.still_seconds:.0f} s"
        return f"{where} has not finished an operation of the stage {status.state.value} for {still}"

    # -- the run ---------------------------------------------------------------------------------------------

    async def carry_out(self) -> None:
        """Deploy, and hand the server over; returns where nothing is left to do, also after an erasure or a
        cancellation.

        Raises:
            asyncio.CancelledError: the daemon stops.
        """
        try:
            await self._work_through()
        except asyncio.CancelledError:
            await self._wind_down()
            if self.end_reason not in ("erase", "cancel"):
                raise
        finally:
            self._deployment = None

    async def settle_cancelled(self) -> None:
        """Record that the deployment was cancelled, unless it has an outcome, and that no reboot follows."""
        outcome = self._outcome
        if outcome is None and self._phase() in UNDECIDED:
            outcome = self._status_of(JobCancelled())
        if outcome is not None:
            await self._conclude(outcome, wait=False)
        if self.hand_over is not None:
            self.hand_over.call_off()
            if self.hand_over.is_over:
                await self._close(self.hand_over)

    async def _work_through(self) -> None:
        """Work, and make an outcome of what ends that without having been asked for."""
        try:
            await self._work()
        except asyncio.CancelledError as error:
            if self.end_reason is not None:
                raise
            self._go_on_after_stray_cancellation()
            await self._conclude_crashed(error)
        except Exception as error:
            log.error("job_crashed", id=self._entry.id, exc_info=error)  # noqa: TRY400
            await self._conclude_crashed(error)

    def _go_on_after_stray_cancellation(self) -> None:
        """Nobody asked for this cancellation: a library caught one and left it in the task's count."""
        log.error("cancelled_by_nobody", id=self._entry.id)
        task = asyncio.current_task()
        while task is not None and task.uncancel():
            pass

    async def _work(self) -> None:
        if self._entry.phase is not Phase.DONE and (not self._resumed or await self._takes_up()):
            await self._deploy()
        await self._hand_over()

    async def _takes_up(self) -> bool:
        """What an agent that comes back makes of a job that was running; whether it begins it again."""
        is_committed = await self._compare_with_seal()
        match after_restart(self._latest(), same_boot=True, is_committed=is_committed):
            case Restart.ERASE:
                return False  # by the slot
            case Restart.COMMITTED if self._outcome is not None:
                await self._conclude(self._outcome)
                if self._latest().requested_end == "cancel" and self.hand_over is not None:
                    self.hand_over.call_off()
                return False
            case Restart.CANCELLED:
                await self._conclude(self._status_of(JobCancelled()))
                return False
            case Restart.GIVE_UP:
                reason = f"the agent went away in each of {self._latest().attempt} attempts"
                await self._conclude(self._status_of(JobInterrupted(reason=reason)))
                return False
            case _:  # BEGIN_AGAIN
                await self._record(BegunAgain())
                self._view.show()
                return True

    async def _compare_with_seal(self) -> bool:
        """Whether the last agent's commit is complete on the disk, where it had begun; then it has its outcome."""
        seal = self._entry.seal
        if seal is None or self._phase() is not Phase.SEALED:
            return False
        try:
            if not await self._deployer.is_committed(seal):
                return False
        except OSError as error:
            log.warning("seal_unreadable", path=seal.path, reason=error.strerror or str(error))
            await self._record(DiskChanged(DiskState.UNKNOWN))
            return False
        note = "the agent was interrupted in the commit and found it complete on the disk"
        self._outcome = self._status_of(seal, note)
        return True

    def _status_of(self, outcome: Seal | DeployError, note: str = "") -> Status:
        latest = self._latest()
        return concluded(
            self._job,
            self._view.server_name,
            attempt=latest.attempt,
            outcome=outcome,
            disk_state=latest.disk_state,
            note=note,
            min_percent=self._store.promised_percent(self._entry.id),
        )

    async def _deploy(self) -> None:
        deployment = await self._deployer.launch(self._job, self._listen, self._keep, self._latest())
        self._moved_at = time.monotonic()
        self._deployment = deployment
        try:
            async with alongside(self._tick(deployment)):
                await deployment.run()
        finally:
            if deployment.snapshot().status != DOING:
                self._outcome = deployment.snapshot()
        await self._conclude(deployment.snapshot())

    async def _conclude(self, status: Status, *, wait: bool = True) -> None:
        """Record an outcome, then show it. The first one counts.

        Args:
            status: the outcome.
            wait: until the journal has it, however long that takes. A run that was told to end does not.
        """
        self._outcome = status
        document = status.document()
        receipt, note = await self._receipts.issue(self._latest(), document)
        document["notes"] = last_notes([*document["notes"], *([note] if note else [])])
        outcome = Committed if status.status == DONE else Failed
        await self._record(outcome(document, self._job.without_secrets(), receipt))
        self._deployment = None
        if wait:
            self._view.show()
            await self._store.until_outcome(self._entry.id)
        self._announce()

    def _announce(self) -> None:
        if self._phase() is Phase.DONE and self.hand_over is None:
            self._prepare_hand_over()
        self._view.show()
        if self._store.has_outcome(self._entry.id):
            self._view.tell("result")

    async def _conclude_crashed(self, error: BaseException) -> None:
        if self._phase() in UNDECIDED:
            # A deployment that only our own fault has cancelled was not cancelled by anybody.
            outcome = None if self._outcome is None or _is_cancelled(self._outcome) else self._outcome
            await self._conclude(outcome or self._status_of(unforeseen(error)))
        elif self._phase() is Phase.DONE and self.hand_over is None:
            self._announce()
        await self._hand_over()

    async def _wind_down(self) -> None:
        """The task was cancelled: record what there is to record. What is to be erased is left to the slot."""
        if self._resumed and self._outcome is None and self.end_reason in ("erase", "cancel"):
            await self._compare_with_seal()  # what the last agent committed is no cancelled deployment
        if self.end_reason == "cancel":
            await self.settle_cancelled()
        elif self.end_reason != "erase":
            await self._leave_to_the_next_agent()

    async def _leave_to_the_next_agent(self) -> None:
        """The daemon stops: keep the outcome, or what this attempt leaves of the disk."""
        outcome = self._outcome
        if outcome is None:
            return
        if not _is_cancelled(outcome):
            await self._conclude(outcome, wait=False)
        elif outcome.error is not None and self._phase() in UNDECIDED:
            await self._record(DiskChanged(DiskState(outcome.error["diskState"])))

    # -- the hand-over ---------------------------------------------------------------------------------------

    def _prepare_hand_over(self) -> None:
        entry = self._latest()
        pulled = entry.origin == "control"
        reboot = self._deployer.reboot
        if entry.origin == "ironic":  # the conductor decides on power
            reboot = replace(reboot, enabled=False)
        self.hand_over = HandOver(
            reboot,
            self._view.show_and_tell,
            self._mark_reboot,
            pulled=pulled,
            ordered_at=entry.ordered_at,
        )
        if entry.acknowledged if pulled else entry.outcome_seen:
            self.hand_over.confirm()
        if self._called_off:
            self.hand_over.call_off()

    async def _mark_reboot(self, at: float | None) -> bool:
        try:
            return await self._store.require(self._entry.id, RebootMarked(at))
        except StateUnusable as error:
            log.error("journal_failed", reason=str(error))  # noqa: TRY400 - the text says all
            # Rather ordered twice in one boot than not at all, as long as the next agent knows the outcome.
            return await self._store.knows_outcome()

    async def _hand_over(self) -> None:
        """Hand the server over, if there is anything to hand over."""
        if self.hand_over is None:
            return
        while not self.hand_over.is_over:
            try:
                await self.hand_over.run()
            except asyncio.CancelledError:
                if self.end_reason is not None:
                    raise
                self._go_on_after_stray_cancellation()
        await self._close(self.hand_over)

    async def _close(self, hand_over: HandOver) -> None:
        """The hand-over is over, and the server still here: the next agent has nothing to do but to answer."""
        if self._phase() is Phase.DONE:
            await self._record(HandedOver(hand_over.document()))

    # -- details ---------------------------------------------------------------------------------------------

    def _latest(self) -> JobEntry:
        """The job's entry in the store; the last that was known where it is gone."""
        entry = self._store.entry
        return entry if entry is not None and entry.id == self._entry.id else self._entry

    def _phase(self) -> Phase | None:
        """None where the job is not in the slot any more."""
        entry = self._store.entry
        return entry.phase if entry is not None and entry.id == self._entry.id else None

    async def _record(self, event: Event) -> None:
        await self._store.record(self._entry.id, event)

    async def _keep(self, fact: DiskState | Seal) -> None:
        """Keep what the deployment has done, or is about to do.

        Raises:
            StateUnusable: it is about to claim the disk, and the journal cannot be written: after a kill the next agent
                would tell of an untouched disk.
        """
        if isinstance(fact, Seal):
            await self._record(Sealed(fact))
        elif fact is DiskState.UNKNOWN:
            await self._store.require(self._entry.id, DiskChanged(fact))
        else:
            await self._record(DiskChanged(fact))

    def _listen(self, event: DeployEvent) -> None:
        self._deployer.observe(event)
        if not isinstance(event, Finished):  # that is shown once the journal has it
            self._view.show()

    async def _tick(self, deployment: Running) -> None:
        """Show progress at a steady pace, and note whether there is any."""
        while True:
            try:
                await self._look(deployment)
            except Exception as error:
                log.error("tick_failed", id=self._entry.id, exc_info=error)  # noqa: TRY400
            await asyncio.sleep(TICK_SECONDS)

    async def _look(self, deployment: Running) -> None:
        activity = deployment.activity()
        if activity != self._activity:
            self._activity, self._moved_at = activity, time.monotonic()
        await self._promise(deployment.snapshot().percent)
        if self._view.show():
            self._view.tell("progress")

    async def _promise(self, percent: float) -> None:
        """Have the journal know of a percentage, and of the next ones, before any client does."""
        if self._phase() in UNDECIDED and self._latest().percent < min(percent, MAX_PERCENT):
            await self._record(PercentPromised(min(round(percent + PERCENT_STEP, 1), MAX_PERCENT)))


def last_notes(notes: list[str]) -> list[str]:
    """The last notes, as many as the journal has room for."""
    sizes = accumulate(len(json.dumps(note)) + 2 for note in reversed(notes))
    count = sum(size <= MAX_NOTES_BYTES for size in sizes)
    return notes[len(notes) - count :]


def _is_cancelled(status: Status) -> bool:
    return status.error is not None and status.error["code"] == JobCancelled.code
