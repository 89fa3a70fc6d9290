"""The life of one job: from its acceptance (or from what the journal knows of it) to the hand-over, in one task.

Whatever ends the task, the outcome of the deployment is recorded before anything else is made of it. Nothing but a
cancellation leaves the task: a fault of ours becomes the job's error, never the daemon's end.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, Protocol

import structlog

from agent.aio import alongside
from agent.deploy.tracker import concluded
from agent.errors import DeployError, JobCancelled, JobInterrupted, StateUnusable, unforeseen
from agent.model.disk_state import DiskState
from agent.model.events import DeployEvent, Finished, Listener
from agent.model.job import Job
from agent.model.seal import Seal
from agent.model.stage import State
from agent.model.status import DOING, Status
from agent.service.config.model import Reboot
from agent.service.jobs.journal import Entry, Phase
from agent.service.jobs.reboot import HandOver
from agent.service.jobs.store import Ledger
from agent.units import KiB

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
TICK_SECONDS = 1.0
# How far ahead the journal knows what clients may be told, in per cent, and where that ends: only a job that is over is
# at 100.
PERCENT_STEP = 5.0
MAX_PERCENT = 99.0
# Of a status that is kept: the room for it is reserved.
MAX_NOTES_BYTES = 32 * KiB

Why = Literal["erase", "cancel", "stop"]


class Running(Protocol):
    """A deployment, as far as a life needs it."""

    def snapshot(self) -> Status:
        """The status now."""

    def pulse(self) -> tuple[object, ...]:
        """Differs from the last one while anything moves."""

    async def run(self) -> Status:
        """Deploy; returns the final status, raises only CancelledError."""


Keep = Callable[[DiskState | Seal], Awaitable[None]]
Launch = Callable[[Job, Listener, Keep, Entry], Awaitable[Running]]
"""Makes a deployment of a job: (job, listener, keep, entry with what the attempts before have come to)."""


@dataclass(frozen=True, slots=True)
class Crew:
    """What a life works with."""

    tasks: asyncio.TaskGroup
    launch: Launch
    reboot: Reboot
    is_committed: Callable[[Seal], Awaitable[bool]]
    observers: tuple[Listener, ...] = ()


class Life:
    """One job's life. Its task begins with it."""

    def __init__(
        self,
        entry: Entry,
        job: Job,
        server_name: str,
        ledger: Ledger,
        crew: Crew,
        show: Callable[[], bool],
        forget: "Callable[..., Awaitable[None]]",
        *,
        tell: Callable[[str], None],
        resumed: bool,
    ) -> None:
        """Begin.

        Args:
            entry: as it is in the ledger.
            job: its job, read.
            server_name: for statuses.
            ledger: where its facts are kept.
            crew: what it works with.
            show: shows what has changed.
            forget: erases the job: (id, tell=).
            tell: tells an event to subscribers.
            resumed: another agent had begun it.
        """
        self._entry = entry
        self._job = job
        self._server_name = server_name
        self._ledger = ledger
        self._crew = crew
        self._show = show
        self._forget = forget
        self._tell = tell
        self._resumed = resumed
        self._attempt = entry.attempt
        self._why: Why | None = None
        self._tell_of_end = True
        self._called_off = False
        """Whether no reboot is to follow, also where the hand-over has not begun."""
        self._outcome: Status | None = None
        """What the deployment came to, from the moment on at which nothing can change it."""
        self._pulse: tuple[object, ...] = ()
        self._moved_at = time.monotonic()
        self.deployment: Running | None = None
        self.hand_over: HandOver | None = None
        if entry.phase is Phase.DONE:
            self._prepare_hand_over()
        self.task = crew.tasks.create_task(self._run(), name=f"job-{entry.id}")

    # -- what others ask and do ----------------------------------------------------------------------------

    @property
    def deploying(self) -> bool:
        """Whether the deployment is under way."""
        return self.deployment is not None

    @property
    def is_unrecorded(self) -> bool:
        """Whether the deployment is over and the journal does not know yet."""
        return self.deployment is not None and self.deployment.snapshot().status != DOING

    @property
    def still_seconds(self) -> float:
        """For how many seconds the deployment has not moved at all."""
        return time.monotonic() - self._moved_at if self.deploying else 0.0

    def last_status(self) -> Status | None:
        """The status of the deployment, or its outcome."""
        return self._outcome if self.deployment is None else self.deployment.snapshot()

    def end(self, why: Why, *, tell: bool = True) -> None:
        """Have the task end; an erasure outranks the other reasons."""
        first = self._why is None
        if not first and why != "erase":
            return
        self._why, self._tell_of_end = why, tell
        if first:
            # Once: a second cancellation would cut into the cleaning up after the first.
            self.task.cancel()

    def call_off(self) -> bool:
        """No reboot follows, also where the deployment is not over yet; False if one has been ordered already."""
        self._called_off = True
        if self.hand_over is None:
            return True
        self.hand_over.call_off()
        return not self.hand_over.is_due

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of the task; False if it has not come in so many seconds."""
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        return bool(done)

    def waiting_for(self) -> str:
        """What keeps a life that was told to end."""
        status = None if self.deployment is None else self.deployment.snapshot()
        if status is None:
            return (
                "the agent is at its last step" if self.hand_over is None else "the hand-over has not ended"
            )
        where = status.disk["path"] if status.disk else "the disk"
        still = f"{self.still_seconds:.0f} s"
        return f"{where} has not finished an operation of the stage {status.state.value} for {still}"

    # -- the task --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            try:
                await self._work_through()
            except asyncio.CancelledError:
                await self._end_as_told()
                if self._why not in ("erase", "cancel"):
                    raise
        except Exception as error:
            log.error("job_lost", id=self._entry.id, exc_info=error)  # noqa: TRY400
        finally:
            self.deployment = None

    async def _work_through(self) -> None:
        """Work, and make an outcome of what ends that without having been asked for."""
        try:
            await self._work()
        except asyncio.CancelledError as error:
            if self._why is not None:
                raise
            self._stay()
            await self._crash(error)
        except Exception as error:
            log.error("job_crashed", id=self._entry.id, exc_info=error)  # noqa: TRY400
            await self._crash(error)

    def _stay(self) -> None:
        """Go on after a cancellation that nobody asked for: one that a library caught and left in the task's count."""
        log.error("cancelled_by_nobody", id=self._entry.id)
        while self.task.uncancel():
            pass

    async def _work(self) -> None:
        if self._entry.phase is not Phase.DONE and (not self._resumed or await self._reconsider()):
            await self._deploy()
        await self._finish()

    async def _reconsider(self) -> bool:
        """What an agent that comes back makes of a job that was running; whether it begins again."""
        ending = self._entry.ending
        await self._look_at_seal()
        if ending == "erase":
            await self._forget(self._entry.id, tell=True)
            return False
        if self._outcome is None and ending == "cancel":
            self._outcome = self._status_of(JobCancelled())
        if self._outcome is None and self._attempt >= MAX_ATTEMPTS:
            reason = f"the agent went away in each of {self._attempt} attempts"
            self._outcome = self._status_of(JobInterrupted(reason=reason))
        if self._outcome is not None:
            await self._conclude(self._outcome)
            if ending == "cancel" and self.hand_over is not None:
                self.hand_over.call_off()
            return False
        self._attempt += 1
        await self._keep(lambda old: replace(old, phase=Phase.RUNNING, seal=None, attempt=self._attempt))
        self._show()
        return True

    async def _look_at_seal(self) -> None:
        """Whether the last agent's commit is complete on the disk, where it had begun; an outcome if it is."""
        seal = self._entry.seal
        if seal is None or self._current_phase() is not Phase.SEALED:
            return
        try:
            if await self._crew.is_committed(seal):
                note = "the agent was interrupted in the commit and found it complete on the disk"
                self._outcome = self._status_of(seal, note)
        except OSError as error:
            log.warning("seal_unreadable", path=seal.path, reason=error.strerror or str(error))
            await self._keep(lambda old: replace(old, disk_state=DiskState.UNKNOWN))

    def _status_of(self, outcome: Seal | DeployError, note: str = "") -> Status:
        return concluded(
            self._job,
            self._server_name,
            attempt=self._attempt,
            outcome=outcome,
            disk_state=self._entry_now().disk_state,
            note=note,
            floor=self._ledger.promised_percent(self._entry.id),
        )

    async def _deploy(self) -> None:
        deployment = await self._crew.launch(self._job, self._listen, self._keep_fact, self._entry_now())
        self._moved_at = time.monotonic()
        self.deployment = deployment
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
            wait: until the journal has it, however long that takes. A life that was told to end does not.
        """
        self._outcome = status
        document = status.document()
        document["notes"] = last_notes(document["notes"])
        phase = Phase.DONE if status.state is State.DONE else Phase.FAILED

        def record(old: Entry) -> Entry:
            return old if old.is_over else replace(old, phase=phase, status=document, job=self._job.spent())

        await self._keep(record)
        self.deployment = None
        if wait:
            self._show()
            await self._ledger.until_outcome(self._entry.id)
        self._announce()

    def _announce(self) -> None:
        if self._current_phase() is Phase.DONE and self.hand_over is None:
            self._prepare_hand_over()
        self._show()
        if self._ledger.has_outcome(self._entry.id):
            self._tell("result")

    def _prepare_hand_over(self) -> None:
        entry = self._ledger.entry or self._entry
        pulled = entry.origin == "control"
        self.hand_over = HandOver(
            self._crew.reboot,
            self._show_hand_over,
            self._mark_ordered,
            pulled=pulled,
            ordered_at=entry.ordered_at,
        )
        if entry.told if pulled else entry.seen:
            self.hand_over.see()
        if self._called_off:
            self.hand_over.call_off()

    async def _mark_ordered(self, when: float | None) -> bool:
        try:
            return await self._ledger.require(self._entry.id, lambda old: replace(old, ordered_at=when))
        except StateUnusable as error:
            log.error("journal_failed", reason=str(error))  # noqa: TRY400 - the text says all
            # Rather ordered twice in one boot than not at all, as long as the next agent knows the outcome.
            return await self._ledger.knows_outcome()

    def _show_hand_over(self) -> None:
        if self._show():
            self._tell("status")

    async def _finish(self) -> None:
        """Hand the server over, if there is anything to hand over."""
        if self.hand_over is None:
            return
        while not self.hand_over.is_over:
            try:
                await self.hand_over.run()
            except asyncio.CancelledError:
                if self._why is not None:
                    raise
                self._stay()
        await self._close(self.hand_over)

    async def _close(self, hand_over: HandOver) -> None:
        """The hand-over is over, and the server still here: the next agent has nothing to do but to answer."""

        def closed(old: Entry) -> Entry:
            status = {**(old.status or {}), "reboot": hand_over.document()}
            return replace(old, phase=Phase.CLOSED, status=status)

        await self._keep(closed)

    # -- ends ------------------------------------------------------------------------------------------------

    async def _end_as_told(self) -> None:
        """The task was cancelled: record what there is to record, then do what was asked for."""
        if self._resumed and self._outcome is None and self._why in ("erase", "cancel"):
            await self._look_at_seal()  # what the last agent committed is no cancelled deployment
        if self._why == "erase":
            try:
                await self._forget(self._entry.id, tell=self._tell_of_end)
            except StateUnusable:
                if self.hand_over is None:
                    await self._conclude(self._outcome or self._status_of(JobCancelled()), wait=False)
                await self._close_called_off()
            return
        outcome = self._outcome
        if outcome is not None and (self._why == "cancel" or not _is_cancelled(outcome)):
            await self._conclude(outcome, wait=False)
        elif self._why == "cancel" and self._current_phase() in (Phase.RUNNING, Phase.SEALED):
            await self._conclude(self._status_of(JobCancelled()), wait=False)
        if self._why == "cancel":
            await self._close_called_off()
        elif self._current_phase() in (Phase.RUNNING, Phase.SEALED):
            await self._leave_to_the_next()

    async def _leave_to_the_next(self) -> None:
        """The agent stops: keep what this attempt leaves of the disk."""
        if self._outcome is not None and self._outcome.error is not None:
            left = DiskState(self._outcome.error["diskState"])
            await self._keep(lambda old: replace(old, disk_state=left))

    async def _close_called_off(self) -> None:
        if self.hand_over is not None:
            self.hand_over.call_off()
            if self.hand_over.is_over:
                await self._close(self.hand_over)

    async def _crash(self, error: BaseException) -> None:
        if self._current_phase() in (Phase.RUNNING, Phase.SEALED):
            # A deployment that only our own fault has cancelled was not cancelled by anybody.
            outcome = None if self._outcome is None or _is_cancelled(self._outcome) else self._outcome
            await self._conclude(outcome or self._status_of(unforeseen(error)))
        elif self._current_phase() is Phase.DONE and self.hand_over is None:
            self._announce()
        await self._finish()

    # -- details ---------------------------------------------------------------------------------------------

    def _current_phase(self) -> Phase | None:
        entry = self._ledger.entry
        return entry.phase if entry is not None and entry.id == self._entry.id else None

    def _entry_now(self) -> Entry:
        """The job's entry in the ledger; the last that was known where it is gone."""
        entry = self._ledger.entry
        return entry if entry is not None and entry.id == self._entry.id else self._entry

    async def _keep(self, change: Callable[[Entry], Entry]) -> None:
        await self._ledger.keep(self._entry.id, change)

    async def _keep_fact(self, fact: DiskState | Seal) -> None:
        """Keep what the deployment has done, or is about to do.

        Raises:
            StateUnusable: it is about to claim the disk, and the journal cannot be written: after a kill the next agent
                would tell of an untouched disk.
        """
        if fact is DiskState.UNKNOWN:
            await self._ledger.require(self._entry.id, lambda old: replace(old, disk_state=fact))
        elif isinstance(fact, Seal):
            await self._keep(lambda old: replace(old, phase=Phase.SEALED, seal=fact))
        else:
            await self._keep(lambda old: replace(old, disk_state=fact))

    def _listen(self, event: DeployEvent) -> None:
        for observer in self._crew.observers:
            observer(event)
        if not isinstance(event, Finished):  # that is shown once the journal has it
            self._show()

    async def _tick(self, deployment: Running) -> None:
        """Show progress at a steady pace, and note whether there is any."""
        while True:
            try:
                await self._look(deployment)
            except Exception as error:
                log.error("tick_failed", id=self._entry.id, exc_info=error)  # noqa: TRY400
            await asyncio.sleep(TICK_SECONDS)

    async def _look(self, deployment: Running) -> None:
        pulse = deployment.pulse()
        if pulse != self._pulse:
            self._pulse, self._moved_at = pulse, time.monotonic()
        await self._promise(deployment.snapshot().percent)
        if self._show():
            self._tell("progress")

    async def _promise(self, percent: float) -> None:
        """Have the journal know of a percentage, and of the next ones, before any client does."""
        ceiling = min(round(percent + PERCENT_STEP, 1), MAX_PERCENT)
        entry = self._ledger.entry
        if entry is not None and entry.percent < min(percent, MAX_PERCENT):
            await self._keep(lambda old: replace(old, percent=ceiling))


def last_notes(notes: list[str]) -> list[str]:
    """The last notes, as many as the journal has room for."""
    sizes = accumulate(len(json.dumps(note)) + 2 for note in reversed(notes))
    count = sum(size <= MAX_NOTES_BYTES for size in sizes)
    return notes[len(notes) - count :]


def _is_cancelled(status: Status) -> bool:
    return status.error is not None and status.error["code"] == JobCancelled.code
