"""The one job slot: what may be posted when, what a deletion does, and how a job goes on after the agent's own death.

All ways of getting a job (posted to the API, pulled from the control plane, ordered by an Ironic conductor) end here.
A job has one task from its acceptance to the hand-over; the task ends by itself, or is cancelled for one of three
reasons, and what becomes of the state depends on which:

    erase    (DELETE) the deployment stops, the state is erased, the slot is empty
    cancel   (by control plane or conductor) it stops, the state says `job.cancelled`; what is done is not rebooted
    stop     (SIGTERM) it stops, the journal keeps the job, the next agent begins it again

The first two are promises: they are in the journal before anything is stopped, so that no later agent begins the job
again. What the journal may hold after what is the table in `agent.service.jobs.phases`. All methods belong to the event
loop.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import structlog

from agent.deploy.tracker import concluded
from agent.errors import DeployError, JobCancelled, JobInterrupted, JobInvalid, StateUnusable
from agent.model.disk_state import DiskState
from agent.model.job import Job, parse_job
from agent.model.status import DOING, DONE, Status
from agent.service.jobs.entry import JobEntry, Origin, Phase, RequestedEnd
from agent.service.jobs.journal import OUTCOME_BYTES, JournalState
from agent.service.jobs.lifecycle import Deployer, EndReason, JobRun
from agent.service.jobs.phases import (
    DiskChanged,
    EndRequested,
    Failed,
    HandedOver,
    NoteAdded,
    OutcomeAcknowledged,
    OutcomeSeen,
    RebootState,
    Restart,
    advance,
    after_restart,
    may_be_replaced,
)
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.reboot import reboot_document
from agent.service.jobs.store import JobStore
from agent.service.jobs.view import StatusView

log = structlog.get_logger(__name__)

# Ids of jobs from the control plane that are remembered, so that none runs twice.
MAX_TAKEN = 1000
MAX_UNDELIVERED = 16
CANCEL_SECONDS = 30.0
# For the last steps of a job that is said to be over.
STEPS_SECONDS = 5.0


class SlotTaken(Exception):
    """A job runs, or a reboot is pending."""


class SlotClosing(Exception):
    """The daemon stops and takes nothing any more."""


class RebootOrdered(Exception):
    """The reboot command has been run, or is about to be: nothing calls the reboot off any more."""


class StillCancelling(Exception):
    """The deployment was told to stop and has not yet; the text says what it waits for."""


class Slot:
    """The slot of one server. `resume` is called once, before the API is served; as a context it ends what runs."""

    def __init__(
        self,
        *,
        server_name: str,
        store: JobStore,
        publisher: StatusPublisher,
        deployer: Deployer,
        tasks: asyncio.TaskGroup,
        boot_id: str = "",
    ) -> None:
        """Nothing is begun yet.

        Args:
            server_name: for statuses.
            store: what the journal holds.
            publisher: shows the status.
            deployer: makes deployments.
            tasks: where the task of a job runs; it outlives none of them.
            boot_id: of the present boot of the server.
        """
        self._store = store
        self._view = StatusView(server_name, store, publisher)
        self._deployer = deployer
        self._tasks = tasks
        self._boot_id = boot_id
        self._run: JobRun | None = None
        self._task: asyncio.Task[None] | None = None
        """Carries the run out, and erases the job behind it where that was asked for."""
        self._accepting = asyncio.Lock()
        """Held while a job is accepted, and while one is told to end: neither sees the other half done."""
        self._closing = False

    # -- what others ask ---------------------------------------------------------------------------------

    @property
    def entry(self) -> JobEntry | None:
        """The job in the slot."""
        return self._store.entry

    @property
    def undelivered(self) -> tuple[Mapping[str, Any], ...]:
        """Last statuses that the control plane has not been told, of jobs that are not in the slot any more."""
        return self._store.state.undelivered

    @property
    def is_free(self) -> bool:
        """Whether a job would be accepted."""
        return not self._accepting.locked() and not self._closing and self._has_room()

    def _has_room(self) -> bool:
        entry = self.entry
        return may_be_replaced(
            entry,
            self._reboot_state(),
            is_recorded=entry is None or self._store.has_outcome(entry.id),
            has_ended=self._task is None or self._task.done(),
        )

    def _reboot_state(self) -> RebootState | None:
        run = self._run
        return None if run is None or run.hand_over is None else run.hand_over.state

    @property
    def reboot_is_to_come(self) -> bool:
        """Whether a reboot waits for something, or has been ordered."""
        state = self._reboot_state()
        return state is not None and not state.is_settled

    @property
    def deploying(self) -> bool:
        """Whether a deployment is under way."""
        return self._run is not None and self._run.deploying

    @property
    def still_seconds(self) -> float:
        """For how many seconds a running deployment has not moved at all; 0 where none runs."""
        return 0.0 if self._run is None else self._run.still_seconds

    def was_taken(self, job_id: str) -> bool:
        """Whether the control plane's job of this id has been taken before."""
        return job_id in self._store.state.taken

    def last_status(self) -> Status | None:
        """The status of the deployment that runs, else of the last one that this process has seen the end of."""
        return None if self._run is None else self._run.last_status()

    # -- taking a job ------------------------------------------------------------------------------------

    def check_free(self) -> None:
        """Whether a job would be accepted now.

        Raises:
            SlotTaken: a job runs, or a reboot is pending.
            SlotClosing: the daemon stops.
        """
        if self._closing:
            raise SlotClosing
        if not self.is_free:
            raise SlotTaken

    async def post(self, document: Mapping[str, Any], job: Job, *, job_id: str | None, origin: Origin) -> str:
        """Take a job; durable when this returns.

        Args:
            document: as posted, for the journal.
            job: the same, read.
            job_id: the control plane's, or None for a new one.
            origin: where it came from.

        Returns:
            The id of the job.

        Raises:
            SlotTaken: a job runs, or a reboot is pending.
            SlotClosing: the daemon stops.
            StateUnusable: the journal could not be written; nothing was accepted.
        """
        self.check_free()
        new = JobEntry(id=job_id or str(uuid.uuid4()), origin=origin, job=document, accepted_at=time.time())
        async with self._accepting:
            # Somebody else may have had the lock in between.
            if self._closing:
                raise SlotClosing
            if not self._has_room() or not await self._ends_within(STEPS_SECONDS):
                raise SlotTaken
            # Its status holds the job once more, and an error may name the URL.
            room = OUTCOME_BYTES + 2 * len(json.dumps(job.redacted()))
            try:
                await self._store.change(lambda state: self._accept(state, new), room=room)
            finally:
                # What the journal has is begun, be it that a cancellation has come meanwhile: it can be ended then.
                if self.entry is new and not self._closing:
                    self._view.notes, self._view.job = (), job
                    self._begin(new, job)
        log.info("accepted", id=new.id, origin=origin, job=job.summary())
        return new.id

    def _accept(self, state: JournalState, new: JobEntry) -> JournalState:
        taken = (*state.taken, new.id)[-MAX_TAKEN:] if new.origin == "control" else state.taken
        return replace(state, entry=new, taken=taken, undelivered=self._with_undelivered(state))

    def _begin(self, entry: JobEntry, job: Job, *, resumed: bool = False) -> None:
        self._run = self._task = None
        if entry.phase in (Phase.RUNNING, Phase.SEALED, Phase.DONE):
            self._run = JobRun(entry, job, self._store, self._view, self._deployer, resumed=resumed)
            self._task = self._tasks.create_task(self._carry(self._run), name=f"job-{entry.id}")
        self._view.run = self._run
        self._view.show()
        self._view.tell("status")

    async def _carry(self, run: JobRun) -> None:
        """The one task of a job. Nothing but a cancellation leaves it."""
        job_id = run.job_id
        try:
            await run.carry_out()
            if run.is_to_be_erased:
                await self._erase_ended(run)
        except Exception as error:
            log.error("job_lost", id=job_id, exc_info=error)  # noqa: TRY400

    async def _erase_ended(self, run: JobRun) -> None:
        try:
            await self._forget(run.job_id, deliver=run.is_to_be_delivered)
        except StateUnusable:
            await run.settle_cancelled()

    # -- going on after a restart ------------------------------------------------------------------------

    async def resume(self, note: str | None = None) -> None:
        """Go on from the journal: where the last agent of this server left off.

        Args:
            note: what has to be told about a journal that was set aside.
        """
        self._view.notes = (note,) if note else ()
        found = self.entry
        job = None if found is None else self._read(found)
        kept = None if found is None or job is None else self._taken_up(found, job)

        def change(state: JournalState) -> JournalState:
            # A job that cannot be read is dropped and leaves nothing that could be told.
            is_erased = job is not None and kept is None
            undelivered = self._with_undelivered(state) if is_erased else state.undelivered
            ironic = state.ironic if state.boot_id == self._boot_id else None
            return replace(state, entry=kept, boot_id=self._boot_id, undelivered=undelivered, ironic=ironic)

        await self._store.impose(change)
        self._view.job = None if kept is None else job
        if kept is not None and job is not None:
            log.info("resumed", id=kept.id, phase=kept.phase.value, attempt=kept.attempt)
            self._begin(kept, job, resumed=True)
        self._view.show()

    def _read(self, entry: JobEntry) -> Job | None:
        try:
            self._view.job = parse_job(dict(entry.job))
        except JobInvalid as error:
            # An older agent took what this one does not.
            self._view.notes = (f"the job in the journal cannot be read any more and was dropped: {error}",)
        return self._view.job

    def _taken_up(self, entry: JobEntry, job: Job) -> JobEntry | None:
        """What is left of a job that the last agent had. What takes a look at the disk, its run does."""
        same_boot = self._store.state.boot_id == self._boot_id
        match after_restart(entry, same_boot=same_boot):
            case Restart.ERASE:
                return None
            case Restart.CANCELLED:
                entry = advance(entry, self._failed(entry, JobCancelled()))
            case Restart.CALLED_OFF:
                entry = advance(entry, HandedOver(reboot_document(RebootState.CALLED_OFF)))
            case Restart.REBOOTED:
                entry = advance(entry, HandedOver())
            case Restart.BEGIN_AGAIN | Restart.COMPARE if entry.origin == "ironic" and not same_boot:
                # Its conductor has powered the server on for something else, and orders anew what it still wants.
                if entry.phase is Phase.SEALED:  # the commit may be complete on the disk
                    entry = advance(entry, DiskChanged(DiskState.UNKNOWN))
                error = JobInterrupted(reason="the server was rebooted, and Ironic orders anew what it wants")
                entry = advance(entry, self._failed(entry, error))
            case _:
                pass
        # An older agent kept the secrets of a job that is over.
        return replace(entry, job=job.without_secrets()) if entry.is_over else entry

    def _failed(self, entry: JobEntry, error: DeployError) -> Failed:
        return Failed(self._status_of(entry, error).document(), self._job().without_secrets())

    def _status_of(self, entry: JobEntry, error: DeployError) -> Status:
        return concluded(
            self._job(),
            self._view.server_name,
            attempt=entry.attempt,
            outcome=error,
            disk_state=entry.disk_state,
            min_percent=entry.percent,
        )

    def _job(self) -> Job:
        if self._view.job is None:
            raise RuntimeError("there is no job in the slot")
        return self._view.job

    # -- ending a job ------------------------------------------------------------------------------------

    async def erase(
        self, seconds: float = CANCEL_SECONDS, *, job_id: str | None = None, deliver: bool = True
    ) -> None:
        """Cancel what runs, call a pending reboot off, and forget the job.

        Args:
            seconds: how long to wait for the deployment to stop.
            job_id: nothing is done where another job is in the slot.
            deliver: whether a control plane whose job it is has to be told.

        Raises:
            RebootOrdered: the server goes down; nothing was done.
            StillCancelling: it did not stop in that time; it will be erased when it does.
            StateUnusable: the journal could not be written; what ran was stopped.
        """
        self._call_off(job_id)
        ended = await self._request_end("erase", job_id, deliver=deliver)
        if ended is None:
            return
        await self._wait(seconds)
        await self._forget(ended, deliver=deliver)

    async def cancel(self, job_id: str, seconds: float = CANCEL_SECONDS) -> None:
        """Cancel this job and keep its state, `job.cancelled`; one that is done is not rebooted.

        Raises:
            RebootOrdered: the server goes down; nothing was done.
            StillCancelling: it did not stop in so many seconds; it goes on to.
        """
        self._call_off(job_id)
        if self._task is None or self._task.done():
            return
        with contextlib.suppress(StateUnusable):  # it is cancelled all the same
            if await self._request_end("cancel", job_id) is None:
                return
        await self._wait(seconds)
        entry = self.entry
        if entry is not None and entry.id == job_id and not entry.is_over:
            # Cancelled before its task had taken its first step.
            await self._store.record(job_id, self._failed(entry, JobCancelled()))
            self._view.show()

    async def stop(self, seconds: float) -> bool:
        """The daemon stops: cancel, and leave the job in the journal. False if a thread still hangs then."""
        self._closing = True
        try:
            async with asyncio.timeout(seconds):
                async with self._accepting:
                    self._end_run("stop")
                await self._ends_within(None)
        except TimeoutError:
            what = "the journal" if self._run is None else self._run.waiting_for()
            log.error("stop_hangs", waiting_for=what)  # noqa: TRY400 - there is no traceback to it
            return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The daemon ends, in whatever way: so does the run, which no other cancellation ends."""
        self._closing = True
        self._end_run("stop")

    def _call_off(self, job_id: str | None) -> None:
        """Before anything is awaited: what is not ordered now will not be.

        Raises:
            RebootOrdered: it has been.
        """
        entry, run = self.entry, self._run
        is_meant = entry is not None and job_id in (None, entry.id)
        if run is not None and is_meant and not run.call_off():
            raise RebootOrdered

    async def _request_end(
        self, end: RequestedEnd, job_id: str | None, *, deliver: bool = True
    ) -> str | None:
        """Make the promise durable, then keep it. Returns the id of the job that ends, None where there is none."""
        async with self._accepting:
            entry = self.entry
            if entry is None or (job_id is not None and entry.id != job_id):
                return None
            try:
                if self._task is not None and not self._task.done():
                    await self._store.require(entry.id, EndRequested(end))
            finally:
                self._end_run(end, deliver=deliver)
            self._view.show()
            return entry.id

    def _end_run(self, reason: EndReason, *, deliver: bool = True) -> None:
        if (
            self._run is not None
            and self._task is not None
            and self._run.request_end(reason, deliver=deliver)
        ):
            self._task.cancel()

    async def _wait(self, seconds: float) -> None:
        if not await self._ends_within(seconds) and self._run is not None:
            raise StillCancelling(self._run.waiting_for())

    async def _ends_within(self, seconds: float | None) -> bool:
        """Wait for the end of the job's task, if it has one; False if it has not come in so many seconds."""
        if self._task is None:
            return True
        done, _ = await asyncio.wait({self._task}, timeout=seconds)
        return bool(done)

    async def _forget(self, job_id: str, *, deliver: bool) -> None:
        """Erase a job, unless it is gone already.

        Raises:
            StateUnusable: the journal could not be written, and the job is still there.
        """
        left = ""

        def without(state: JournalState) -> JournalState | None:
            nonlocal left
            if state.entry is None or state.entry.id != job_id:
                return None
            left = _disk_state_of(self._last_document(state.entry)).sentence
            undelivered = self._with_undelivered(state) if deliver else state.undelivered
            return replace(state, entry=None, undelivered=undelivered)

        try:
            if await self._store.change(without):
                log.info("erased", id=job_id, left=left)
                self._view.notes = (f"The last deployment was erased. {left}",)
        finally:
            if self.entry is None:
                self._run = self._task = self._view.run = self._view.job = None
            self._view.show()
            self._view.tell("status")

    # -- who knows the outcome ---------------------------------------------------------------------------

    async def see(self, job_id: str | None) -> None:
        """Somebody has asked for the outcome of this job. Where it was pulled, that does not tell the control plane."""
        entry = self._over(job_id)
        if entry is None:
            return
        if entry.origin != "control":
            self._confirm()
        if not entry.outcome_seen:
            await self._store.record(entry.id, OutcomeSeen())

    async def acknowledge(self, job_id: str) -> None:
        """The control plane that this job came from has taken its outcome."""
        entry = self._over(job_id)
        if entry is None:
            return
        self._confirm()
        if not entry.acknowledged:
            await self._store.record(entry.id, OutcomeAcknowledged())

    def explain_unacknowledged(self, job_id: str, reason: str) -> None:
        """The control plane that this job came from has not taken its outcome yet; the text says why."""
        entry, run = self.entry, self._run
        if entry is not None and entry.id == job_id and run is not None and run.hand_over is not None:
            run.hand_over.explain(reason)

    async def note(self, job_id: str, text: str) -> None:
        """Add a note to the outcome of this job."""
        if self._over(job_id) is not None:
            await self._store.record(job_id, NoteAdded(text))
        self._view.show()

    async def delivered(self, status: Mapping[str, Any]) -> None:
        """The control plane has taken one of the undelivered statuses."""

        def without(state: JournalState) -> JournalState:
            left = tuple(other for other in state.undelivered if other is not status)
            return replace(state, undelivered=left)

        await self._store.impose(without)

    def _over(self, job_id: str | None) -> JobEntry | None:
        """The job in the slot, if it is this one and has its outcome."""
        entry = self.entry
        return entry if entry is not None and entry.id == job_id and entry.is_over else None

    def _confirm(self) -> None:
        if self._run is not None and self._run.hand_over is not None:
            self._run.hand_over.confirm()

    def _with_undelivered(self, state: JournalState) -> tuple[Mapping[str, Any], ...]:
        """The undelivered statuses when the job of this state leaves the slot."""
        entry = state.entry
        if entry is None or entry.origin != "control" or entry.acknowledged:
            return state.undelivered
        return (*state.undelivered, {**self._last_document(entry), "id": entry.id})[-MAX_UNDELIVERED:]

    def _last_document(self, entry: JobEntry) -> Mapping[str, Any]:
        """The last status of a job that leaves the slot, be it recorded or not."""
        if entry.status is not None:
            return entry.status
        outcome = self.last_status()
        if outcome is None or outcome.status == DOING:
            outcome = self._status_of(entry, JobCancelled())
        return outcome.document()


def _disk_state_of(last: Mapping[str, Any]) -> DiskState:
    """What a deployment has left of the disk, by its last status; an agent of an earlier version did not tell."""
    if last.get("status") == DONE:
        return DiskState.COMMITTED
    return DiskState((last.get("error") or {}).get("diskState", DiskState.UNKNOWN))
