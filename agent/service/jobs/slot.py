"""The one job slot: what may be posted when, and what a deletion does.

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
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Self

import structlog

from agent.errors import JobCancelled, JobInvalid, StateUnusable
from agent.model.job import Job, parse_job
from agent.service.jobs.current import CurrentRun
from agent.service.jobs.entry import JobEntry, Origin, Phase, RequestedEnd
from agent.service.jobs.journal import OUTCOME_BYTES, JournalState
from agent.service.jobs.lifecycle import Deployer, JobRun
from agent.service.jobs.outcomes import Outcomes, failed
from agent.service.jobs.phases import EndRequested, NoteAdded, ReceiptIssued, may_be_replaced
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.receipts import Receipts
from agent.service.jobs.refusals import RebootOrdered, SlotClosing, SlotTaken
from agent.service.jobs.store import JobStore
from agent.service.jobs.takeover import taken_up
from agent.service.jobs.view import StatusView

log = structlog.get_logger(__name__)

# Ids of jobs from the control plane that are remembered, so that none runs twice.
MAX_TAKEN = 1000
CANCEL_SECONDS = 30.0
# For the last steps of a job that is said to be over.
STEPS_SECONDS = 5.0


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
        receipts: Receipts | None = None,
    ) -> None:
        """Nothing is begun yet.

        Args:
            server_name: for statuses.
            store: what the journal holds.
            publisher: shows the status.
            deployer: makes deployments.
            tasks: where the task of a job runs; it outlives none of them.
            boot_id: of the present boot of the server.
            receipts: makes those of outcomes; without it they are not signed.
        """
        self._store = store
        self._view = StatusView(server_name, store, publisher)
        self._deployer = deployer
        self._boot_id = boot_id
        self._receipts = receipts or Receipts()
        self.current = CurrentRun(tasks)
        """Of the job in the slot."""
        self.outcomes = Outcomes(store, self._view, self.current)
        """Who has to be told them, and is."""
        self._accepting = asyncio.Lock()
        """Held while a job is accepted, and while one is told to end: neither sees the other half done."""
        self._occupation: SlotTaken | None = None
        """How a job is refused while something else is done to the disks."""
        self._closing = False

    # -- what others ask ---------------------------------------------------------------------------------

    @property
    def entry(self) -> JobEntry | None:
        """The job in the slot."""
        return self._store.entry

    @property
    def is_free(self) -> bool:
        """Whether a job would be accepted."""
        return not self._accepting.locked() and not self._closing and self._has_room()

    def _has_room(self) -> bool:
        entry = self.entry
        return self._occupation is None and may_be_replaced(
            entry,
            self.current.reboot_state,
            is_recorded=entry is None or self._store.has_outcome(entry.id),
            has_ended=self.current.has_ended,
        )

    @property
    def reboot_is_to_come(self) -> bool:
        """Whether a reboot waits for something, or has been ordered."""
        state = self.current.reboot_state
        return state is not None and not state.is_settled

    @property
    def receipt(self) -> Mapping[str, Any] | None:
        """That of the job in the slot, an envelope, once the journal has its outcome."""
        entry = self._store.durable.entry
        return None if entry is None else entry.receipt

    def was_taken(self, job_id: str) -> bool:
        """Whether the control plane's job of this id has been taken before."""
        return job_id in self._store.state.taken

    # -- taking a job ------------------------------------------------------------------------------------

    def check_free(self) -> None:
        """Whether a job would be accepted now.

        Raises:
            SlotTaken: a job runs, a reboot is pending, or something else is done to the disks.
            SlotClosing: the daemon stops.
        """
        if self._closing:
            raise SlotClosing
        if not self.is_free:
            raise self._taken()

    def _taken(self) -> SlotTaken:
        if self._occupation is not None:
            return self._occupation
        if self.reboot_is_to_come:
            what = "A deployment is done and the server is about to reboot"
            return SlotTaken(what, "DELETE it to call the reboot off")
        return SlotTaken("A deployment is under way on this server", "wait for its end, or DELETE it")

    async def _make_room(self) -> None:
        """With the lock held: somebody else may have had it since the slot was free.

        Raises:
            SlotTaken, SlotClosing: see `check_free`.
        """
        if self._closing:
            raise SlotClosing
        if not self._has_room() or not await self.current.ends_within(STEPS_SECONDS):
            raise self._taken()

    @asynccontextmanager
    async def occupied(self, what: str, way_out: str) -> AsyncIterator[None]:
        """A context in which no job is taken, for something else is done to the disks.

        Args:
            what: is done, for people: a clause that begins with a capital letter.
            way_out: how it comes to its end; a clause too.

        Raises:
            SlotTaken, SlotClosing: see `check_free`.
        """
        self.check_free()
        async with self._accepting:
            await self._make_room()
            self._occupation = SlotTaken(what, way_out)
        self._view.occupation = f"{what}. No deployment is taken meanwhile."
        self._view.show_and_tell()
        try:
            yield
        finally:
            self._occupation = self._view.occupation = None
            self._view.show_and_tell()

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
            SlotTaken, SlotClosing: see `check_free`.
            StateUnusable: the journal could not be written; nothing was accepted.
        """
        self.check_free()
        new = JobEntry(id=job_id or str(uuid.uuid4()), origin=origin, job=document, accepted_at=time.time())
        async with self._accepting:
            await self._make_room()
            # Its status holds the job once more, so does its receipt, in base64, and an error may name the URL.
            room = OUTCOME_BYTES + 4 * len(json.dumps(job.redacted()))
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
        return replace(state, entry=new, taken=taken, undelivered=self.outcomes.with_undelivered(state))

    def _begin(self, entry: JobEntry, job: Job, *, resumed: bool = False) -> None:
        self.current.drop()
        if entry.phase in (Phase.RUNNING, Phase.SEALED, Phase.DONE):
            run = JobRun(entry, job, self._store, self._view, self._deployer, self._receipts, resumed=resumed)
            self.current.begin(run, self._carry(run))
        self._view.run = self.current.run
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
        same_boot = self._store.state.boot_id == self._boot_id
        kept = None
        if found is not None and job is not None:
            kept = taken_up(found, job, self._view.server_name, same_boot=same_boot)

        def change(state: JournalState) -> JournalState:
            # A job that cannot be read is dropped and leaves nothing that could be told.
            is_erased = job is not None and kept is None
            undelivered = self.outcomes.with_undelivered(state) if is_erased else state.undelivered
            ironic = state.ironic if same_boot else None
            return replace(state, entry=kept, boot_id=self._boot_id, undelivered=undelivered, ironic=ironic)

        await self._store.impose(change)
        self._view.job = None if kept is None else job
        if kept is not None and job is not None:
            log.info("resumed", id=kept.id, phase=kept.phase.value, attempt=kept.attempt)
            await self._issue_receipt(kept.id)
            self._begin(kept, job, resumed=True)
        self._view.show()

    async def _issue_receipt(self, job_id: str) -> None:
        """Make the receipt of a job whose outcome no run has recorded, or an agent that did not make any."""
        entry = self.entry
        if entry is None or entry.id != job_id or entry.status is None or entry.receipt is not None:
            return
        receipt, note = await self._receipts.issue(entry, entry.status)
        if receipt is not None:
            await self._store.record(job_id, ReceiptIssued(receipt))
        if note is not None:
            await self._store.record(job_id, NoteAdded(note))

    def _read(self, entry: JobEntry) -> Job | None:
        try:
            self._view.job = parse_job(dict(entry.job))
        except JobInvalid as error:
            # An older agent took what this one does not.
            self._view.notes = (f"the job in the journal cannot be read any more and was dropped: {error}",)
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
        await self.current.wait(seconds)
        await self._forget(ended, deliver=deliver)

    async def cancel(self, job_id: str, seconds: float = CANCEL_SECONDS) -> None:
        """Cancel this job and keep its state, `job.cancelled`; one that is done is not rebooted.

        Raises:
            RebootOrdered: the server goes down; nothing was done.
            StillCancelling: it did not stop in so many seconds; it goes on to.
        """
        self._call_off(job_id)
        if self.current.has_ended:
            return
        with suppress(StateUnusable):  # it is cancelled all the same
            if await self._request_end("cancel", job_id) is None:
                return
        await self.current.wait(seconds)
        entry = self.entry
        if entry is not None and entry.id == job_id and not entry.is_over:
            # Cancelled before its task had taken its first step.
            error = failed(entry, self._view.require_job(), self._view.server_name, JobCancelled())
            await self._store.record(job_id, error)
            await self._issue_receipt(job_id)
            self._view.show()

    async def stop(self, seconds: float) -> bool:
        """The daemon stops: cancel, and leave the job in the journal. False if a thread still hangs then."""
        self._closing = True
        try:
            async with asyncio.timeout(seconds):
                async with self._accepting:
                    self.current.end("stop")
                await self.current.ends_within(None)
        except TimeoutError:
            run = self.current.run
            what = "the journal" if run is None else run.waiting_for()
            log.error("stop_hangs", waiting_for=what)  # noqa: TRY400 - there is no traceback to it
            return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The daemon ends, in whatever way: so does the run, which no other cancellation ends."""
        self._closing = True
        self.current.end("stop")

    def _call_off(self, job_id: str | None) -> None:
        """Before anything is awaited: what is not ordered now will not be.

        Raises:
            RebootOrdered: it has been.
        """
        entry, run = self.entry, self.current.run
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
                if not self.current.has_ended:
                    await self._store.require(entry.id, EndRequested(end))
            finally:
                self.current.end(end, deliver=deliver)
            self._view.show()
            return entry.id

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
            left = self.outcomes.disk_state(state.entry).sentence
            undelivered = self.outcomes.with_undelivered(state) if deliver else state.undelivered
            return replace(state, entry=None, undelivered=undelivered)

        try:
            if await self._store.change(without):
                log.info("erased", id=job_id, left=left)
                self._view.notes = (f"The last deployment was erased. {left}",)
        finally:
            if self.entry is None:
                self.current.drop()
                self._view.run = self._view.job = None
            self._view.show()
            self._view.tell("status")
