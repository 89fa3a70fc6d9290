"""The life of one job: from its acceptance (or from what the journal knows of it) to the hand-over, in one task.

Whatever ends the task, the outcome of the deployment is recorded before anything else is made of it. Nothing but a
cancellation leaves the task: a fault of ours becomes the job's error, never the daemon's end.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import structlog

from agent.deploy.tracker import concluded
from agent.errors import DeployError, InternalFault, JobCancelled, JobInterrupted, StateUnusable
from agent.model.events import DeployEvent, Finished, Listener
from agent.model.job import Job
from agent.model.seal import Seal
from agent.model.stage import State
from agent.model.status import DOING, Status
from agent.service.handover import HandOver
from agent.service.journal import Entry, Phase
from agent.service.ledger import Ledger

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
TICK_SECONDS = 1.0
# How much further a deployment is, in per cent, before the journal is told.
PERCENT_STEP = 5.0
UNTOUCHED = "Nothing was written: the disk holds what it held before."

Why = Literal["erase", "cancel", "stop"]


class Running(Protocol):
    """A deployment, as far as a life needs it."""

    def snapshot(self) -> Status:
        """The status now."""

    def pulse(self) -> tuple[object, ...]:
        """Differs from the last one while anything moves."""

    async def run(self) -> Status:
        """Deploy; returns the final status, raises only CancelledError."""


Keep = Callable[[Seal], Awaitable[None]]
Launch = Callable[[Job, Listener, Keep, int], Awaitable[Running]]
"""Makes a deployment of a job: (job, listener, keep, attempt)."""


@dataclass(frozen=True, slots=True)
class Crew:
    """What a life works with."""

    tasks: asyncio.TaskGroup
    launch: Launch
    hand_over: Callable[[Callable[[], object]], HandOver]
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
        self._why: Why | None = None
        self._tell_of_end = True
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
                await self._work()
            except asyncio.CancelledError:
                await self._end_as_told()
                if self._why not in ("erase", "cancel"):
                    raise
            except Exception as error:
                log.error("job_crashed", id=self._entry.id, exc_info=error)  # noqa: TRY400
                await self._crash(error)
        except Exception as error:
            log.error("job_lost", id=self._entry.id, exc_info=error)  # noqa: TRY400
        finally:
            self.deployment = None

    async def _work(self) -> None:
        if self._entry.phase is not Phase.DONE:
            attempt = await self._reconsider() if self._resumed else self._entry.attempt
            if attempt is not None:
                await self._deploy(attempt)
        await self._finish()

    async def _reconsider(self) -> int | None:
        """What an agent that comes back makes of a job that was running.

        Returns:
            The number of the attempt that begins now; None where it was committed, or is given up.
        """
        entry = self._entry
        if entry.phase is Phase.SEALED and entry.seal is not None and await self._was_committed(entry.seal):
            note = "the agent was interrupted in the commit and found it complete on the disk"
            await self._conclude(self._status_of(entry.seal, note))
            return None
        if entry.attempt >= MAX_ATTEMPTS:
            reason = f"the agent went away in each of {entry.attempt} attempts"
            await self._conclude(self._status_of(JobInterrupted(reason=reason)))
            return None
        attempt = entry.attempt + 1
        await self._keep(lambda old: replace(old, phase=Phase.RUNNING, seal=None, attempt=attempt))
        self._show()
        return attempt

    async def _was_committed(self, seal: Seal) -> bool:
        try:
            return await self._crew.is_committed(seal)
        except OSError as error:
            log.warning("seal_unreadable", path=seal.path, reason=error.strerror or str(error))
            return False

    def _status_of(self, outcome: Seal | DeployError, note: str = "") -> Status:
        attempt = self._entry.attempt
        return concluded(self._job, self._server_name, attempt=attempt, outcome=outcome, note=note)

    async def _deploy(self, attempt: int) -> None:
        deployment = await self._crew.launch(self._job, self._listen, self._seal, attempt)
        self._moved_at = time.monotonic()
        self.deployment = deployment
        try:
            async with self._ticking(deployment):
                await deployment.run()
        finally:
            if deployment.snapshot().status != DOING:
                self._outcome = deployment.snapshot()
        await self._conclude(deployment.snapshot())

    async def _conclude(self, status: Status) -> None:
        """Record an outcome, then show it. The first one counts."""
        self._outcome = status
        document = status.document()
        phase = Phase.DONE if status.state is State.DONE else Phase.FAILED

        def record(old: Entry) -> Entry:
            if old.status is not None:
                return old
            percent = max(document["percent"], old.percent)
            return replace(old, phase=phase, status={**document, "percent": percent})

        await self._keep(record)
        self._announce()

    def _announce(self) -> None:
        if self._current_phase() is Phase.DONE and self.hand_over is None:
            self._prepare_hand_over()
        self.deployment = None
        self._show()
        self._tell("result")

    def _prepare_hand_over(self) -> None:
        self.hand_over = self._crew.hand_over(self._show_hand_over)
        entry = self._ledger.entry
        if entry is not None and entry.seen:
            self.hand_over.see()

    def _show_hand_over(self) -> None:
        if self._show():
            self._tell("status")

    async def _finish(self) -> None:
        """Hand the server over, if there is anything to hand over."""
        if self.hand_over is not None:
            await self.hand_over.run()
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
        if self._why == "erase":
            try:
                await self._forget(self._entry.id, tell=self._tell_of_end)
            except StateUnusable:
                await self._conclude(self._outcome or self._status_of(JobCancelled()))
            return
        outcome = self._outcome
        if outcome is not None and (self._why == "cancel" or not _is_cancelled(outcome)):
            await self._conclude(outcome)
        elif self._why == "cancel" and self._current_phase() in (Phase.RUNNING, Phase.SEALED):
            hint = "" if self._resumed else UNTOUCHED
            await self._conclude(self._status_of(JobCancelled(hint=hint)))
        if self._why == "cancel" and self.hand_over is not None:
            self.hand_over.call_off()
            if self.hand_over.is_over:
                await self._close(self.hand_over)

    async def _crash(self, error: Exception) -> None:
        if self._current_phase() in (Phase.RUNNING, Phase.SEALED):
            await self._conclude(self._outcome or self._status_of(InternalFault(reason=type(error).__name__)))

    # -- details ---------------------------------------------------------------------------------------------

    def _current_phase(self) -> Phase | None:
        entry = self._ledger.entry
        return entry.phase if entry is not None and entry.id == self._entry.id else None

    async def _keep(self, change: Callable[[Entry], Entry]) -> None:
        await self._ledger.keep(self._entry.id, change)

    async def _seal(self, seal: Seal) -> None:
        await self._keep(lambda old: replace(old, phase=Phase.SEALED, seal=seal))

    def _listen(self, event: DeployEvent) -> None:
        for observer in self._crew.observers:
            observer(event)
        if not isinstance(event, Finished):  # that is shown once the journal has it
            self._show()

    @contextlib.asynccontextmanager
    async def _ticking(self, deployment: Running) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            ticker = tasks.create_task(self._tick(deployment))
            try:
                yield
            finally:
                ticker.cancel()

    async def _tick(self, deployment: Running) -> None:
        """Show progress at a steady pace, and note whether there is any."""
        kept = self._entry.percent
        while True:
            pulse = deployment.pulse()
            if pulse != self._pulse:
                self._pulse, self._moved_at = pulse, time.monotonic()
            if self._show():
                self._tell("progress")
            percent = deployment.snapshot().percent
            if percent >= kept + PERCENT_STEP:
                kept = percent
                await self._keep(lambda old, now=percent: replace(old, percent=now))  # type: ignore[misc]
            await asyncio.sleep(TICK_SECONDS)


def _is_cancelled(status: Status) -> bool:
    return status.error is not None and status.error["code"] == JobCancelled.code
