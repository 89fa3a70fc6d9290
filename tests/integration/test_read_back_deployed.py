"""Whole deployments that read everything back: onto disks that keep what they are given, and onto some that do not."""

import hashlib
import json

import pytest

from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.host.disk import TargetDisk
from agent.model.events import StageBegan, StageEnded
from agent.model.job import parse_job
from agent.model.policy import Policy
from agent.stages.machine import LocalMachine
from agent.units import MiB
from tests.kit.checks import assert_complete, assert_nothing_boots
from tests.kit.commands import ROOT, run
from tests.kit.disks import make_disk
from tests.kit.images import make_image
from tests.kit.ova import convert

STAGES = ["preflight", "claim", "write", "verify", "readback", "finish", "commit"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def disk(tmp_path):
    return make_disk(tmp_path / "disk.img")


def job_for(image, **more):
    drive = {"enable": True, "hostname": "h1"}
    return {"URL": f"file://{image.path}", "type": "raw", "configdrive": drive, "verify": "readback", **more}


class Meddled(TargetDisk):
    """A disk to which something happens from outside, once it has been written and before it is read back."""

    meddle = staticmethod(lambda: None)

    def drop_cache(self):
        super().drop_cache()
        meddle, self.meddle = self.meddle, lambda: None
        meddle()


class Machine(LocalMachine):
    """This machine, with such a disk at one of its paths."""

    def __init__(self, path, meddle):
        self.path, self.meddle = str(path), meddle

    def open_disk(self, path):
        disk = Meddled(path)
        if path == self.path:
            disk.meddle = self.meddle
        return disk


async def deploy(job, disks, machine=None, **options):
    deployment = Deployment(parse_job(job), Options(disks=tuple(map(str, disks)), **options), machine=machine)
    return (await deployment.run()).document()


def change(path, offset, data=b"\0not what was written\0"):
    """From outside, past the agent."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def test_a_disk_that_keeps_what_it_is_given_is_committed_and_the_status_says_what_was_read(
    image, disk, tmp_path
):
    document = await deploy(job_for(image), [disk])
    assert (document["status"], document["readBack"]) == ("done", "readback"), document
    assert [stage["name"] for stage in document["stages"]] == STAGES
    assert_complete(disk, image, tmp_path)


async def test_without_it_the_ends_and_the_drive_are_read_back(image, disk):
    document = await deploy(job_for(image, verify=None), [disk])
    assert document["readBack"] == "commit"
    assert "readback" not in [stage["name"] for stage in document["stages"]]


async def test_the_operator_can_have_it_for_every_job(image, disk):
    document = await deploy(job_for(image, verify="commit"), [disk], policy=Policy(verify="readback"))
    assert document["readBack"] == "readback"


@pytest.mark.parametrize("offset", [MiB, 3 * MiB + 4099])
async def test_a_disk_that_is_changed_between_writing_and_reading_is_found_and_does_not_boot(
    image, disk, offset
):
    document = await deploy(job_for(image), [disk], Machine(disk, lambda: change(disk, offset)))
    error = document["error"]
    assert (error["code"], error["blame"], error["diskState"]) == ("disk.readback", "disk", "empty")
    start = offset // MiB * MiB
    assert f"{disk} does not give back" in error["message"]
    assert f"bytes {start} to {start + MiB}" in error["message"]
    assert document["stages"][-1]["name"] == "readback"
    assert document["readBack"] is None
    assert_nothing_boots(disk)


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "cluster_size=64k"),
        ("-c", "-o", "compression_type=zstd"),
        ("-o", "cluster_size=512"),
        ("-W", "-m", "16"),
    ],
)
async def test_what_changes_is_found_in_whatever_order_it_was_written(image, disk, tmp_path, options):
    path = convert(image.path, tmp_path / "image.qcow2", "-O", "qcow2", *options)
    job = job_for(image, URL=f"file://{path}", type="qcow2")
    good = await deploy(job, [disk])
    assert (good["status"], good["readBack"]) == ("done", "readback"), good
    bad = await deploy(job, [disk], Machine(disk, lambda: change(disk, 2 * MiB + 5, b"\1")))
    assert bad["error"]["code"] == "disk.readback"
    assert_nothing_boots(disk)


async def test_the_percentage_goes_on_while_it_is_read_and_never_back(image, disk):
    seen = []
    deployment = None

    def listen(event):
        if isinstance(event, StageBegan | StageEnded):
            seen.append(deployment.snapshot().percent)

    deployment = Deployment(parse_job(job_for(image)), Options(disks=(str(disk),)), listen)
    assert (await deployment.run()).status == "done"
    assert seen == sorted(seen)


# -- a disk that lies ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """The disk of the storms that takes writes and loses or changes them: in front of libc, under a real process."""
    path = tmp_path_factory.mktemp("shim") / "shim.so"
    source = ROOT / "tests/storm/shim.c"
    run("cc", "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl")
    return path


@pytest.mark.parametrize("fault", ["drop 3", "flip 3", "drop 6"])  # the last of them is one of finish
def test_a_write_that_is_lost_or_changed_on_its_way_is_found(byoi, shim, image, disk, tmp_path, fault):
    job = tmp_path / "job.json"
    job.write_text(json.dumps({k: v for k, v in job_for(image).items() if k != "verify"}))
    shimmed = {
        "LD_PRELOAD": str(shim),
        "STORM_DISK": str(disk),
        "STORM_FAULT": f"write {fault} 0",
        "STORM_HIT": str(tmp_path / "hit"),
    }
    options = {"fresh": True, **shimmed}
    lied = byoi("write", job, "--disk", disk, "--json", "--quiet", "--yes", "--verify", "readback", **options)
    assert (tmp_path / "hit").exists()
    assert lied.status == 1, lied.out
    assert lied.error["code"] == "disk.readback"
    assert_nothing_boots(disk)
    unseen = byoi("write", job, "--disk", disk, "--json", "--quiet", "--yes", **options)
    assert unseen.status == 0, "what lies between the ends is not read back unless it is asked for"


def test_of_several_disks_the_one_that_lies_is_named_and_none_boots(byoi, shim, image, disk, tmp_path):
    other = make_disk(tmp_path / "other.img", 96 * MiB)
    words = (
        "write",
        "--url",
        image.path,
        "--verify",
        "readback",
        "--disk",
        disk,
        "--disk",
        other,
        "--json",
        "--quiet",
    )
    good = byoi(*words)
    assert (good.status, good.document["readBack"]) == (0, "readback"), good.err
    shimmed = {"LD_PRELOAD": str(shim), "STORM_DISK": str(other), "STORM_FAULT": "write flip 3 0"}
    bad = byoi(*words, fresh=True, **shimmed)
    assert bad.error["code"] == "disk.readback", bad.out
    assert str(other) in bad.error["message"]
    for path in (disk, other):
        assert_nothing_boots(path)


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_option_goes_with_a_document_and_with_options_and_shows_in_the_plan(byoi, image, disk, tmp_path):
    digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
    made = byoi(
        "write",
        "--url",
        image.path,
        "--checksum",
        f"sha256:{digest}",
        "--verify",
        "readback",
        "--disk",
        disk,
        "--json",
    )
    assert (made.status, made.document["readBack"]) == (0, "readback"), made.err
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"URL": f"file://{image.path}", "type": "raw"}))
    plan = byoi("write", job, "--disk", disk, "--verify", "readback", "--dry-run")
    assert "readback   read back from the disk everything that was written" in plan.out
    assert "readback" not in byoi("write", job, "--disk", disk, "--dry-run").out
    wrong = byoi("write", job, "--disk", disk, "--verify", "readbcak")
    assert wrong.status == 2
    assert "did you mean readback?" in wrong.err
