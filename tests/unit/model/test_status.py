"""A status goes out as JSON and comes back the same; what is no status is refused and named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ChecksumMismatch, JobInterrupted
from agent.model.stage import STAGES, State
from agent.model.status import Progress, StageTime, Status, read_status, read_timestamp

TIMES = st.integers(0, 4_000_000_000_000).map(lambda milliseconds: milliseconds / 1000)
SECONDS = st.floats(0, 1e6)
COUNTS = st.integers(0, 2**62)
ERRORS = st.sampled_from(
    [
        JobInterrupted(reason="kill -9").document(),
        ChecksumMismatch(algorithm="sha256", got="1", expected="2", detail="x", hint="y").document(),
    ]
)


@st.composite
def statuses(draw) -> Status:
    begun = draw(st.integers(0, len(STAGES)))
    stages = [StageTime(stage.value, draw(TIMES), draw(SECONDS)) for stage in STAGES[:begun]]
    doing = State(stages[-1].name) if stages else State.STARTING
    state = draw(st.sampled_from([doing, State.DONE, State.ERROR]))
    return Status(
        server_name=draw(st.none() | st.text()),
        state=state,
        message=draw(st.text()),
        checksum=draw(st.none() | st.text()),
        percent=draw(st.floats(0, 100)),
        attempt=draw(st.integers(1, 9)),
        progress=Progress(
            bytes_downloaded=draw(COUNTS),
            bytes_total=draw(st.none() | COUNTS),
            bytes_written=draw(COUNTS),
            rate=draw(st.floats(0, 1e12)),
            eta=draw(st.none() | SECONDS),
            waiting_on=draw(st.sampled_from([None, "network", "disk", "cpu"])),
            connections=draw(st.integers(0, 16)),
        ),
        started_at=draw(TIMES),
        updated_at=draw(TIMES),
        finished_at=draw(st.none() | TIMES),
        stages=tuple(stages),
        error=draw(ERRORS) if state is State.ERROR else None,
        disks=tuple(draw(st.lists(st.dictionaries(st.text(), st.text()), max_size=3))),
        job=draw(st.dictionaries(st.text(), st.text())),
        notes=tuple(draw(st.lists(st.text()))),
    )


@given(statuses())
def test_a_status_comes_back_the_same(status):
    document = json.loads(json.dumps(status.document()))
    back = read_status(document | {"revision": 7, "somethingNewer": {"x": [1]}})
    assert back.document() == document
    assert back.state is status.state
    assert back.is_over == (status.state in (State.DONE, State.ERROR))


GOOD = Status(
    server_name="ns1",
    state=State.WRITE,
    message="m",
    checksum=None,
    percent=1.0,
    attempt=1,
    progress=Progress(),
    started_at=1.0,
    updated_at=2.0,
    stages=(StageTime("preflight", 1.0, 0.5), StageTime("write", 1.5, None)),
).document()

WRONG = {
    "servername": (5, []),
    "status": ("paused", 5, None),
    "percent": (float("nan"), float("inf"), -1, 10**400, True, "1", None),
    "bytesDownloaded": (1.5, -1, 2**63, True, None),
    "bytesTotal": ("1", -1),
    "rate": (float("nan"), "1"),
    "eta": (float("-inf"), "1"),
    "startedAt": (
        None,
        5,
        "yesterday",
        "2024-05-01T10:00:00",
        "0001-01-01T00:00:00+23:00",
        "9999-12-31T23:59:59-23:00",
    ),
    "stages": (None, {}, [5], [{"name": 5}], [{"name": "write", "startedAt": None}]),
    "notes": (None, [5], "x"),
    "error": ("x", {}, {"code": "a", "blame": "disk", "message": 5}),
    "disks": (None, {}, [5], "x"),
    "slowDisk": (5, []),
    "imageType": (5, []),
    "imagePacking": (5, []),
    "signature": ("x", 5, []),
    "job": ("x", []),
}


@pytest.mark.parametrize(
    ("member", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_wrong_member_is_refused_by_its_name(member, value):
    with pytest.raises(ValueError, match=r"member (\w+)") as caught:
        read_status(GOOD | {member: value})
    if member != "stages":
        assert member in str(caught.value)


@pytest.mark.parametrize("member", sorted(set(GOOD) - {"servername", "message", "checksum", "stage", "bytesTotal",
    "eta", "waitingOn", "slowDisk", "finishedAt", "error", "disk", "disks", "imageType", "imagePacking", "signature",
    "readBack", "registry", "job", "connections"}))  # fmt: skip
def test_a_missing_member_is_refused(member):
    with pytest.raises(ValueError, match=member):
        read_status({key: value for key, value in GOOD.items() if key != member})


@pytest.mark.parametrize("disk", [None, {"path": "/dev/sda", "size": 5}])
def test_the_disk_of_an_agent_that_knew_one_is_read(disk):
    older = {key: value for key, value in GOOD.items() if key != "disks"} | {"disk": disk}
    assert read_status(older).disk == disk


def test_a_stage_of_a_newer_agent_is_kept_and_is_no_state_of_ours():
    document = GOOD | {"stages": [{"name": "polish", "startedAt": "2024-05-01T10:00:00Z", "seconds": None}]}
    status = read_status(document)
    assert (status.state, status.stages[0].name) == (State.STARTING, "polish")


def test_times_have_an_offset():
    assert read_timestamp("1970-01-01T01:00:00+01:00") == 0
    with pytest.raises(ValueError, match="offset"):
        read_timestamp("1970-01-01T01:00:00")
