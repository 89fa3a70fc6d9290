"""The one job slot: what may be posted when, what a deletion does, and how a job goes on after the agent's own death.

Both ways of getting a job (posted to the API, pulled from the control plane) end here. A job has one task from its
acceptance to the hand-over; the task ends by itself, or is cancelled for one of three reasons, and what becomes of the
state depends on which:

    DELETE   the deployment stops, the state is erased, the slot is empty
    cancel   (asked by the control plane) it stops, the state says `job.cancelled`
    stop     (SIGTERM) it stops, the journal keeps the job, the next agent begins it again

Nothing is shown to a client as accepted or over before the journal has it. All methods belong to the event loop.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Protocol

import structlog

from agent.deploy.tracker import concluded, starting
from agent.errors import (
    DeployError,
    InternalFault,
    JobCancelled,
    JobInterrupted,
    JobInvalid,
    StateUnusable,
)
from agent.model.events import DeployEvent, Finished, Listener
from agent.model.job import Job, parse_job
from agent.model.seal import Seal
from agent.model.stage import State
from agent.model.status import DOING, Status
from agent.service.board import Board
from agent.service.handover import HandOver, HandOverState
from agent.service.journal import Book, Entry, Journal, Origin, Phase

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
# Ids of jobs from the control plane that are remembered, so that none runs twice.
MAX_TAKEN = 1000
TICK_SECONDS = 1.0
CANCEL_SECONDS = 30.0


def idle_document(server_name: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The status document of an empty slot: the seed's members are null."""
    return {
        "servername": server_name,
        "status": None,
        "message": None,
        "checksum": None,
        "id": None,
        "notes": list(notes),
        "reboot": None,
    }


class Running(Protocol):
    """A deployment, as far as the slot needs it."""

    def snapshot(self) -> Status:
        """The status now."""

    def pulse(self) -> tuple[object, ...]:
        """Differs from the last one while anything moves."""

    async def run(self) -> Status:
        """Deploy; returns the final status, raises only CancelledError."""


Keep = Callable[[Seal], Awaitable[None]]
Launch = Callable[[Job, Listener, Keep, int], Awaitable[Running]]
"""Makes a deployment of a job: (job, listener, keep, attempt)."""


class SlotTaken(Exception):
    """A job runs, or a reboot is pending."""


class StillCancelling(Exception):
    """The deployment was told to stop and has not yet; the text says what it waits for."""


class _Why(Enum):
    """Why the task of a job was cancelled."""

    ERASE = auto()
    CANCEL = auto()
    STOP = auto()


class Slot:
    """The slot of one server. `resume` is called once, before the API is served."""

    def __init__(
        self,
        *,
        server_name: str,
        journal: Journal,
        board: Board,
        launch: Launch,
        hand_over: Callable[[Callable[[], object]], HandOver],
        tasks: asyncio.TaskGroup,
        is_committed: Callable[[Seal], Awaitable[bool]],
        boot_id: str = "",
        observers: tuple[Listener, ...] = (),
    ) -> None:
        self._server_name = server_name
        self._journal = journal
        self._board = board
        self._launch = launch
        self._new_hand_over = hand_over
        self._tasks = tasks
        self._is_committed = is_committed
        self._boot_id = boot_id
        self._observers = observers
        self._book = Book(boot_id=boot_id)
        self._notes: tuple[str, ...] = ()
        self._job: Job | None = None
        self._task: asyncio.Task[None] | None = None
        self._deployment: Running | None = None
        self._hand_over: HandOver | None = None
        self._final: Status | None = None
        self._why: _Why | None = None
        self._accepting = False
        self._pulse: tuple[object, ...] = ()
        self._moved_at = time.monotonic()

    # -- what others ask ---------------------------------------------------------------------------------

    @property
    def entry(self) -> Entry | None:
        """The job in the slot."""
        return self._book.entry

    @property
    def is_free(self) -> bool:
        """Whether a job would be accepted."""
        return not self._accepting and (self._task is None or self._task.done() or self._is_over())

    @property
    def deploying(self) -> bool:
        """Whether a deployment is under way."""
        return self._deployment is not None

    @property
    def still_seconds(self) -> float:
        """For how many seconds a running deployment has not moved at all; 0 where none runs."""
        return time.monotonic() - self._moved_at if self.deploying else 0.0

    def was_taken(self, job_id: str) -> bool:
        """Whether the control plane's job of this id has been taken before."""
        return job_id in self._book.taken

    def snapshot(self) -> Status | None:
        """The running deployment's status."""
        return None if self._deployment is None else self._deployment.snapshot()

    def last_status(self) -> Status | None:
        """The status of the deployment that runs, else of the last one that this process has seen the end of."""
        return self.snapshot() or self._final

    def _is_over(self) -> bool:
        """Whether clients have been told that nothing more will happen; the task may be a few steps from its end."""
        if self.entry is None or self.entry.phase in (Phase.FAILED, Phase.CLOSED):
            return self.entry is not None
        return self._hand_over is not None and self._hand_over.is_over

    # -- what others do ----------------------------------------------------------------------------------

    async def resume(self, book: Book, note: str | None = None) -> None:
        """Go on from the journal: where the last agent of this server left off."""
        self._notes = (note,) if note else ()
        self._book = replace(book, boot_id=self._boot_id)
        entry = book.entry
        if entry is not None:
            try:
                self._job = parse_job(dict(entry.job))
            except JobInvalid as error:
                # An older agent took what this one does not.
                self._notes = (f"the job in the journal cannot be read any more and was dropped: {error}",)
                self._book, entry = replace(self._book, entry=None), None
        if entry is None:
            self._show()
            return
        if entry.phase in (Phase.RUNNING, Phase.SEALED):
            entry = await self._reconsider(entry)
        elif entry.phase is Phase.DONE and book.boot_id != self._boot_id:
            entry = replace(entry, phase=Phase.CLOSED)  # the reboot that was to come has been
        await self._keep_entry(entry)
        log.info("resumed", id=entry.id, phase=entry.phase.value, attempt=entry.attempt)
        self._begin(entry)

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
            StateUnusable: the journal could not be written; nothing was accepted.
        """
        if not self.is_free:
            raise SlotTaken
        self._accepting = True
        try:
            if self._task is not None:
                await asyncio.wait({self._task})  # a few steps from its end
            new_id = job_id or str(uuid.uuid4())
            entry = Entry(id=new_id, origin=origin, job=document, accepted_at=time.time())
            taken = (*self._book.taken, new_id)[-MAX_TAKEN:] if origin == "control" else self._book.taken
            await self._store(replace(self._book, entry=entry, taken=taken))
        finally:
            self._accepting = False
        self._notes, self._job = (), job
        log.info("accepted", id=new_id, origin=origin, job=job.redacted())
        self._begin(entry)
        return new_id

    async def erase(self, seconds: float = CANCEL_SECONDS, *, job_id: str | None = None) -> None:
        """Cancel what runs, call a pending reboot off, and forget the job; nothing where it is not the job named.

        Raises:
            StillCancelling: it did not stop in so many seconds; it will be erased when it does.
            StateUnusable: the journal could not be written.
        """
        if job_id is not None and (self.entry is None or self.entry.id != job_id):
            return
        await self._end(_Why.ERASE, seconds)
        if self.entry is not None:
            await self._forget()

    async def cancel(self, job_id: str, seconds: float = CANCEL_SECONDS) -> None:
        """Cancel this job and keep its state, `job.cancelled`; one that is done is not rebooted.

        Raises:
            StillCancelling: it did not stop in so many seconds; it goes on to.
        """
        if self.entry is not None and self.entry.id == job_id:
            await self._end(_Why.CANCEL, seconds)

    async def stop(self, seconds: float) -> bool:
        """The daemon stops: cancel, and leave the job in the journal. False if a thread still hangs then."""
        try:
            await self._end(_Why.STOP, seconds)
        except StillCancelling as error:
            log.error("stop_hangs", waiting_for=str(error))  # noqa: TRY400 - there is no traceback to it
            return False
        return True

    async def see(self, job_id: str | None = None) -> None:
        """The control plane knows the outcome of the job in the slot (or of the one named)."""
        entry = self.entry
        if entry is None or entry.status is None or entry.seen or (job_id is not None and entry.id != job_id):
            return
        if self._hand_over is not None:
            self._hand_over.see()
        with contextlib.suppress(StateUnusable):  # told twice is better than not handed over
            await self._keep_entry(replace(entry, seen=True))

    # -- the life of a job -------------------------------------------------------------------------------

    def _begin(self, entry: Entry) -> None:
        self._why = None
        self._deployment = self._hand_over = self._final = None
        self._moved_at = time.monotonic()
        if entry.phase in (Phase.RUNNING, Phase.DONE):
            if entry.phase is Phase.DONE:
                self._hand_over = self._new_hand_over(self._show)
            self._task = self._tasks.create_task(self._live(entry), name=f"job-{entry.id}")
        self._show()

    async def _live(self, entry: Entry) -> None:
        try:
            if entry.phase is Phase.RUNNING:
                await self._deploy(entry)
            await self._finish()
        except asyncio.CancelledError:
            if self._why is _Why.ERASE:
                with contextlib.suppress(StateUnusable):  # told again by `erase`
                    await self._forget()
            elif self._why is not _Why.CANCEL:
                raise
            elif self._hand_over is not None:
                self._hand_over.call_off()
                await self._close(self._hand_over)
            else:  # before the deployment had begun
                await self._conclude_with(entry, JobCancelled(hint="Nothing was written."))
        except Exception as error:
            # A fault of ours must not take the daemon down with its job: the state says it.
            log.exception("job_crashed", id=entry.id)
            await self._conclude_with(entry, InternalFault(reason=type(error).__name__))
        finally:
            self._deployment = None

    async def _deploy(self, entry: Entry) -> None:
        deployment = await self._launch(self._job_now(), self._listen, self._seal, entry.attempt)
        self._deployment = deployment
        try:
            async with self._ticking(deployment):
                status = await deployment.run()
        except asyncio.CancelledError:
            status = deployment.snapshot()
            if self._why is _Why.ERASE or (self._why is not _Why.CANCEL and status.state is not State.DONE):
                raise
            # Too late to cancel, or cancelled for the control plane: either is an outcome.
            await self._conclude(status)
            if self._why is not _Why.CANCEL:
                raise
            self._take_cancellation()
        else:
            await self._conclude(status)

    def _take_cancellation(self) -> None:
        """The cancellation has done its work: the job goes on to its hand-over, and can be cancelled anew."""
        self._why = None
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()

    async def _conclude(self, status: Status) -> None:
        """Record an outcome, and only then show it."""
        entry = self._current()
        phase = Phase.DONE if status.state is State.DONE else Phase.FAILED
        document = status.document()
        self._final = status
        try:
            await self._keep_entry(replace(entry, phase=phase, status=document))
        except StateUnusable as error:
            # The deployment is what it is; an agent that dies now will do it again.
            log.error("journal_failed", reason=str(error))  # noqa: TRY400
            self._book = replace(self._book, entry=replace(entry, phase=phase, status=document))
        if phase is Phase.DONE:
            self._hand_over = self._new_hand_over(self._show)
        self._deployment = None
        self._show()
        self._board.tell("result", self._board.document)

    async def _conclude_with(self, entry: Entry, error: DeployError) -> None:
        if self.entry is not None and self.entry.id == entry.id:
            job, name = self._job_now(), self._server_name
            await self._conclude(concluded(job, name, attempt=entry.attempt, outcome=error))

    async def _finish(self) -> None:
        """Hand the server over, if there is anything to hand over."""
        if self._hand_over is None:
            return
        await self._hand_over.run()
        if self._hand_over.state in (HandOverState.DISABLED, HandOverState.FAILED):
            await self._close(self._hand_over)

    async def _close(self, hand_over: HandOver) -> None:
        """The hand-over is over, and the server still here: the next agent has nothing to do but to answer."""
        entry = self._current()
        status = {**(entry.status or {}), "reboot": hand_over.document()}
        await self._keep_entry(replace(entry, phase=Phase.CLOSED, status=status))

    async def _seal(self, seal: Seal) -> None:
        await self._keep_entry(replace(self._current(), phase=Phase.SEALED, seal=seal))

    async def _reconsider(self, entry: Entry) -> Entry:
        """What an agent that comes back makes of a job that was running: committed, to be begun again, or given up."""
        if entry.seal is not None and entry.phase is Phase.SEALED:
            try:
                if await self._is_committed(entry.seal):
                    note = "the agent was interrupted in the commit and found it complete on the disk"
                    return self._concluded(entry, entry.seal, Phase.DONE, note)
            except OSError as error:
                log.warning("seal_unreadable", path=entry.seal.path, reason=error.strerror or str(error))
        if entry.attempt >= MAX_ATTEMPTS:
            reason = f"the agent went away in each of {entry.attempt} attempts"
            return self._concluded(entry, JobInterrupted(reason=reason), Phase.FAILED)
        return replace(entry, phase=Phase.RUNNING, seal=None, attempt=entry.attempt + 1)

    def _concluded(self, entry: Entry, outcome: Seal | DeployError, phase: Phase, note: str = "") -> Entry:
        job, name = self._job_now(), self._server_name
        status = concluded(job, name, attempt=entry.attempt, outcome=outcome, note=note)
        return replace(entry, phase=phase, status=status.document())

    # -- ends --------------------------------------------------------------------------------------------

    async def _end(self, why: _Why, seconds: float) -> None:
        task = self._task
        if task is None or task.done():
            return
        if self._why is None or why is _Why.ERASE:
            first = self._why is None
            self._why = why
            if first:
                # Once: a second cancellation would cut into the cleaning up after the first.
                task.cancel()
        self._show()
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise StillCancelling(self._waiting_for())

    def _waiting_for(self) -> str:
        status = self.snapshot()
        if status is None:
            return "the reboot command has not ended"
        where = status.disk["path"] if status.disk else "the disk"
        still = f"{self.still_seconds:.0f} s"
        return f"{where} has not finished an operation of the stage {status.state.value} for {still}"

    async def _forget(self) -> None:
        await self._store(replace(self._book, entry=None))
        self._job = self._deployment = self._hand_over = self._final = None
        log.info("erased")
        self._show()

    # -- the journal and the board -----------------------------------------------------------------------

    def _job_now(self) -> Job:
        if self._job is None:
            raise RuntimeError("there is no job in the slot")
        return self._job

    def _current(self) -> Entry:
        if self.entry is None:
            raise RuntimeError("there is no job in the slot")
        return self.entry

    async def _keep_entry(self, entry: Entry) -> None:
        await self._store(replace(self._book, entry=entry))

    async def _store(self, book: Book) -> None:
        await self._journal.store(book)
        self._book = book

    def _listen(self, event: DeployEvent) -> None:
        for observer in self._observers:
            observer(event)
        if not isinstance(event, Finished):  # that is shown once the journal has it
            self._show()

    @contextlib.asynccontextmanager
    async def _ticking(self, deployment: Running) -> AsyncIterator[None]:
        async def tick() -> None:
            while True:
                pulse = deployment.pulse()
                if pulse != self._pulse:
                    self._pulse, self._moved_at = pulse, time.monotonic()
                if self._show():
                    self._board.tell("progress", self._board.document)
                await asyncio.sleep(TICK_SECONDS)

        async with asyncio.TaskGroup() as tasks:
            ticker = tasks.create_task(tick())
            try:
                yield
            finally:
                ticker.cancel()

    def _show(self) -> bool:
        entry, status = self.entry, self.snapshot()
        if entry is not None and entry.status is None and status is not None and status.status != DOING:
            return False  # over, and not yet in the journal
        return self._board.show(self._document())

    def _document(self) -> dict[str, Any]:
        entry = self.entry
        if entry is None:
            return idle_document(self._server_name, self._notes)
        if entry.status is not None:
            document = dict(entry.status)
        elif self._deployment is not None:
            document = self._deployment.snapshot().document()
        else:
            document = starting(self._job_now(), self._server_name, attempt=entry.attempt).document()
        if self._why in (_Why.ERASE, _Why.CANCEL) and document["status"] == DOING:
            document["message"] = f"Cancelling: {self._waiting_for()}."
        reboot = document.get("reboot") if self._hand_over is None else self._hand_over.document()
        return {**document, "id": entry.id, "reboot": reboot}
