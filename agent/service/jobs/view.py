"""What clients are shown of the slot: made from the job's entry, its run, and the trouble of the journal.

Whoever has changed something calls `show`. Nothing is shown as over before the journal has it, and no percentage before
the journal knows that it may be told.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agent.deploy.tracker import starting
from agent.model.job import Job
from agent.model.status import DOING, Status
from agent.service.jobs.entry import JobEntry
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.store import JobStore


class Shown(Protocol):
    """The run of a job, as far as it is shown."""

    def live_status(self) -> Status | None:
        """The status of the deployment that is under way."""

    def reboot_document(self) -> Mapping[str, Any] | None:
        """The member `reboot` of the status, where there is a hand-over."""

    def waiting_for(self) -> str:
        """What keeps it from ending, in words."""


def idle_document(server_name: str | None, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The status document of an empty slot: the members of the OVH API are null."""
    return {
        "servername": server_name,
        "status": None,
        "message": None,
        "checksum": None,
        "id": None,
        "notes": list(notes),
        "reboot": None,
    }


class StatusView:
    """Shows one slot. Belongs to the event loop."""

    def __init__(self, server_name: str, store: JobStore, publisher: StatusPublisher) -> None:
        self.server_name = server_name
        self._store = store
        self._publisher = publisher
        self.job: Job | None = None
        """The job in the slot, read."""
        self.run: Shown | None = None
        """Its run, while there is something to carry out."""
        self.notes: tuple[str, ...] = ()
        """What is shown of an empty slot: how the last job left it."""
        self.occupation: str | None = None
        """What else is done to the disks, and keeps the slot from taking a job."""
        store.watch(self.show_and_tell)

    def show(self) -> bool:
        """Show what has changed; whether anything has."""
        if self._is_unrecorded():
            return False
        document = self._document()
        more = [note for note in (self.occupation, self._store.trouble) if note is not None]
        return self._publisher.show({**document, "notes": [*document["notes"], *more]} if more else document)

    def show_and_tell(self) -> None:
        """Show what has changed, and send the whole status to subscribers if anything has."""
        if self.show():
            self.tell("status")

    def tell(self, event: str) -> None:
        """Send the status that is shown to subscribers, as an event of this name."""
        self._publisher.tell(event)

    def _is_unrecorded(self) -> bool:
        """Whether the deployment is over, and not even memory has its outcome: it is about to be recorded."""
        entry = self._store.entry
        live = None if self.run is None else self.run.live_status()
        return entry is not None and not entry.is_over and live is not None and live.status != DOING

    def _document(self) -> dict[str, Any]:
        entry, run = self._store.entry, self.run
        if entry is None:
            return idle_document(self.server_name, self.notes)
        document = self._status_of(entry)
        if document["status"] == DOING:
            document["percent"] = min(document["percent"], self._store.promised_percent(entry.id))
        reboot = None if run is None else run.reboot_document()
        return {**document, "id": entry.id, "reboot": document.get("reboot") if reboot is None else reboot}

    def _status_of(self, entry: JobEntry) -> dict[str, Any]:
        run = self.run
        live = None if run is None else run.live_status()
        if entry.status is not None:
            document = dict(entry.status)
            if not self._store.has_outcome(entry.id):
                # The next agent may begin it again.
                message = f"The deployment is over, and its outcome cannot be stored. {self._store.trouble}"
                document |= {"status": DOING, "message": message, "error": None, "finishedAt": None}
            return document
        document = self._starting(entry).document() if live is None else live.document()
        if document["status"] == DOING and entry.requested_end is not None and run is not None:
            document["message"] = f"Cancelling: {run.waiting_for()}."
        return document

    def require_job(self) -> Job:
        """The job in the slot, which has one."""
        if self.job is None:
            raise RuntimeError("there is no job in the slot")
        return self.job

    def _starting(self, entry: JobEntry) -> Status:
        return starting(
            self.require_job(), self.server_name, attempt=entry.attempt, min_percent=entry.percent
        )
