"""How the job in the slot has ended, and who knows of it: whoever asks, the control plane that it came from, or nobody.

What the control plane has not been told is kept when its job leaves the slot, and told later. Belongs to the slot, and
to the event loop.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.deploy.tracker import concluded
from agent.errors import DeployError, JobCancelled
from agent.model.disk_state import DiskState
from agent.model.job import Job
from agent.model.status import DOING, DONE, Status
from agent.service.jobs.current import CurrentRun
from agent.service.jobs.entry import JobEntry
from agent.service.jobs.journal import JournalState
from agent.service.jobs.phases import Failed, NoteAdded, OutcomeAcknowledged, OutcomeSeen
from agent.service.jobs.store import JobStore
from agent.service.jobs.view import StatusView

MAX_UNDELIVERED = 16


class Outcomes:
    """The outcomes of one slot."""

    def __init__(self, store: JobStore, view: StatusView, current: CurrentRun) -> None:
        """Args:
        store: what the journal holds.
        view: shows it, and has the job in the slot.
        current: the run of that job.
        """
        self._store = store
        self._view = view
        self._current = current

    @property
    def undelivered(self) -> tuple[Mapping[str, Any], ...]:
        """Last statuses that the control plane has not been told, of jobs that are not in the slot any more."""
        return self._store.state.undelivered

    # -- who is told -------------------------------------------------------------------------------------

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
        entry, hand_over = self._store.entry, self._current.hand_over
        if entry is not None and entry.id == job_id and hand_over is not None:
            hand_over.explain(reason)

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
        entry = self._store.entry
        return entry if entry is not None and entry.id == job_id and entry.is_over else None

    def _confirm(self) -> None:
        if self._current.hand_over is not None:
            self._current.hand_over.confirm()

    # -- when a job leaves the slot ----------------------------------------------------------------------

    def with_undelivered(self, state: JournalState) -> tuple[Mapping[str, Any], ...]:
        """The undelivered statuses when the job of this state leaves the slot."""
        entry = state.entry
        if entry is None or entry.origin != "control" or entry.acknowledged:
            return state.undelivered
        document = with_receipt({**self._last_document(entry), "id": entry.id}, entry.receipt)
        return (*state.undelivered, document)[-MAX_UNDELIVERED:]

    def disk_state(self, entry: JobEntry) -> DiskState:
        """What a job that leaves the slot has left of the disk; an agent of an earlier version did not tell."""
        last = self._last_document(entry)
        if last.get("status") == DONE:
            return DiskState.COMMITTED
        return DiskState((last.get("error") or {}).get("diskState", DiskState.UNKNOWN))

    def _last_document(self, entry: JobEntry) -> Mapping[str, Any]:
        """The last status of a job that leaves the slot, be it recorded or not."""
        if entry.status is not None:
            return entry.status
        outcome = self._current.last_status()
        if outcome is None or outcome.status == DOING:
            outcome = status_of(entry, self._view.require_job(), self._view.server_name, JobCancelled())
        return outcome.document()


def with_receipt(status: Mapping[str, Any], receipt: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The last status as a control plane is told it: with the receipt, where there is one."""
    return status if receipt is None else {**status, "receipt": receipt}


def status_of(entry: JobEntry, job: Job, server_name: str, error: DeployError) -> Status:
    """The last status of a job that no deployment ends any more."""
    return concluded(
        job,
        server_name,
        attempt=entry.attempt,
        outcome=error,
        disk_state=entry.disk_state,
        min_percent=entry.percent,
    )


def failed(entry: JobEntry, job: Job, server_name: str, error: DeployError) -> Failed:
    """The event by which such a job comes to its end."""
    return Failed(status_of(entry, job, server_name, error).document(), job.without_secrets())
