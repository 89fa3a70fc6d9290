"""With `several.allow_failed`: a disk that fails while it is written is kept out, and the others are whole."""

import signal
from pathlib import Path

import pytest

from agent.model.seal import Seal
from agent.stages.commit import is_committed
from agent.units import MiB
from tests.kit import deployments
from tests.kit.checks import assert_complete, partitions, what_is_on
from tests.kit.deployments import Driver, Outcome, driving
from tests.kit.disks import DIRT, DISK_SIZE, is_untouched, make_disk
from tests.kit.images import Image, make_image
from tests.kit.members import examine

SIZES = (DISK_SIZE, DISK_SIZE + 8 * MiB)
ROOT = 2


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture
def disks(tmp_path) -> tuple[Path, Path]:
    return tmp_path / "a", tmp_path / "b"


def make_dirty(disks: tuple[Path, Path]) -> None:
    for disk, size in zip(disks, SIZES, strict=True):
        make_disk(disk, size)


def deploy(driver: Driver, image: Image, disks: tuple[Path, Path], *stops: dict, **order) -> Outcome:
    """Deploy onto two dirty disks."""
    make_dirty(disks)
    job = deployments.job(f"file://{image.path}", image.sha256) | order.pop("job", {})
    order = {"allow_failed": True, "others": [str(disks[1])], "stop": list(stops)} | order
    return driver.deploy(disks[0], job, **order)


def fault(disk: Path, number: int, *, at: str = "call", again: bool = False) -> dict:
    return {"by": "eio", "at": at, "number": number, "again": again, "disk": str(disk)}


@pytest.fixture(scope="module")
def reference(driver, image, tmp_path_factory):
    """Deployments that nothing stops, by what they read back: their calls and reads of each disk."""
    directory = tmp_path_factory.mktemp("reference")
    disks = directory / "a", directory / "b"
    found = {}
    for verify in ("commit", "readback"):
        outcome = deploy(driver, image, disks, job={"verify": verify})
        assert outcome.status["status"] == "done"
        assert [disk["failed"] for disk in outcome.status["disks"]] == [None, None]
        found[verify] = [stages_of(outcome, disk) for disk in disks]
    return found


def stages_of(outcome: Outcome, disk: Path) -> dict[str, list[str]]:
    """The stage of each call and of each read of a disk."""
    stages, stage = {"call": [], "read": []}, ""
    for entry in outcome.trace:
        if "event" in entry:
            stage = entry["event"].split()[0]
        elif entry.get("disk") == str(disk):
            stages["call"].append(stage)
        elif entry.get("read") == str(disk):
            stages["read"].append(stage)
    return stages


def worth_trying(stages: list[str]) -> list[int]:
    """The first three and the last three of each stage."""
    places = {stage: [number for number, one in enumerate(stages) if one == stage] for stage in stages}
    return sorted({number for found in places.values() for number in (*found[:3], *found[-3:])})


def assert_kept_out(outcome: Outcome, disks: tuple[Path, Path], bad: int, image: Image, scratch: Path):
    """It is done, the other disk is whole, and whoever reads the status knows."""
    status, good = outcome.status, 1 - bad
    assert status["status"] == "done", status["error"]
    reasons = [disk["failed"] for disk in status["disks"]]
    assert reasons[good] is None
    assert str(disks[bad]) in reasons[bad]
    assert status["disk"]["path"] == str(disks[good])
    assert f"Not on {disks[bad]}" in status["message"]
    assert any(f"{disks[bad]} has failed and is kept out" in note for note in status["notes"])
    scratch.mkdir(exist_ok=True)
    assert_complete(disks[good], image, scratch)
    # What the journal has last is what is on the disks.
    seal = Seal.parse([entry["seal"] for entry in outcome.trace if "seal" in entry][-1])
    assert [disk.path for disk in seal.disks] == [str(disks[good])]
    assert [disk.path for disk in seal.kept_out] == [str(disks[bad])]
    assert all(is_committed(disk) for disk in seal.disks)


@pytest.mark.parametrize("bad", [0, 1])
def test_one_fault_anywhere_blanks_that_disk_and_the_other_is_whole(
    driver, image, disks, tmp_path, reference, bad
):
    stages = reference["commit"][bad]["call"]
    assert {"claim", "write", "finish", "commit"} == set(stages)
    for number in worth_trying(stages):
        outcome = deploy(driver, image, disks, fault(disks[bad], number))
        assert_kept_out(outcome, disks, bad, image, tmp_path / "scratch")
        assert what_is_on(disks[bad], DIRT * SIZES[bad]) == "blank", (number, stages[number])


@pytest.mark.parametrize("bad", [0, 1])
def test_a_disk_that_is_dead_from_some_point_on_is_kept_out_unless_it_may_boot_what_it_held(
    driver, image, disks, tmp_path, reference, bad
):
    stages = reference["commit"][bad]["call"]
    for number in worth_trying(stages):
        outcome = deploy(driver, image, disks, fault(disks[bad], number, again=True))
        state = what_is_on(disks[bad], DIRT * SIZES[bad])
        if stages[number] == "claim":
            assert (outcome.error_code, outcome.status["error"]["diskState"]) == ("disk.io", "unknown")
            assert what_is_on(disks[1 - bad], DIRT * SIZES[1 - bad]) in ("blank", "old")
            continue
        assert_kept_out(outcome, disks, bad, image, tmp_path / "scratch")
        assert "could not be wiped" in outcome.status["disks"][bad]["failed"]
        assert state == "blank" if stages[number] != "commit" else state in ("blank", "headless", "system")
        if state == "system":
            assert_complete(disks[bad], image, tmp_path / "scratch")


@pytest.mark.parametrize("bad", [0, 1])
def test_a_disk_that_cannot_be_read_is_kept_out_too(driver, image, disks, tmp_path, reference, bad):
    stages = reference["readback"][bad]["read"]
    assert {"claim", "readback", "finish", "commit"} <= set(stages)
    for number in worth_trying(stages):
        stop = fault(disks[bad], number, at="read", again=True)
        outcome = deploy(driver, image, disks, stop, job={"verify": "readback"})
        assert outcome.status["readBack"] == "readback"
        assert_kept_out(outcome, disks, bad, image, tmp_path / "scratch")
        assert what_is_on(disks[bad], DIRT * SIZES[bad]) == "blank", (number, stages[number])


def test_it_never_goes_on_without_any(driver, image, disks, reference):
    for number in worth_trying(reference["commit"][0]["call"])[3:]:
        stops = [fault(disk, number, again=True) for disk in disks]
        outcome = deploy(driver, image, disks, *stops)
        assert outcome.status["status"] == "error", number
        assert any(disk["failed"] is None for disk in outcome.status["disks"])


def test_without_the_policy_the_deployment_fails(driver, image, disks, reference):
    for at, verify in (("call", "commit"), ("read", "readback")):
        for number in worth_trying(reference[verify][1][at]):
            stop = fault(disks[1], number, at=at)
            outcome = deploy(driver, image, disks, stop, allow_failed=False, job={"verify": verify})
            assert outcome.status["status"] == "error", number
            assert [what_is_on(disk, DIRT * size) for disk, size in zip(disks, SIZES, strict=True)] == [
                "blank",
                "blank",
            ]


@pytest.mark.parametrize("bad", [0, 1])
def test_killed_after_a_disk_was_kept_out_each_is_blank_or_whole(
    driver, image, disks, tmp_path, reference, bad
):
    """Whatever the seal in the journal says then: only what is whole counts as committed."""
    good, stages = 1 - bad, reference["commit"][bad]["call"]
    for begins in (stages.index("finish"), stages.index("commit"), len(stages) - 1):
        calls = reference["commit"][good]["call"]
        for number in [n for n in worth_trying(calls) if calls[n] in ("finish", "commit")]:
            kill = {"by": "kill", "at": "call", "number": number, "disk": str(disks[good])}
            outcome = deploy(driver, image, disks, fault(disks[bad], begins), kill)
            assert outcome.signal == signal.SIGKILL
            found = [what_is_on(disk, DIRT * size) for disk, size in zip(disks, SIZES, strict=True)]
            if found[good] == "system":
                scratch = tmp_path / "scratch"
                scratch.mkdir(exist_ok=True)
                assert_complete(disks[good], image, scratch)
            seals = [Seal.parse(entry["seal"]) for entry in outcome.trace if "seal" in entry]
            if seals and all(is_committed(disk) for disk in seals[-1].disks):
                assert found[good] == "system"


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("stage", ["write", "finish", "commit"])
def test_of_a_mirror_one_member_is_left(driver, image, disks, tmp_path, reference, stage, bad):
    number = reference["commit"][bad]["call"].index(stage)
    raid = {"raid": {"level": "raid1"}}
    outcome = deploy(driver, image, disks, fault(disks[bad], number), job=raid)
    assert outcome.status["status"] == "done", outcome.status["error"]
    assert what_is_on(disks[bad], DIRT * SIZES[bad]) == "blank"
    start, size, _ = partitions(disks[1 - bad])[ROOT]
    member = tmp_path / "member"
    member.write_bytes(disks[1 - bad].read_bytes()[start : start + size])
    said = examine(member)
    assert (said["Device Role"], said["Raid Devices"]) == (f"Active device {1 - bad}", "2")
    assert said["Checksum"].endswith("correct")
    whole = deploy(driver, image, disks, job=raid)
    assert whole.status["status"] == "done"
    member.write_bytes(disks[1 - bad].read_bytes()[start : start + size])
    assert examine(member)["Array Size"] == said["Array Size"], "a disk like the lost one can be added"


def test_a_fault_before_the_first_write_refuses(driver, image, disks, tmp_path):
    make_dirty(disks)
    small = make_disk(tmp_path / "small", 12 * MiB)
    job = deployments.job(f"file://{image.path}", image.sha256)
    outcome = driver.deploy(disks[0], job, others=[str(small)], allow_failed=True)
    assert outcome.error_code == "image.size"
    assert is_untouched(disks[0])
