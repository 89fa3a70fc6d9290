import pytest

from agent.deploy.plan import WEIGHTS
from agent.deploy.tracker import MAX_NOTES, MESSAGES, UNCHECKED_MESSAGES, Tracker, concluded, starting
from agent.errors import ChecksumMismatch, JobCancelled, JobInterrupted
from agent.model.disk_state import DiskState
from agent.model.events import Finished, Noted, StageBegan, StageEnded
from agent.model.job import parse_job
from agent.model.seal import KeptOut, Seal, SealedDisk
from agent.model.stage import STAGES, State
from agent.model.status import Progress

JOB = parse_job(
    {
        "URL": "https://a.example/x?token=secret1",
        "type": "raw",
        "httpHeader": [{"key": "X-Token", "value": "secret2"}],
        "configdrive": {"enable": True, "userData": "secret3"},
    }
)


@pytest.fixture
def events():
    return []


@pytest.fixture
def clock():
    """Seconds that pass by one whenever they are looked at."""
    times = iter(range(1_700_000_000, 1_800_000_000))
    return lambda: float(next(times))


@pytest.fixture
def tracker(events, clock):
    return Tracker(JOB, "ns1.example.net", events.append, clock)


def advance_to(tracker: Tracker, state: State) -> None:
    while tracker.state is not state:
        tracker.next()


@pytest.mark.parametrize("checked", [False, True])
def test_only_what_was_compared_is_told_as_verified(checked):
    checksum = {"checkSum": "0" * 64, "checkSumType": "sha256"} if checked else {}
    tracker = Tracker(
        parse_job({"URL": "http://a.example/x", "type": "raw"} | checksum), None, lambda _: None
    )
    advance_to(tracker, State.VERIFY)
    assert ("length" in tracker.snapshot().message) != checked
    advance_to(tracker, State.DONE)
    done = tracker.snapshot()
    assert done.message == (MESSAGES if checked else UNCHECKED_MESSAGES)[State.DONE]
    assert ("Only its length was verified" in done.message) != checked


def test_a_client_sees_starting_first(tracker):
    document = tracker.snapshot().document()
    assert document["status"] == "doing"
    assert document["message"] == "starting"
    assert document["servername"] == "ns1.example.net"
    assert (document["stage"], document["percent"], document["stages"]) == (None, 0.0, [])


def test_a_deployment_goes_through_all_stages(tracker, events):
    tracker.weights = WEIGHTS
    seen = []
    while tracker.state is not State.DONE:
        tracker.next()
        seen.append(tracker.state)
        status = tracker.snapshot()
        assert status.message == UNCHECKED_MESSAGES[tracker.state]
        assert status.status == ("done" if tracker.state is State.DONE else "doing")
    assert seen == [*STAGES, State.DONE]
    assert [event.stage for event in events if isinstance(event, StageBegan)] == list(STAGES)
    assert [event.stage for event in events if isinstance(event, StageEnded)] == list(STAGES)
    assert not any(event.failed for event in events if isinstance(event, StageEnded))
    assert isinstance(events[-1], Finished)
    assert events[-1].status.document()["percent"] == 100.0
    assert tracker.snapshot().finished_at is not None


def test_no_stage_follows_the_last_one(tracker):
    advance_to(tracker, State.DONE)
    for illegal in (tracker.next, tracker.restart, lambda: tracker.fail(JobCancelled())):
        with pytest.raises(RuntimeError, match="cannot take the event"):
            illegal()


@pytest.mark.parametrize("state", [State.STARTING, *STAGES])
@pytest.mark.parametrize("error", [JobCancelled(), ChecksumMismatch(algorithm="md5", got="1", expected="2")])
def test_it_can_fail_and_be_cancelled_at_every_stage(tracker, events, state, error):
    advance_to(tracker, state)
    tracker.fail(error)
    document = tracker.snapshot().document()
    assert (document["status"], document["message"]) == ("error", error.message)
    assert document["error"]["code"] == error.code
    assert document["finishedAt"] is not None
    assert all(stage["seconds"] is not None for stage in document["stages"])
    assert isinstance(events[-1], Finished)


def test_the_percentage_follows_the_bytes_written(tracker):
    tracker.weights = WEIGHTS
    written = 0
    tracker.progress = lambda: Progress(bytes_downloaded=written, bytes_written=written, bytes_total=1000)
    advance_to(tracker, State.WRITE)
    assert tracker.snapshot().percent == 3
    written = 500
    assert tracker.snapshot().percent == 3 + 46
    written = 1000
    assert tracker.snapshot().percent == 95
    tracker.next()
    assert tracker.snapshot().percent == 95


def test_rate_and_waits_are_told_only_while_bytes_flow(tracker):
    tracker.progress = lambda: Progress(
        bytes_downloaded=7,
        bytes_written=7,
        rate=1e6,
        eta=3.0,
        waiting_on="disk",
        connections=2,
        waits={"disk": 1.0},
    )
    flowing = set()
    while True:
        document = tracker.snapshot().document()
        if any(document[member] for member in ("rate", "eta", "waitingOn", "connections")):
            flowing.add(tracker.state)
        assert document["bytesDownloaded"] == 7
        if tracker.state is State.DONE:
            break
        tracker.next()
    assert flowing == {State.PREFLIGHT, State.WRITE}
    failed = Tracker(JOB, None, lambda _: None)
    advance_to(failed, State.WRITE)
    failed.progress = tracker.progress
    failed.fail(JobCancelled())
    document = failed.snapshot().document()
    assert [document[member] for member in ("rate", "eta", "waitingOn", "connections")] == [0, None, None, 0]


def test_an_agent_that_comes_back_goes_on_from_the_percentage_that_was_shown():
    tracker = Tracker(JOB, None, lambda _: None, attempt=2, min_percent=61.5)
    assert tracker.snapshot().percent == 61.5
    tracker.weights = WEIGHTS
    tracker.progress = lambda: Progress(bytes_written=1, bytes_total=1000)
    advance_to(tracker, State.WRITE)
    assert tracker.snapshot().percent == 61.5
    tracker.progress = lambda: Progress(bytes_written=1000, bytes_total=1000)
    assert tracker.snapshot().percent == 95
    assert starting(JOB, None, attempt=2, min_percent=61.5).percent == 61.5
    outcome, left = JobInterrupted(reason="x"), DiskState.EMPTY
    ended = concluded(JOB, None, attempt=5, outcome=outcome, disk_state=left, min_percent=61.5)
    assert ended.error is not None
    assert ended.error["diskState"] == "empty"
    assert ended.error["hint"].endswith(left.sentence)
    assert ended.percent == 61.5
    assert Tracker(JOB, None, lambda _: None, min_percent=900).snapshot().percent == 100


@pytest.mark.parametrize(
    ("sealed", "told"), [(("raw", "gzip"), ("raw", "gzip")), (("qcow2", ""), ("qcow2", None)), (("", ""), (None, None))]
)  # fmt: skip
def test_what_the_image_was_is_known_from_the_seal(sealed, told):
    outcome = Seal(
        (SealedDisk("/dev/sda", 100, 1, "", 1, ""),), "md5:x", image_type=sealed[0], image_packing=sealed[1]
    )
    ended = concluded(JOB, None, attempt=1, outcome=outcome, disk_state=DiskState.COMMITTED)
    assert (ended.image_type, ended.image_packing) == told


def test_a_disk_that_is_kept_out_is_told_with_the_reason_and_is_not_the_first(tracker):
    tracker.disks = [{"path": "/dev/sda", "size": 100}, {"path": "/dev/sdb", "size": 100}]
    tracker.failed = lambda: {"/dev/sda": "it is worn"}
    advance_to(tracker, State.WRITE)
    status = tracker.snapshot()
    assert [disk["failed"] for disk in status.disks] == ["it is worn", None]
    assert status.disk["path"] == "/dev/sdb"
    assert status.message == MESSAGES[State.WRITE]
    advance_to(tracker, State.DONE)
    assert tracker.snapshot().message == (
        f"{UNCHECKED_MESSAGES[State.DONE]} Not on /dev/sda: kept out, having failed."
    )


def test_which_disk_was_kept_out_is_known_from_the_seal():
    disk, out = SealedDisk("/dev/sdb", 100, 1, "", 1, ""), KeptOut("/dev/sda", 90, "it is worn")
    outcome = Seal((disk,), "md5:x", kept_out=(out,))
    ended = concluded(JOB, None, attempt=1, outcome=outcome, disk_state=DiskState.COMMITTED)
    assert {disk["path"]: disk["failed"] for disk in ended.disks} == {
        "/dev/sda": "it is worn",
        "/dev/sdb": None,
    }
    assert ended.disk["path"] == "/dev/sdb"
    assert "Not on /dev/sda" in ended.message


def test_who_has_signed_is_known_from_the_seal():
    outcome = Seal((SealedDisk("/dev/sda", 100, 1, "", 1, ""),), "md5:x", signature='{"type": "ssh"}')
    ended = concluded(JOB, None, attempt=1, outcome=outcome, disk_state=DiskState.COMMITTED)
    assert ended.signature == {"type": "ssh"}


def test_what_a_registry_had_is_known_from_the_seal():
    outcome = Seal((SealedDisk("/dev/sda", 100, 1, "", 1, ""),), "md5:x", registry='{"layer": "sha256:1"}')
    ended = concluded(JOB, None, attempt=1, outcome=outcome, disk_state=DiskState.COMMITTED)
    assert ended.registry == {"layer": "sha256:1"}


def test_a_listener_that_fails_fails_nothing_but_itself(events, clock):
    def listen(event):
        events.append(event)
        raise BrokenPipeError

    tracker = Tracker(JOB, None, listen, clock)
    advance_to(tracker, State.DONE)
    tracker.note("still told")
    assert len([event for event in events if isinstance(event, StageBegan)]) == len(STAGES)
    assert isinstance(events[-1], Noted)


def test_the_percentage_never_goes_back(tracker):
    tracker.weights = WEIGHTS
    written = 900
    tracker.progress = lambda: Progress(bytes_written=written, bytes_total=1000)
    advance_to(tracker, State.WRITE)
    before = tracker.snapshot().percent
    tracker.restart()
    written = 0
    assert tracker.snapshot().percent == before
    assert tracker.snapshot().attempt == 2
    tracker.fail(JobCancelled())
    assert tracker.snapshot().percent == before


def test_without_a_total_the_percentage_waits(tracker):
    tracker.weights = WEIGHTS
    tracker.progress = lambda: Progress(bytes_written=10**9)
    advance_to(tracker, State.WRITE)
    assert tracker.snapshot().percent == 3


def test_the_source_is_reported_in_words(tracker, events):
    retry = {"attempt": 2, "attempts": 6, "position": 4096, "delay": 1.26, "reason": "503 Busy"}
    tracker.source_event("retrying", retry)
    tracker.source_event("resumed", {"position": 4096})
    tracker.source_event("redirected", {"url": "https://b.example/x"})
    tracker.source_event("something new", {})
    assert [event.text for event in events if isinstance(event, Noted)] == [
        "trying again in 1.3 s (attempt 2 of 6, at byte 4096): 503 Busy",
        "resumed at byte 4096",
        "redirected to https://b.example/x",
    ]


def test_notes_are_bounded(tracker):
    for number in range(MAX_NOTES + 5):
        tracker.note(str(number))
    notes = tracker.snapshot().notes
    assert (len(notes), notes[0], notes[-1]) == (MAX_NOTES, "5", str(MAX_NOTES + 4))


def test_a_snapshot_is_frozen_and_has_no_secrets(tracker):
    before = tracker.snapshot()
    advance_to(tracker, State.WRITE)
    assert before.state is State.STARTING
    assert before.stages == ()
    shown = repr(tracker.snapshot()) + str(tracker.snapshot().document())
    assert [word for word in ("secret1", "secret2", "secret3") if word in shown] == []


def test_a_stage_that_fails_ends_as_failed(tracker, events):
    tracker.next()
    tracker.fail(JobCancelled())
    assert [(event.stage, event.failed) for event in events if isinstance(event, StageEnded)] == [
        (STAGES[0], True)
    ]
