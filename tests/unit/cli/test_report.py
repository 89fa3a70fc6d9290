"""What two status documents say about what happened in between."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.report import Reboot, changes, read_report
from agent.deploy.tracker import Tracker
from agent.errors import ImageDownload, JobCancelled
from agent.model.events import DeployEvent, Finished, Noted, StageBegan, StageEnded
from agent.model.job import parse_job
from agent.model.stage import STAGES, State
from agent.model.status import Status, read_status

JOB = parse_job({"URL": "http://a.example/x", "type": "raw"})


def told(events: list[DeployEvent]) -> list[tuple[object, ...]]:
    """Events without what only one of both ways knows to the last digit."""
    shown: list[tuple[object, ...]] = []
    for event in events:
        match event:
            case StageBegan(stage):
                shown.append(("begins", stage))
            case StageEnded(stage, _, failed):
                shown.append(("ended", stage, failed))
            case Noted(text):
                shown.append(("note", text))
            case Finished(status):
                shown.append(("over", status.status))
    return shown


class Course:
    """A deployment by a real tracker: its events, and its document after every step."""

    def __init__(self, fails_in: int | None, notes_in: set[int]) -> None:
        self.events: list[DeployEvent] = []
        self.documents = []
        self.tracker = Tracker(JOB, "ns1", self.listen)
        self.documents.append(self.tracker.snapshot().document())
        for number in range(len(STAGES) + 1):
            if number == fails_in:
                self.tracker.fail(ImageDownload(url="http://a.example/x"))
                break
            self.tracker.next()
            if number in notes_in and number < len(STAGES):
                self.tracker.note(f"note {number}")

    def listen(self, event: DeployEvent) -> None:
        self.events.append(event)
        # What a client may see: the daemon shows the document at every event.
        self.documents.append(self.tracker.snapshot().document())


@given(
    fails_in=st.none() | st.integers(1, len(STAGES)),
    notes_in=st.sets(st.integers(0, len(STAGES))),
    seen=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_whichever_documents_are_seen_the_same_events_are_told(fails_in, notes_in, seen):
    """The display of `--watch` shows what that of `byoi write` shows, however many documents it missed."""
    course = Course(fails_in, notes_in)
    documents = [document for document, look in zip(course.documents, seen, strict=False) if look]
    documents.append(course.documents[-1])
    before: Status | None = None
    events: list[DeployEvent] = []
    for document in documents:
        after = read_status(document)
        events += changes(before, after)
        before = after
    expected, found = told(course.events), told(events)
    notes = [event for event in expected if event[0] == "note"]
    assert [event for event in found if event[0] == "note"] == notes
    assert [event for event in found if event[0] != "note"] == [e for e in expected if e[0] != "note"]
    assert found[-1][0] == "over"


def test_a_deployment_that_begins_again_is_told_from_its_start():
    """An agent that was restarted in the middle begins the same job anew."""
    first, second = Course(None, {0}), Course(None, set())
    in_write = read_status(first.documents[6])
    assert [stage.name for stage in in_write.stages][-1] in ("claim", "write")
    again = read_status(second.documents[1])
    later = [dataclasses.replace(stage, started_at=stage.started_at + 1) for stage in again.stages]
    events = changes(in_write, dataclasses.replace(again, stages=tuple(later)))
    assert told(events) == [("begins", State.PREFLIGHT)]


def test_notes_that_fell_out_are_not_told_again():
    base = read_status(Course(None, set()).documents[1])
    first = dataclasses.replace(base, notes=tuple(f"note {n}" for n in range(100)))
    second = dataclasses.replace(base, notes=tuple(f"note {n}" for n in range(3, 103)))
    assert changes(first, second) == [Noted("note 100"), Noted("note 101"), Noted("note 102")]
    assert changes(second, second) == []


def test_a_report_of_nothing():
    idle = {
        "servername": "ns1",
        "status": None,
        "message": None,
        "checksum": None,
        "revision": 7,
        "notes": ["x"],
    }
    report = read_report(idle)
    assert (report.status, report.server_name, report.revision, report.notes) == (None, "ns1", 7, ("x",))


def test_a_report_with_its_reboot():
    tracker = Tracker(JOB, "ns1", lambda _: None)
    tracker.fail(JobCancelled())
    document = tracker.snapshot().document() | {"id": "a", "revision": 3}
    waiting = {"state": "waiting", "at": "2024-05-01T10:00:00.000Z", "reason": None}
    assert read_report(document | {"reboot": waiting}).reboot == Reboot("waiting", 1714557600.0)
    failed = {"state": "failed", "at": None, "reason": "no such command"}
    assert read_report(document | {"reboot": failed}).reboot == Reboot("failed", None, "no such command")
    assert read_report(document | {"reboot": None}).reboot is None


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "x",
        {},
        {"revision": "1", "status": None},
        {"revision": True, "status": None},
        {"revision": 1, "status": 5},
    ],
)
def test_what_is_no_report(document):
    with pytest.raises(ValueError, match="status"):
        read_report(document)
