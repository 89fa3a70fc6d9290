"""The commit point, on a disk with another system on it: whatever stops a deployment, and wherever.

Before the claim has written, the old system is there to the last byte. From then on the first sector is zero, and from
the end of the claim to the commit both ends are. With the first sector of the new system, all of it is there.
"""

import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.model.disk_state import DiskState
from tests.kit import deployments
from tests.kit.checks import assert_complete, assert_nothing_boots, what_is_on
from tests.kit.deployments import Driver, Outcome, driving
from tests.kit.images import Image, make_image, make_old_disk
from tests.kit.server import Request, serving

STAGES = ("preflight", "claim", "write", "verify", "finish", "commit")
BOUNDARIES = tuple(f"{stage} {edge}" for stage in STAGES for edge in ("begins", "ends"))
# Seconds before each 256 KiB of the last 6 MiB: the write stage takes about half a second then.
PAUSE = 0.02


@dataclass(frozen=True)
class Lab:
    """What all tests here share: a driver, a server, an image, and what is on the disk before."""

    driver: Driver
    url: str
    image: Image
    old: bytes = field(repr=False)

    @property
    def job(self) -> dict[str, object]:
        return deployments.job(self.url, self.image.sha256)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    image = make_image(directory)
    old = make_old_disk(directory)
    with (
        driving(directory) as driver,
        serving(lambda request: request.file(image.data)) as server,
    ):
        yield Lab(driver, server.url, image, old)


@pytest.fixture(scope="module")
def reference(lab: Lab, tmp_path_factory) -> Outcome:
    """A deployment that nothing stops: what there is to be interrupted."""
    disk = tmp_path_factory.mktemp("reference") / "disk"
    disk.write_bytes(lab.old)
    outcome = lab.driver.deploy(disk, lab.job)
    assert outcome.status["status"] == "done"
    assert tuple(outcome.events) == BOUNDARIES
    return outcome


@pytest.fixture
def disk(lab: Lab, tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(lab.old)
    return path


def check(lab: Lab, disk: Path, allowed: set[str], why: object) -> str:
    """The disk is in one of these states, and where it has a first sector it has all the rest."""
    found = what_is_on(disk, lab.old)
    assert found in allowed, why
    if found == "system":
        assert_complete(disk, lab.image, disk.parent)
    return found


def assert_second_try_works(lab: Lab, disk: Path) -> None:
    outcome = lab.driver.deploy(disk, lab.job)
    assert outcome.status["status"] == "done", outcome.status["error"]
    assert_complete(disk, lab.image, disk.parent)


def after_event(event: str | None) -> set[str]:
    """What may be on the disk when this was the last event before a kill."""
    if event is None or event in ("preflight begins", "preflight ends"):
        return {"old"}
    if event == "claim begins":
        return {"old", "headless", "blank"}
    if event == "commit begins":
        return {"blank", "headless", "system"}
    return {"system"} if event == "commit ends" else {"blank"}


def after_cancel(outcome: Outcome) -> set[str]:
    """What has to be on the disk when a deployment has been cancelled: what its status says."""
    assert not outcome.held
    if outcome.status["status"] == "done":
        return {"system"}
    assert outcome.error_code == "job.cancelled"
    # A thread that was at work when the cancel came has run to its end first.
    assert_told(outcome, "empty" if outcome.calls else "untouched")
    return {"blank"} if outcome.calls else {"old"}


def assert_told(outcome: Outcome, state: str) -> None:
    """The error says what is on the disk, to programs and to people."""
    error = outcome.status["error"]
    assert error["diskState"] == state, outcome.trace
    assert error["hint"].endswith(DiskState(state).sentence)


def worth_trying(reference: Outcome) -> list[int]:
    """All calls of the disk but the many like ones in the middle of the image."""
    numbers = range(len(reference.calls))
    middle = [number for number in numbers if reference.stage_of_call(number) == "write"][1:-2]
    return [number for number in numbers if number not in middle]


# -- read-back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["kill", "cancel"])
@pytest.mark.parametrize("edge", ["begins", "ends"])
def test_nothing_boots_while_everything_is_read_back(lab: Lab, disk: Path, by: str, edge: str):
    events = [*BOUNDARIES[: BOUNDARIES.index("finish begins")], "readback begins", "readback ends"]
    number = events.index(f"readback {edge}")
    stop = {"by": by, "at": "event", "number": number}
    outcome = lab.driver.deploy(disk, lab.job | {"verify": "readback"}, stop=stop)
    assert outcome.events[: number + 1] == events[: number + 1]
    assert check(lab, disk, {"blank"}, outcome.events) == "blank"
    assert_nothing_boots(disk)
    if by == "cancel":
        assert outcome.error_code == "job.cancelled"
        assert_told(outcome, "empty")
    assert_second_try_works(lab, disk)


# -- kill -9 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_kill_at_a_stage_boundary(lab: Lab, disk: Path, boundary: str):
    stop = {"by": "kill", "at": "event", "number": BOUNDARIES.index(boundary)}
    outcome = lab.driver.deploy(disk, lab.job, stop=stop)
    assert (outcome.signal, outcome.events[-1]) == (signal.SIGKILL, boundary)
    exactly = {"claim begins": {"old"}, "commit begins": {"blank"}}
    if check(lab, disk, exactly.get(boundary) or after_event(boundary), boundary) == "blank":
        assert_nothing_boots(disk)
    assert_second_try_works(lab, disk)


def test_kill_after_every_single_write_and_flush(lab: Lab, disk: Path, reference: Outcome):
    last = {
        stage: number for number in range(len(reference.calls)) for stage in [reference.stage_of_call(number)]
    }
    seen = set()
    for number, (name, offset, _) in enumerate(reference.calls):
        disk.write_bytes(lab.old)
        outcome = lab.driver.deploy(disk, lab.job, stop={"by": "kill", "at": "call", "number": number})
        assert outcome.signal == signal.SIGKILL
        assert outcome.calls == reference.calls[: number + 1]
        stage = reference.stage_of_call(number)
        if stage == "claim":
            allowed = {"blank"} if number == last["claim"] else {"blank", "headless"}
        elif stage == "commit":
            allowed = {"system"} if number >= last["commit"] - 1 else {"headless"}
        else:
            allowed = {"blank"}
        seen.add((stage, check(lab, disk, allowed, (number, stage, name, offset))))
    assert {("claim", "headless"), ("commit", "headless"), ("commit", "system")} <= seen
    # The first sector of the new system is the last write of all, and everything before it has been flushed.
    assert [name for name, _, _ in reference.calls[-3:]] == ["flush", "write", "flush"]
    assert reference.calls[-2][1:] == (0, 512)
    assert_second_try_works(lab, disk)


@pytest.mark.parametrize(("pause", "kills"), [(0.0, 15), (PAUSE, 20)], ids=["fast", "throttled"])
def test_kill_at_a_random_instant(lab: Lab, disk: Path, pause: float, kills: int):
    # A run is repeated by the seed that pytest-randomly shows.
    instants = random.Random(random.getrandbits(32))
    stages = set()
    with serving(lambda request: request.file(lab.image.data, pause=pause)) as server:
        job = deployments.job(server.url, lab.image.sha256)
        whole = lab.driver.deploy(disk, job).seconds
        for _ in range(kills):
            delay = instants.uniform(0, whole * 1.1)
            disk.write_bytes(lab.old)
            outcome = lab.driver.deploy(disk, job, kill_after=delay)
            event = outcome.events[-1] if outcome.events else None
            stages.add(event.split()[0] if event else "start")
            check(lab, disk, after_event(event), f"killed {delay} s after its start, after {event!r}")
    assert len(stages) > 1, stages
    assert_second_try_works(lab, disk)


def test_kill_of_the_command(lab: Lab, disk: Path, start_write):
    with serving(lambda request: request.file(lab.image.data, pause=PAUSE)) as server:
        for _ in range(3):
            command = start_write(disk, server.url, lab.image.sha256)
            command.wait_for("write: begins")
            command.process.kill()
            assert command.finish().status == -signal.SIGKILL
            check(lab, disk, {"blank"}, "write")
    assert_second_try_works(lab, disk)


# -- SIGTERM and SIGINT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_command_at_a_random_instant(lab: Lab, disk: Path, start_write, number: signal.Signals):
    instants = random.Random(random.getrandbits(32))
    asked = threading.Event()

    def answer(request: Request) -> None:
        asked.set()
        request.file(lab.image.data, pause=PAUSE)

    cancelled = 0
    with serving(answer) as server:
        for _ in range(12 if number == signal.SIGTERM else 3):
            delay = instants.uniform(0, 24 * PAUSE + 0.3)
            asked.clear()
            disk.write_bytes(lab.old)
            command = start_write(disk, server.url, lab.image.sha256)
            assert asked.wait(30)
            threading.Event().wait(delay)
            command.process.send_signal(number)
            outcome = command.finish()
            why = f"{number.name} {delay} s after the first request: {outcome.err}"
            if outcome.document.get("status") == "done":
                # It came too late. The process may have been past the point where it minds signals.
                assert outcome.status in (0, -number), why
                check(lab, disk, {"system"}, why)
                continue
            cancelled += 1
            assert (outcome.status, outcome.error["code"]) == (130, "job.cancelled"), why
            assert "The deployment was cancelled." in outcome.err
            assert "Traceback" not in outcome.err
            untouched = outcome.document["stage"] == "preflight"
            check(lab, disk, {"old"} if untouched else {"blank"}, why)
            assert outcome.error["diskState"] == ("untouched" if untouched else "empty"), why
            assert ("Nothing was written" in outcome.err) == untouched, why
            assert ("The disk is empty and cannot boot" in outcome.err) != untouched, why
    assert cancelled
    assert_second_try_works(lab, disk)


def test_signal_before_the_first_write_leaves_the_old_system(lab: Lab, disk: Path, start_write):
    asked = threading.Event()

    def answer(request: Request) -> None:
        asked.set()
        request.server.stopping.wait(30)

    with serving(answer) as server:
        command = start_write(disk, server.url, lab.image.sha256)
        assert asked.wait(30)
        command.process.terminate()
        outcome = command.finish()
    assert (outcome.status, outcome.error["code"]) == (130, "job.cancelled")
    check(lab, disk, {"old"}, outcome.err)
    assert "hint: Nothing was written: the disk holds what it held before." in outcome.err


def test_second_signal_does_not_hurry_past_the_wipe(lab: Lab, disk: Path, start_write):
    with serving(lambda request: request.file(lab.image.data, pause=PAUSE)) as server:
        command = start_write(disk, server.url, lab.image.sha256)
        command.wait_for("write: begins")
        for _ in range(20):
            command.process.terminate()
            threading.Event().wait(0.002)
        outcome = command.finish()
    # Once the event loop has ended a signal does what it does to any process.
    assert outcome.status in (130, -signal.SIGTERM), outcome.err
    assert not outcome.document or outcome.error["code"] == "job.cancelled"
    check(lab, disk, {"blank"}, outcome.err)


# -- cancellation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_cancel_at_a_stage_boundary(lab: Lab, disk: Path, boundary: str):
    stop = {"by": "cancel", "at": "event", "number": BOUNDARIES.index(boundary)}
    outcome = lab.driver.deploy(disk, lab.job, stop=stop)
    assert outcome.signal == 0
    assert (outcome.status["status"] == "done") == (boundary == "commit ends")
    if check(lab, disk, after_cancel(outcome), boundary) == "blank":
        assert_nothing_boots(disk)


def test_cancel_after_writes_and_flushes(lab: Lab, disk: Path, reference: Outcome):
    for number in worth_trying(reference):
        disk.write_bytes(lab.old)
        outcome = lab.driver.deploy(disk, lab.job, stop={"by": "cancel", "at": "call", "number": number})
        stage = reference.stage_of_call(number)
        check(lab, disk, after_cancel(outcome), f"cancelled in {stage}, at call {number}")
    assert_second_try_works(lab, disk)


# -- a disk that fails ---------------------------------------------------------------------------------------


def test_input_output_error_in_writes_and_flushes(lab: Lab, disk: Path, reference: Outcome):
    for number in worth_trying(reference):
        disk.write_bytes(lab.old)
        outcome = lab.driver.deploy(disk, lab.job, stop={"by": "eio", "at": "call", "number": number})
        stage = reference.stage_of_call(number)
        assert outcome.error_code == ("image.write" if stage == "write" else "disk.io"), number
        assert outcome.status["stage"] == stage
        check(lab, disk, {"blank"}, f"EIO in {stage}, in place of call {number}")
        assert_told(outcome, "empty")
        assert "SMART" in outcome.status["error"]["hint"]
    assert_second_try_works(lab, disk)


def test_disk_that_fails_for_good_has_no_first_sector(lab: Lab, disk: Path, reference: Outcome):
    for number in worth_trying(reference):
        stage = reference.stage_of_call(number)
        disk.write_bytes(lab.old)
        stop = {"by": "eio", "at": "call", "number": number, "again": True}
        outcome = lab.driver.deploy(disk, lab.job, stop=stop)
        assert outcome.error_code == ("image.write" if stage == "write" else "disk.io"), number
        if not outcome.calls:
            allowed = {"old"}
        elif outcome.calls == reference.calls[:-1]:
            allowed = {"system"}  # all was written, and nothing but the last flush is missing
        else:
            allowed = {"blank", "headless"}
        check(lab, disk, allowed, f"dead since {stage}, call {number}")
        assert any("could not be wiped" in note for note in outcome.status["notes"]), number
        assert "could not be wiped" in outcome.status["error"]["detail"], number
        assert_told(outcome, "unknown")
    assert_second_try_works(lab, disk)
