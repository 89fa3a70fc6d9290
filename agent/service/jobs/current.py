"""The run of the job in the slot, and the task that carries it out. Belongs to the slot, and to the event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from agent.model.status import Status
from agent.service.jobs.lifecycle import EndReason, JobRun
from agent.service.jobs.phases import RebootState
from agent.service.jobs.reboot import HandOver
from agent.service.jobs.refusals import StillCancelling


class CurrentRun:
    """None where the slot is empty, or nothing is left to do for the job in it."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        """Nothing runs yet.

        Args:
            tasks: where the task of a job runs; it outlives none of them.
        """
        self._tasks = tasks
        self.run: JobRun | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, run: JobRun, work: Coroutine[Any, Any, None]) -> None:
        """Carry a run out by this work."""
        self.run = run
        self._task = self._tasks.create_task(work, name=f"job-{run.job_id}")

    def drop(self) -> None:
        """The job has left the slot."""
        self.run = self._task = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing is carried out any more."""
        return self._task is None or self._task.done()

    @property
    def hand_over(self) -> HandOver | None:
        """What follows a deployment that is done."""
        return None if self.run is None else self.run.hand_over

    @property
    def reboot_state(self) -> RebootState | None:
        """How far the reboot after the deployment is, where there is one."""
        return None if self.hand_over is None else self.hand_over.state

    @property
    def deploying(self) -> bool:
        """Whether a deployment is under way."""
        return self.run is not None and self.run.deploying

    @property
    def still_seconds(self) -> float:
        """For how many seconds a running deployment has not moved at all; 0 where none runs."""
        return 0.0 if self.run is None else self.run.still_seconds

    def last_status(self) -> Status | None:
        """The status of the deployment that runs, else of the last one that this process has seen the end of."""
        return None if self.run is None else self.run.last_status()

    def end(self, reason: EndReason, *, deliver: bool = True) -> None:
        """Have it end: see `JobRun.request_end`."""
        if self.run is not None and self._task is not None and self.run.request_end(reason, deliver=deliver):
            self._task.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait for its end.

        Raises:
            StillCancelling: it has not come in so many seconds.
        """
        if not await self.ends_within(seconds) and self.run is not None:
            raise StillCancelling(self.run.waiting_for())

    async def ends_within(self, seconds: float | None) -> bool:
        """Wait for its end; False if it has not come in so many seconds."""
        if self._task is None:
            return True
        done, _ = await asyncio.wait({self._task}, timeout=seconds)
        return bool(done)
