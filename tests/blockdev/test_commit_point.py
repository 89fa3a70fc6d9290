"""The commit point on block devices, with sectors of 512 and of 4096 bytes: what other tools see after a kill."""

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.model.seal import SealedDisk
from agent.stages.commit import is_committed
from agent.units import MiB
from tests.kit import deployments
from tests.kit.checks import assert_complete, assert_nothing_boots, what_is_on
from tests.kit.commands import attempt, run
from tests.kit.deployments import Driver, Outcome, driving
from tests.kit.disks import DIRT, make_disk
from tests.kit.images import NOISE, Image, install_system
from tests.kit.server import serving

STAGES = ("preflight", "claim", "write", "verify", "finish", "commit")
BOUNDARIES = tuple(f"{stage} {edge}" for stage in STAGES for edge in ("begins", "ends"))
DISK_SIZE = 24 * MiB
IMAGE_SIZE = 12 * MiB


@dataclass(frozen=True)
class Lab:
    """A device with another system on it, and an image for it."""

    driver: Driver
    disk: Path
    sector_size: int
    old: bytes = field(repr=False)
    image: Image = field(repr=False)
    url: str

    def deploy(self, **order: object) -> Outcome:
        return self.driver.deploy(self.disk, deployments.job(self.url, self.image.sha256), **order)

    def put_the_old_system_back(self) -> None:
        with self.disk.open("r+b") as device:
            device.write(self.old)


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Driver]:
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture(params=[512, 4096])
def lab(request, tmp_path: Path, loop_device, driver: Driver) -> Iterator[Lab]:
    sector_size = request.param

    def system(name: str, size: int, fill: bytes) -> tuple[Path, Path]:
        file = tmp_path / f"{name}.raw"
        make_disk(file, size, fill)
        device = loop_device(file, sector_size)
        install_system(device, name)
        return device, file

    disk, old = system("old-root", DISK_SIZE, DIRT)
    _, file = system("new-root", IMAGE_SIZE, NOISE)
    image = Image(file, sector_size)
    with serving(lambda request: request.file(image.data)) as server:
        yield Lab(driver, disk, sector_size, old.read_bytes(), image, server.url)


def check(lab: Lab, tmp_path: Path, allowed: set[str], why: object) -> None:
    found = what_is_on(lab.disk, lab.old)
    assert found in allowed, why
    if found == "system":
        assert_complete(lab.disk, lab.image, tmp_path)
    elif found == "blank":
        assert_nothing_boots(lab.disk)
    elif found == "headless":
        # The kernel and the firmware look for a GPT only behind a protective MBR.
        seen = attempt("blkid", "--probe", "--output", "export", lab.disk)
        assert "PTTYPE" not in seen.stdout


def test_kill_at_every_stage_boundary(lab: Lab, tmp_path: Path):
    for number, boundary in enumerate(BOUNDARIES):
        lab.put_the_old_system_back()
        outcome = lab.deploy(stop={"by": "kill", "at": "event", "number": number})
        assert (outcome.signal, outcome.events[-1]) == (signal.SIGKILL, boundary)
        allowed = {"system"} if boundary == "commit ends" else {"old"} if number < 3 else {"blank"}
        check(lab, tmp_path, allowed, boundary)
    assert lab.deploy().status["status"] == "done"
    check(lab, tmp_path, {"system"}, "second try")


def test_kill_after_every_write_and_flush_of_claim_finish_and_commit(lab: Lab, tmp_path: Path):
    whole = lab.deploy()
    assert whole.status["status"] == "done", whole.status["error"]
    assert whole.calls[-2] == ("write", 0, lab.sector_size), "the first sector is the last write"
    for number in range(len(whole.calls)):
        stage = whole.stage_of_call(number)
        if stage == "write":
            continue
        lab.put_the_old_system_back()
        outcome = lab.deploy(stop={"by": "kill", "at": "call", "number": number})
        assert outcome.signal == signal.SIGKILL
        if stage == "commit":
            allowed = {"system"} if number >= len(whole.calls) - 2 else {"headless"}
        else:
            allowed = {"blank", "headless"} if stage == "claim" else {"blank"}
        check(lab, tmp_path, allowed, (stage, whole.calls[number]))
    assert lab.deploy().status["status"] == "done"
    check(lab, tmp_path, {"system"}, "second try")


def test_signal_to_the_command(lab: Lab, tmp_path: Path, start_write):
    with serving(lambda request: request.file(lab.image.data, pause=0.1)) as server:
        command = start_write(lab.disk, server.url, lab.image.sha256)
        command.wait_for("write: begins")
        command.process.terminate()
        outcome = command.finish()
    assert (outcome.status, outcome.error["code"]) == (130, "job.cancelled"), outcome.err
    check(lab, tmp_path, {"blank"}, outcome.err)
    assert lab.deploy().status["status"] == "done"
    check(lab, tmp_path, {"system"}, "second try")


def test_cancel_and_input_output_errors_in_the_commit(lab: Lab, tmp_path: Path):
    whole = lab.deploy()
    commit = [number for number in range(len(whole.calls)) if whole.stage_of_call(number) == "commit"]
    for by, code in (("cancel", "job.cancelled"), ("eio", "disk.io")):
        for number in commit:
            lab.put_the_old_system_back()
            outcome = lab.deploy(stop={"by": by, "at": "call", "number": number})
            assert outcome.error_code == code
            check(lab, tmp_path, {"blank"}, (by, number))


def test_a_committed_device_is_known_by_what_is_on_it_whoever_holds_it(lab: Lab):
    """The device is held for writing, and its page cache tells of another state than the disk below."""
    lab.deploy()
    data = lab.disk.read_bytes()
    ends = hashlib.sha256(data[:MiB]).hexdigest(), hashlib.sha256(data[-MiB:]).hexdigest()
    seal = SealedDisk(str(lab.disk), len(data), MiB, ends[0], MiB, ends[1], lab.sector_size)
    fd = os.open(lab.disk, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    try:
        assert os.pread(fd, MiB, 0) == data[:MiB]
        assert is_committed(seal, lambda _: pytest.fail("a second look"))
        backing = run("losetup", "--noheadings", "--output", "BACK-FILE", lab.disk).strip()
        with Path(backing).open("r+b") as file:
            file.write(b"other")
            os.fsync(file.fileno())
        assert os.pread(fd, MiB, 0) == data[:MiB]
        assert not is_committed(seal, lambda _: pytest.fail("a second look"))
    finally:
        os.close(fd)
