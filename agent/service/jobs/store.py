"""The job store: the journal's content in memory, changed by one hand at a time and always after the journal.

Everybody who changes it does so by an event of `agent.service.jobs.phases`, or by a function of the whole state as it
is then, under one lock. What memory holds is what the journal holds, also where a cancellation comes while a thread
still writes; the one exception is `record`, for facts that are true whatever the journal can take. Those are told to
nobody before the journal has them: `durable` is what may be told.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from agent.errors import StateUnusable
from agent.service.jobs.entry import JobEntry
from agent.service.jobs.journal import Journal, JournalState
from agent.service.jobs.phases import Event, advance

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0

Change = Callable[[JournalState], JournalState | None]
"""The next state, or None where there is nothing to change."""


class JobStore:
    """The state of one slot. All methods belong to the event loop."""

    def __init__(self, journal: Journal, state: JournalState, revision: Callable[[], int]) -> None:
        """Begin with what the journal holds.

        Args:
            journal: open.
            state: what it holds.
            revision: of the status that is shown, which is kept along: no later agent may begin below it.
        """
        self._journal = journal
        self._revision = revision
        self._lock = asyncio.Lock()
        self._stored = asyncio.Event()
        self._ahead = asyncio.Event()
        """Set while memory may hold what the journal does not."""
        self._trouble: StateUnusable | None = None
        self._recovered: Callable[[], object] = lambda: None
        self.state = state
        self.durable = state
        """What the journal holds."""

    def watch(self, recovered: Callable[[], object]) -> None:
        """Have this called when the journal holds again what memory holds."""
        self._recovered = recovered

    @property
    def entry(self) -> JobEntry | None:
        """The job in the slot."""
        return self.state.entry

    @property
    def is_durable(self) -> bool:
        """Whether the journal holds what memory holds."""
        return self.durable is self.state

    @property
    def trouble(self) -> str | None:
        """Why the journal does not hold what memory holds, and what helps; None where it does."""
        if self.is_durable or self._trouble is None:
            return None
        error = self._trouble
        return f"{error.message} {error.hint} The agent tries again every {RETRY_SECONDS:.0f} s."

    def has_outcome(self, job_id: str) -> bool:
        """Whether the journal knows what has become of this job."""
        entry = self.durable.entry
        return entry is not None and entry.id == job_id and entry.is_over

    def promised_percent(self, job_id: str) -> float:
        """How far the next agent would begin; nobody may be told that this job is further."""
        entry = self.durable.entry
        return 0.0 if entry is None or entry.id != job_id else entry.percent

    async def until_outcome(self, job_id: str) -> None:
        """Wait until the journal knows what has become of this job."""
        while not self.has_outcome(job_id):
            await self._stored.wait()

    # -- events of the job -------------------------------------------------------------------------------

    async def record(self, job_id: str, event: Event) -> None:
        """Take an event of the job, if it is still there, even where the journal cannot be written; `run` tries again
        then.

        For what has happened: an agent that dies before the journal can be written does a job twice, which is
        safe; one that tells the wrong outcome is not.
        """
        await self.impose(_with_event(job_id, event))

    async def require(self, job_id: str, event: Event) -> bool:
        """Take an event of the job, if it is still there, or nothing. False where it is not there.

        For what is to happen only if the next agent knows of it.

        Raises:
            StateUnusable: the journal could not be written, and nothing has changed.
        """
        return await self.change(_with_event(job_id, event))

    # -- the whole state ---------------------------------------------------------------------------------

    async def change(self, change: Change, *, room: int | None = None) -> bool:
        """Store the changed state; False where there is nothing to change.

        Args:
            change: makes the next state.
            room: bytes to reserve for later ones, if any.

        Raises:
            StateUnusable: the journal could not be written, and nothing has changed.
        """
        async with self._lock:
            state = change(self.state)
            if state is None:
                return False
            if state is self.state and self.is_durable and room is None:
                return True
            state = replace(state, revision=self._revision())
            try:
                await self._journal.store(state, room=room)
            except StateUnusable as error:
                self._trouble = error
                raise
            finally:
                # A cancellation that came meanwhile has waited for the thread: what is stored is true.
                if self._journal.stored is state:
                    self._take(state)
            return True

    def _take(self, state: JournalState) -> None:
        was_durable = self.is_durable
        self.state = self.durable = state
        self._stored.set()
        self._stored = asyncio.Event()
        if not was_durable:
            log.info("journal_recovered")
            self._recovered()

    async def impose(self, change: Change) -> None:
        """Change the state in memory even where the journal cannot be written; see `record`."""
        try:
            await self.change(change)
        except StateUnusable as error:
            log.error("journal_failed", reason=str(error), hint=error.hint)  # noqa: TRY400 - the text says all
            self.state = change(self.state) or self.state
            self._ahead.set()

    async def flush(self) -> bool:
        """Store what could not be stored; whether the journal holds everything now."""
        if not self.is_durable:
            with suppress(StateUnusable):
                await self.change(lambda state: state)
        return self.is_durable

    async def knows_outcome(self) -> bool:
        """Whether the next agent would know what has become of the job, be it without what happened since."""
        await self.flush()
        return self.entry is None or self.has_outcome(self.entry.id)

    async def run(self) -> None:
        """Try again, for ever, what could not be stored. While there is nothing of it, nothing wakes."""
        while True:
            await self._ahead.wait()
            await asyncio.sleep(RETRY_SECONDS)
            if await self.flush():
                self._ahead.clear()


def _with_event(job_id: str, event: Event) -> Change:
    def change(state: JournalState) -> JournalState | None:
        entry = state.entry
        if entry is None or entry.id != job_id:
            return None
        changed = advance(entry, event)
        return state if changed is entry else replace(state, entry=changed)

    return change
