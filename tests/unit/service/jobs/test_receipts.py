"""The receipt of an outcome has its room in the journal, whatever the job is."""

import json

from agent.deploy.tracker import concluded
from agent.errors import ImageDownload
from agent.model.disk_state import DiskState
from agent.model.job import parse_job
from agent.service.jobs.entry import JobEntry
from agent.service.jobs.journal import OUTCOME_BYTES
from agent.service.jobs.lifecycle import MAX_NOTES_BYTES
from agent.service.jobs.phases import Failed, advance
from agent.service.jobs.receipts import Receipts

LONG = "https://images.example.net/" + "x" * 7000
DOCUMENT = {
    "URL": LONG,
    "mirrors": [f"{LONG}{number}" for number in range(16)],
    "type": "raw",
    "description": "d" * 4000,
    "httpHeader": [{"key": f"X-{number}", "value": "v"} for number in range(200)],
}


async def test_the_largest_outcome_fits_the_room_that_was_reserved_for_it():
    job = parse_job(DOCUMENT)
    entry = JobEntry(id="1", origin="api", job=DOCUMENT, accepted_at=1.0)
    error = ImageDownload(url=LONG, detail=f"it answered 404 to {LONG}", hint="h" * 500)
    status = concluded(job, "ns1", attempt=1, outcome=error, disk_state=DiskState.EMPTY).document()
    receipt, note = await Receipts().issue(entry, status)
    assert note is None
    over = advance(entry, Failed(status, job.without_secrets(), receipt))
    taken = len(json.dumps(over.document())) - len(json.dumps(entry.document())) + MAX_NOTES_BYTES
    assert taken < OUTCOME_BYTES + 4 * len(json.dumps(job.redacted()))
