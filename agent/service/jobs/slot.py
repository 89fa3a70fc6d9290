"""The one job slot: what may be posted when, what a deletion does, and how a job goes on after the agent's own death.

Both ways of getting a job (posted to the API, pulled from the control plane) end here. A job has one task from its
acceptance to the hand-over; the task ends by itself, or is cancelled for one of three reasons, and what becomes of the
state depends on which:

    DELETE   the deployment stops, the state is erased, the slot is empty
    cancel   (asked by the control plane) it stops, the state says `job.cancelled`; one that is done is not rebooted
    stop     (SIGTERM) it stops, the journal keeps the job, the next agent begins it again

The first two are promises: they are in the journal before anything is stopped, so that no later agent begins the job
again. An outcome outranks all three: a disk that was committed is never told as cancelled. Nothing is shown to a client
as accepted or over before the journal has it. All methods belong to the event loop.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import structlog

from agent.deploy.tracker import concluded, starting
from agent.errors import DeployError, JobCancelled, JobInvalid, StateUnusable
from agent.model.disk_state import DiskState
from agent.model.job import Job, parse_job
from agent.model.status import DOING, DONE, Status
from agent.service.jobs.journal import OUTCOME_BYTES, Book, Ending, Entry, Origin, Phase
from agent.service.jobs.lifecycle import Crew, Life
from agent.service.jobs.publisher import Board
from agent.service.jobs.reboot import HandOverState, reboot_document
from agent.service.jobs.store import Ledger

log = structlog.get_logger(__name__)

# Ids of jobs from the control plane that are remembered, so that none runs twice.
MAX_TAKEN = 1000
MAX_FAREWELLS = 16
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


class Slot:
    """The slot of one server. `resume` is called once, before the API is served."""

    def __init__(
        self, *, server_name: str, ledger: Ledger, board: Board, crew: Crew, boot_id: str = ""
    ) -> None:
        self._server_name = server_name
        self._ledger = ledger
        self._board = board
        self._crew = crew
        self._boot_id = boot_id
        self._notes: tuple[str, ...] = ()
        self._job: Job | None = None
        self._life: Life | None = None
        self._accepting = asyncio.Lock()
        """Held while a job is accepted, and while one is told to end: neither sees the other half done."""
        self._closing = False
        ledger.watch(self._show_and_tell)

    # -- what others ask ---------------------------------------------------------------------------------

    @property
    def entry(self) -> Entry | None:
        """The job in the slot."""
        return self._ledger.entry

    @property
    def farewells(self) -> tuple[Mapping[str, Any], ...]:
        """Last statuses that the control plane has not been told, of jobs that are not in the slot any more."""
        return self._ledger.book.farewells

    @property
    def is_free(self) -> bool:
        """Whether a job would be accepted."""
        return not self._accepting.locked() and not self._closing and self._has_room()

    def _has_room(self) -> bool:
        life = self._life
        if self._is_untold():
            return False
        if life is None or life.hand_over is not None:
            return not self.reboot_is_to_come  # whatever has become of the task
        return life.task.done() or self._is_over()

    @property
    def reboot_is_to_come(self) -> bool:
        """Whether a reboot waits for something, or has been ordered."""
        life = self._life
        return life is not None and life.hand_over is not None and not life.hand_over.is_over

    @property
    def deploying(self) -> bool:
        """Whether a deployment is under way."""
        return self._life is not None and self._life.deploying

    @property
    def still_seconds(self) -> float:
        """For how many seconds a running deployment has not moved at all; 0 where none runs."""
        return 0.0 if self._life is None else self._life.still_seconds

    def was_taken(self, job_id: str) -> bool:
        """Whether the control plane's job of this id has been taken before."""
        return job_id in self._ledger.book.taken

    def last_status(self) -> Status | None:
        """The status of the deployment that runs, else of the last one that this process has seen the end of."""
        return None if self._life is None else self._life.last_status()

    def _is_over(self) -> bool:
        """Whether clients have been told that nothing more will happen; the task may be a few steps from its end."""
        entry, life = self.entry, self._life
        if entry is None or entry.phase in (Phase.FAILED, Phase.CLOSED):
            return entry is not None
        return life is not None and life.hand_over is not None and life.hand_over.is_over

    def _is_untold(self) -> bool:
        """Whether the job is over and nobody may know it yet, because the journal does not."""
        entry = self.entry
        return entry is not None and entry.is_over and not self._ledger.has_outcome(entry.id)

    # -- what others do ----------------------------------------------------------------------------------

    async def resume(self, note: str | None = None) -> None:
        """Go on from the journal: where the last agent of this server left off.

        Args:
            note: what has to be told about a journal that was set aside.
        """
        self._notes = (note,) if note else ()
        entry, boot_id = self.entry, self._ledger.book.boot_id
        if entry is not None:
            try:
                self._job = parse_job(dict(entry.job))
            except JobInvalid as error:
                # An older agent took what this one does not.
                self._notes = (f"the job in the journal cannot be read any more and was dropped: {error}",)
                entry = None
        kept = None if entry is None else self._kept(entry, boot_id)
        if kept is not None and kept.is_over:
            kept = replace(kept, job=self._job_now().spent())  # an older agent kept its secrets

        def change(book: Book) -> Book:
            farewells = book.farewells if entry is None or kept is not None else self._with_farewell(book)
            return replace(book, entry=kept, boot_id=self._boot_id, farewells=farewells)

        await self._ledger.impose(change)
        entry = self.entry
        if entry is not None:
            log.info("resumed", id=entry.id, phase=entry.phase.value, attempt=entry.attempt)
            self._begin(entry, resumed=True)
        self._show()

    def _kept(self, entry: Entry, boot_id: str) -> Entry | None:
        """What is left of a job that the last agent had. A sealed one is first looked at by its life."""
        if entry.ending == "erase" and entry.phase is not Phase.SEALED:
            return None
        if entry.ending == "cancel" and entry.phase is Phase.RUNNING:
            return self._over(entry, JobCancelled())
        if entry.ending == "cancel" and entry.phase is Phase.DONE:
            off = reboot_document(HandOverState.CALLED_OFF)
            return replace(entry, phase=Phase.CLOSED, status={**(entry.status or {}), "reboot": off})
        if entry.phase is Phase.DONE and boot_id != self._boot_id:
            return replace(entry, phase=Phase.CLOSED)  # the reboot that was to come has been
        return entry

    def _over(self, entry: Entry, error: DeployError) -> Entry:
        status = concluded(
            self._job_now(),
            self._server_name,
            attempt=entry.attempt,
            outcome=error,
            disk_state=entry.disk_state,
            floor=entry.percent,
        )
        return replace(entry, phase=Phase.FAILED, status=status.document(), job=self._job_now().spent())

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
        new = Entry(id=job_id or str(uuid.uuid4()), origin=origin, job=document, accepted_at=time.time())
        async with self._accepting:
            # Somebody else may have had the lock in between.
            if self._closing:
                raise SlotClosing
            if not self._has_room() or (self._life is not None and not await self._life.wait(STEPS_SECONDS)):
                raise SlotTaken
            # Its status holds the job once more, and an error may name the URL.
            room = OUTCOME_BYTES + 2 * len(json.dumps(job.redacted()))
            await self._ledger.change(lambda book: self._accept(book, new), room=room)
            self._notes, self._job = (), job
            self._begin(new)
        log.info("accepted", id=new.id, origin=origin, job=job.summary())
        return new.id

    def _accept(self, book: Book, new: Entry) -> Book:
        taken = (*book.taken, new.id)[-MAX_TAKEN:] if new.origin == "control" else book.taken
        return replace(book, entry=new, taken=taken, farewells=self._with_farewell(book))

    async def erase(
        self, seconds: float = CANCEL_SECONDS, *, job_id: str | None = None, tell: bool = True
    ) -> None:
        """Cancel what runs, call a pending reboot off, and forget the job.

        Args:
            seconds: how long to wait for the deployment to stop.
            job_id: nothing is done where another job is in the slot.
            tell: whether a control plane whose job it is has to be told.

        Raises:
            RebootOrdered: the server goes down; nothing was done.
            StillCancelling: it did not stop in that time; it will be erased when it does.
            StateUnusable: the journal could not be written; what ran was stopped.
        """
        self._call_off(job_id)
        ended = await self._tell_to_end("erase", job_id, tell=tell)
        if ended is None:
            return
        await self._wait(seconds)
        await self._forget(ended, tell=tell)

    def _call_off(self, job_id: str | None) -> None:
        """Before anything is awaited: what is not ordered now will not be.

        Raises:
            RebootOrdered: it has been.
        """
        entry, life = self.entry, self._life
        is_meant = entry is not None and job_id in (None, entry.id)
        if life is not None and is_meant and not life.call_off():
            raise RebootOrdered

    async def cancel(self, job_id: str, seconds: float = CANCEL_SECONDS) -> None:
        """Cancel this job and keep its state, `job.cancelled`; one that is done is not rebooted.

        Raises:
            RebootOrdered: the server goes down; nothing was done.
            StillCancelling: it did not stop in so many seconds; it goes on to.
        """
        self._call_off(job_id)
        if self._life is None or self._life.task.done():
            return
        with contextlib.suppress(StateUnusable):  # it is cancelled all the same
            if await self._tell_to_end("cancel", job_id, tell=True) is None:
                return
        await self._wait(seconds)
        entry = self.entry
        if entry is not None and entry.id == job_id and entry.status is None:
            # Cancelled before its task had taken its first step.
            await self._ledger.keep(job_id, lambda old: self._over(old, JobCancelled()))
            self._show()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The daemon ends, in whatever way: so does the life, which no other cancellation ends."""
        self._closing = True
        if self._life is not None:
            self._life.end("stop")

    async def stop(self, seconds: float) -> bool:
        """The daemon stops: cancel, and leave the job in the journal. False if a thread still hangs then."""
        self._closing = True
        try:
            async with asyncio.timeout(seconds):
                async with self._accepting:
                    if self._life is not None:
                        self._life.end("stop")
                if self._life is not None:
                    await self._life.wait()
        except TimeoutError:
            what = "the journal" if self._life is None else self._life.waiting_for()
            log.error("stop_hangs", waiting_for=what)  # noqa: TRY400 - there is no traceback to it
            return False
        return True

    async def see(self, job_id: str | None) -> None:
        """Somebody has asked for the outcome of this job. Where it was pulled, that does not tell the control plane."""
        entry = self.entry
        if job_id is None or entry is None or entry.id != job_id or entry.status is None:
            return
        if entry.origin != "control":
            self._hand_on()
        if not entry.seen:
            await self._ledger.keep(job_id, lambda old: replace(old, seen=True))

    async def told(self, job_id: str) -> None:
        """The control plane that this job came from has taken its outcome."""
        entry = self.entry
        if entry is None or entry.id != job_id or entry.status is None:
            return
        self._hand_on()
        if not entry.told:
            await self._ledger.keep(job_id, lambda old: replace(old, seen=True, told=True))

    def _hand_on(self) -> None:
        if self._life is not None and self._life.hand_over is not None:
            self._life.hand_over.see()

    def untold(self, job_id: str, reason: str) -> None:
        """The control plane that this job came from has not taken its outcome yet; the text says why."""
        entry, life = self.entry, self._life
        if entry is not None and entry.id == job_id and life is not None and life.hand_over is not None:
            life.hand_over.explain(reason)

    async def note(self, job_id: str, text: str) -> None:
        """Add a note to the outcome of this job."""

        def noted(old: Entry) -> Entry:
            if old.status is None or text in old.status["notes"]:
                return old
            return replace(old, status={**old.status, "notes": [*old.status["notes"], text]})

        await self._ledger.keep(job_id, noted)
        self._show()

    async def told_farewell(self, farewell: Mapping[str, Any]) -> None:
        """The control plane has taken a farewell."""

        def without(book: Book) -> Book:
            left = tuple(other for other in book.farewells if other is not farewell)
            return replace(book, farewells=left)

        await self._ledger.impose(without)

    # -- ends --------------------------------------------------------------------------------------------

    async def _tell_to_end(self, ending: Ending, job_id: str | None, *, tell: bool) -> str | None:
        """Make the promise durable, then keep it. Returns the id of the job that ends, None where there is none."""
        async with self._accepting:
            entry, life = self.entry, self._life
            if entry is None or (job_id is not None and entry.id != job_id):
                return None
            try:
                if life is not None and not life.task.done():
                    await self._ledger.change(lambda book: _with_ending(book, entry.id, ending))
            finally:
                if life is not None:
                    life.end(ending, tell=tell)
            self._show()
            return entry.id

    async def _wait(self, seconds: float) -> None:
        life = self._life
        if life is not None and not await life.wait(seconds):
            raise StillCancelling(life.waiting_for())

    async def _forget(self, job_id: str, *, tell: bool) -> None:
        """Erase a job, unless it is gone already."""
        left = ""

        def without(book: Book) -> Book | None:
            nonlocal left
            if book.entry is None or book.entry.id != job_id:
                return None
            left = _disk_state_of(self._last_document(book.entry)).sentence
            farewells = self._with_farewell(book) if tell else book.farewells
            return replace(book, entry=None, farewells=farewells)

        try:
            if await self._ledger.change(without):
                log.info("erased", id=job_id, left=left)
                self._notes = (f"The last deployment was erased. {left}",)
        finally:
            if self.entry is None:
                self._job = self._life = None
            self._show()
            self._board.tell("status")

    def _with_farewell(self, book: Book) -> tuple[Mapping[str, Any], ...]:
        """What the control plane has to be told of its job when that leaves the slot."""
        entry = book.entry
        if entry is None or entry.origin != "control" or entry.told:
            return book.farewells
        return (*book.farewells, {**self._last_document(entry), "id": entry.id})[-MAX_FAREWELLS:]

    def _last_document(self, entry: Entry) -> Mapping[str, Any]:
        """The last status of a job that leaves the slot, be it recorded or not."""
        outcome = self.last_status()
        if entry.status is not None:
            return entry.status
        if outcome is not None and outcome.status != DOING:
            return outcome.document()
        return self._over(entry, JobCancelled()).status or {}

    # -- the life of a job, and what is shown of it --------------------------------------------------------

    def _begin(self, entry: Entry, *, resumed: bool = False) -> None:
        self._life = None
        if entry.phase in (Phase.RUNNING, Phase.SEALED, Phase.DONE):
            self._life = Life(
                entry, self._job_now(), self._server_name, self._ledger, self._crew, self._show, self._forget,
                tell=self._board.tell, resumed=resumed,
            )  # fmt: skip
        self._show()
        self._board.tell("status")

    def _job_now(self) -> Job:
        if self._job is None:
            raise RuntimeError("there is no job in the slot")
        return self._job

    def _show(self) -> bool:
        life, entry = self._life, self.entry
        if entry is not None and entry.status is None and life is not None and life.is_unrecorded:
            return False  # over, and not yet in the journal
        return self._board.show(self._document())

    def _show_and_tell(self) -> None:
        if self._show():
            self._board.tell("status")

    def _document(self) -> dict[str, Any]:
        document, trouble = self._document_of_job(), self._ledger.trouble
        return document if trouble is None else {**document, "notes": [*document["notes"], trouble]}

    def _document_of_job(self) -> dict[str, Any]:
        life, entry = self._life, self.entry
        if entry is None:
            return idle_document(self._server_name, self._notes)
        if entry.status is not None:
            document = dict(entry.status)
        elif life is not None and life.deployment is not None:
            document = life.deployment.snapshot().document()
        else:
            name, floor = self._server_name, entry.percent
            document = starting(self._job_now(), name, attempt=entry.attempt, floor=floor).document()
        if self._is_untold():
            # The next agent may begin it again.
            message = f"The deployment is over, and its outcome cannot be stored. {self._ledger.trouble}"
            document |= {"status": DOING, "message": message, "error": None, "finishedAt": None}
        elif document["status"] == DOING and entry.ending is not None and life is not None:
            document["message"] = f"Cancelling: {life.waiting_for()}."
        if document["status"] == DOING:
            document["percent"] = min(document["percent"], self._ledger.promised_percent(entry.id))
        hand_over = None if life is None else life.hand_over
        reboot = document.get("reboot") if hand_over is None else hand_over.document()
        return {**document, "id": entry.id, "reboot": reboot}


def _disk_state_of(last: Mapping[str, Any]) -> DiskState:
    """What a deployment has left of the disk, by its last status; an agent of an earlier version did not tell."""
    if last.get("status") == DONE:
        return DiskState.COMMITTED
    return DiskState((last.get("error") or {}).get("diskState", DiskState.UNKNOWN))


def _with_ending(book: Book, job_id: str, ending: Ending) -> Book | None:
    entry = book.entry
    if entry is None or entry.id != job_id or entry.ending in ("erase", ending):
        return None
    return replace(book, entry=replace(entry, ending=ending))
