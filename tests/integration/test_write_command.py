"""`byoi write` as people and scripts use it: what it prints, how it ends, and what it never shows."""

import json
import os
import re
import signal
import time

import pytest

from agent.units import GiB, MiB
from tests.kit.byoi import Running
from tests.kit.commands import run
from tests.kit.deployments import DRIVE, USER_DATA
from tests.kit.disks import make_disk
from tests.kit.images import SIZE_MIB

SIZE = 64 * MiB
SEED_MEMBERS = {"servername", "status", "message", "checksum"}
MEMBERS = SEED_MEMBERS | {
    *("stage", "percent", "bytesDownloaded", "bytesTotal", "bytesWritten", "rate", "eta", "waitingOn"),
    *("connections", "signature", "slowDisk", "disks", "readBack"),
    *(
        "attempt",
        "startedAt",
        "updatedAt",
        "finishedAt",
        "stages",
        "error",
        "disk",
        "imageType",
        "imagePacking",
        "registry",
        "signature",
        "job",
        "notes",
    ),
}
STAGES = ["preflight", "claim", "write", "verify", "finish", "commit"]


@pytest.fixture
def target(tmp_path):
    """A dirty file in the disk's place."""
    return make_disk(tmp_path / "disk.img", SIZE)


def state(path) -> tuple[int, int, bytes]:
    info = path.stat()
    return info.st_mtime_ns, info.st_size, path.read_bytes()


# -- done ----------------------------------------------------------------------------------------------------


def test_the_status_document_of_a_deployment(gpt_image, deploy, target):
    outcome = deploy(gpt_image, target)
    assert outcome.status == 0
    document = outcome.document
    assert set(document) == MEMBERS
    assert document["servername"] is None
    assert document["status"] == "done"
    assert document["checksum"] == f"sha256:{gpt_image.sha256}"
    assert document["error"] is None
    assert document["percent"] == 100.0
    assert document["bytesDownloaded"] == document["bytesTotal"] == document["bytesWritten"] == gpt_image.size
    assert [stage["name"] for stage in document["stages"]] == STAGES
    assert all(stage["seconds"] >= 0 for stage in document["stages"])
    assert document["disk"]["path"] == str(target)
    times = [document[name] for name in ("startedAt", "finishedAt", "updatedAt")]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)


def test_progress_goes_to_stderr_a_line_a_stage(gpt_image, byoi, make_job, target):
    outcome = byoi("write", make_job(gpt_image), "--disk", target, fresh=True)
    assert (outcome.status, outcome.out) == (0, "")
    lines = outcome.err.splitlines()
    assert [line.split()[1] for line in lines if line.endswith("begins")] == [f"{s}:" for s in STAGES]
    assert re.search(rf"done: 48\.0 MiB deployed to {target} in .* \(sha256:[0-9a-f]{{64}}\)$", lines[-1])


def test_without_a_checksum_only_the_length_is_told_as_verified(gpt_image, byoi, make_job, target):
    job = make_job(gpt_image, checkSum=None, checkSumType=None)
    outcome = byoi("write", job, "--disk", target, "--json")
    assert outcome.status == 0
    assert "only the length was verified" in outcome.err.splitlines()[-1]
    assert outcome.document["message"] == (
        "The image is deployed. Only its length was verified: the job names no checksum."
    )


def test_quiet_is_silent(gpt_image, byoi, make_job, target):
    assert byoi("write", make_job(gpt_image), "--disk", target, "--quiet") == (0, "", "")


def test_a_group_means_the_disk_that_the_configuration_names(gpt_image, byoi, make_job, target, tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(f'[[disk_group]]\nid = 7\ndisks = ["{target}"]\n')
    for options, members in ((("--disk-group", "7"), {}), ((), {"diskGroupId": 7})):
        make_disk(target, SIZE)
        job = make_job(gpt_image, **members)
        outcome = byoi("write", job, *options, "--config", config, "--json")
        assert outcome.status == 0, outcome.err
        assert outcome.document["disk"]["path"] == str(target)
    unknown = byoi("write", make_job(gpt_image), "--disk-group", "1", "--config", config, "--json")
    assert (unknown.status, unknown.error["code"]) == (2, "disk.group")
    assert "known groups: 7" in unknown.err


@pytest.fixture
def two_disks(tmp_path):
    """A configuration with a group of each of two files, of 1 and 2 GiB; and a hint that no real disk can fit."""
    config = tmp_path / "agent.toml"
    text = ""
    for number in (1, 2):
        path = tmp_path / f"disk{number}.img"
        path.touch()
        os.truncate(path, number * GiB)
        text += f'[[disk_group]]\nid = {number}\ndisks = ["{path}"]\n'
    config.write_text(text)
    return config, f"<in> {tmp_path}/disk"


def test_hints_mean_the_disk_that_they_fit(gpt_image, byoi, make_job, two_disks, tmp_path):
    config, here = two_disks
    members = {"disk": {"name": here, "size": 2}}
    hints = ("--disk-hint", f"name={here}", "--disk-hint", "size=2")
    for options, document in (
        (hints, {"diskGroupId": 1}),
        (hints, {"disk": {"serial": "of another disk"}}),
        ((), members),
    ):
        (tmp_path / "disk2.img").write_bytes(b"")
        os.truncate(tmp_path / "disk2.img", 2 * GiB)
        outcome = byoi("write", make_job(gpt_image, **document), *options, "--config", config, "--json")
        assert outcome.status == 0, outcome.err
        assert outcome.document["disk"]["path"] == str(tmp_path / "disk2.img")
        assert {key: str(value) for key, value in outcome.document["job"]["disk"].items()} == {
            "name": here,
            "size": "2",
        }
        assert "diskGroupId" not in outcome.document["job"]
    assert (tmp_path / "disk1.img").stat().st_blocks == 0
    group = byoi("write", make_job(gpt_image, **members), "--disk-group", "1", "--config", config, "--json")
    assert group.document["disk"]["path"] == str(tmp_path / "disk1.img")


def test_hints_that_fit_two_disks_are_refused_unless_any_is_taken(
    gpt_image, byoi, make_job, two_disks, tmp_path
):
    config, here = two_disks
    job = make_job(gpt_image)
    refused = byoi("write", job, "--disk-hint", f"name={here}", "--config", config, "--json")
    assert (refused.status, refused.error["code"], refused.error["blame"]) == (2, "disk.selector", "request")
    assert refused.error["detail"].startswith(f"{tmp_path}/disk1.img: fits; {tmp_path}/disk2.img: fits")
    assert "`any`" in refused.error["hint"]
    none = byoi("write", job, "--disk-hint", f"name={here}3", "--config", config, "--json")
    assert (none.status, none.error["code"]) == (2, "disk.selector")
    assert f"{tmp_path}/disk1.img: name is {tmp_path}/disk1.img" in none.error["detail"]
    options = ("--disk-hint", f"name={here}", "--disk-hint", "any=true", "--config", config)
    planned = byoi("write", job, *options, "--dry-run")
    assert planned.status == 0, planned.err
    assert f"chosen by the disk selector: name {here}, any" in planned.out.splitlines()
    assert all(path.stat().st_blocks == 0 for path in tmp_path.glob("disk?.img"))
    assert byoi("write", job, *options, "--json").document["disk"]["path"] == str(tmp_path / "disk1.img")


def test_a_disk_on_the_command_line_goes_before_the_jobs_selector(gpt_image, byoi, make_job, target):
    job = make_job(gpt_image, disk={"serial": "of a server"})
    outcome = byoi("write", job, "--disk", target, "--dry-run")
    assert outcome.status == 0, outcome.err
    assert "selector" not in outcome.out


@pytest.mark.parametrize("text", ["[[disk_group]]\nid = 1\n", "[disk_groups]\n", "no TOML", None])
def test_a_group_is_not_guessed_where_the_configuration_cannot_be_used(
    gpt_image, byoi, make_job, tmp_path, text
):
    config = tmp_path / "agent.toml"
    if text is not None:
        config.write_text(text)
    outcome = byoi("write", make_job(gpt_image), "--disk-group", "1", "--config", config, "--json")
    assert (outcome.status, outcome.error["code"]) == (1, "config.invalid")
    assert str(config) in outcome.err


def test_a_new_file_of_the_given_size(gpt_image, deploy, tmp_path):
    path = tmp_path / "new.img"
    assert deploy(gpt_image, path, "--size", "1G").status == 0
    assert path.stat().st_size == 1024 * MiB
    assert path.stat().st_blocks * 512 < 60 * MiB
    assert "No problems found" in run("sgdisk", "-v", path)


def test_options_make_the_same_job_as_a_document(gpt_image, byoi, web, target, tmp_path):
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq3 a@example\n")
    (tmp_path / "more.pub").write_text("ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB b@example\n")
    (tmp_path / "user-data").write_bytes(USER_DATA.encode())
    (tmp_path / "network").write_text('{"links": [], "networks": [], "services": []}')
    (tmp_path / "vendor").write_text('"#cloud-config\\n"')
    (tmp_path / "headers").write_text("X-First: one\n\nX-Second: two: three\n")
    files = {name: f"{tmp_path}/{name}" for name in ("key.pub", "more.pub", "user-data", "network", "vendor")}
    outcome = byoi(
        *("write", "--url", web.publish(gpt_image.path), "--type", "raw", "--disk", target, "--json"),
        *("--checksum", f"sha256:{gpt_image.sha256.upper()}", "--hostname", "web1", "--meta", "a=b=c"),
        *("--ssh-key", files["key.pub"], "--ssh-key", files["more.pub"], "--user-data", files["user-data"]),
        *("--network-data", files["network"], "--vendor-data", files["vendor"]),
        *("--efi-bootloader", r"\EFI\BOOT\BOOTX64.EFI"),
        *("--header", f"@{tmp_path}/headers", "--header", "Authorization: Bearer x"),
    )
    assert outcome.status == 0, outcome.err
    job = outcome.document["job"]
    assert job["checkSum"] == gpt_image.sha256
    assert [header["key"] for header in job["httpHeader"]] == ["X-First", "X-Second", "Authorization"]
    given = {"enable", "hostname", "sshKey", "userData", "userMetadatas", "networkData", "vendorData"}
    assert set(job["configdrive"]) == given
    sent = dict(web.requests[0].headers)
    assert (sent["X-First"], sent["X-Second"], sent["Authorization"]) == ("one", "two: three", "Bearer x")


def test_a_job_comes_from_stdin_too_and_an_image_from_a_path(gpt_image, byoi, target):
    job = {"URL": gpt_image.path.as_uri(), "type": "raw"}
    assert byoi("write", "-", "--disk", target, "--json", stdin=json.dumps(job).encode()).status == 0
    assert byoi("write", "--url", gpt_image.path, "--type", "raw", "--disk", target).status == 0


def test_job_files_are_bounded_before_they_are_parsed(gpt_image, byoi, make_job, target, tmp_path):
    (tmp_path / "bomb").write_bytes(b'{"a":[' + b"[]," * 1_000_000 + b"[]]}")
    outcome = byoi("write", tmp_path / "bomb", "--disk", target)
    assert (outcome.status, "holds more than 50000 values" in outcome.err) == (2, True)
    image = ("--url", gpt_image.path, "--type", "raw")
    outcome = byoi("write", *image, "--disk", target, "--network-data", tmp_path / "bomb")
    assert outcome.status == 2
    assert f"--network-data: {tmp_path}/bomb holds more than 50000 values" in outcome.err


def test_a_deployment_over_another_one_is_whole(gpt_image, image_maker, deploy, target):
    assert deploy(gpt_image, target).status == 0
    assert deploy(image_maker.mbr(), target, configdrive=None).status == 0
    dump = run("sfdisk", "--dump", target)
    assert "label: dos" in dump
    assert b"EFI PART" not in target.read_bytes()


# -- a dry run -----------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(gpt_image, byoi, make_job, target):
    before = state(target)
    outcome = byoi("write", make_job(gpt_image), "--disk", target, "--dry-run")
    assert outcome.status == 0
    assert state(target) == before
    assert "No check refuses it. Nothing was written." in outcome.out
    assert f"target: {target}: 64.0 MiB" in outcome.out
    assert [line.split()[0] for line in outcome.out.splitlines() if line.startswith("    ")] == [
        "preflight",
        "verify",
    ]
    assert "config drive" in outcome.out


def test_a_dry_run_as_json(gpt_image, deploy, target):
    before = state(target)
    outcome = deploy(gpt_image, target, "--dry-run")
    assert outcome.status == 0
    assert state(target) == before
    assert [step["stage"] for step in outcome.document["steps"]] == STAGES
    assert [step["stage"] for step in outcome.document["steps"] if step["destructive"]] == [
        "claim",
        "write",
        "finish",
        "commit",
    ]
    assert outcome.document["refusals"] == []
    drive = outcome.document["configDrive"]
    assert (drive["kind"], drive["partition"]) == ("new", 4)
    assert drive["start"] + drive["size"] <= SIZE - 33 * 512


def test_a_dry_run_takes_the_new_file_away_again(gpt_image, deploy, tmp_path):
    path = tmp_path / "new.img"
    assert deploy(gpt_image, path, "--size", "64M", "--dry-run").status == 0
    assert not path.exists()


def test_a_deployment_that_fails_takes_the_new_file_away_again(gpt_image, deploy, byoi, make_job, tmp_path):
    path = tmp_path / "new.img"
    refused = byoi("write", make_job(gpt_image), "--disk", path, "--size", "8M", "--json")
    assert (refused.status, refused.error["code"], path.exists()) == (1, "image.size", False)
    bad = make_job(gpt_image, checkSum="0" * 64)
    failed = byoi("write", bad, "--disk", path, "--size", "64M", "--json")
    assert (failed.status, failed.error["code"], path.exists()) == (1, "checksum.mismatch", False)


def test_a_file_that_was_there_before_stays_whatever_happens(gpt_image, byoi, make_job, tmp_path):
    path = tmp_path / "old.img"
    path.write_bytes(bytes(64 * MiB))
    bad = make_job(gpt_image, checkSum="0" * 64)
    assert byoi("write", bad, "--disk", path, "--size", "64M").status == 1
    assert path.stat().st_size == 64 * MiB


def test_a_dry_run_tells_all_refusals_and_fails_like_the_deployment(image_maker, byoi, make_job, tmp_path):
    path = tmp_path / "small.img"
    path.write_bytes(b"\xa5" * 16 * MiB)
    before = state(path)
    image = image_maker.gpt(image_maker.gpt().pieces[:1], boot_code=False)
    outcome = byoi("write", make_job(image), "--disk", path, "--dry-run", "--firmware", "uefi")
    assert outcome.status == 1
    assert re.findall(r"refused \[(.*?)\]", outcome.out)[:1] == ["image.size"]
    assert "refused [boot.esp]" in outcome.out
    assert state(path) == before


def test_what_is_in_the_way_of_a_drive_is_noted(gpt_image, deploy, target):
    outcome = deploy(
        gpt_image, target, "--dry-run", checkSum=None, checkSumType=None, configdrive={"hostname": "a"}
    )
    assert outcome.status == 0
    assert any("configdrive.enable is not true" in note for note in outcome.document["notes"])
    assert any("no checksum" in note for note in outcome.document["notes"])


# -- cancelled -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_deployment_ends_with_130_and_boots_nothing(gpt_image, web, start_byoi, target, number):
    url = web.publish(gpt_image.path, pause_at=20 * MiB)
    running: Running = start_byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json")
    assert web.paused.wait(30)
    wait_for(lambda: not any(target.read_bytes()[:MiB]))
    running.process.send_signal(number)
    outcome = running.finish()
    assert outcome.status == 130
    assert outcome.error["code"] == "job.cancelled"
    assert outcome.document["status"] == "error"
    assert "error: The deployment was cancelled." in outcome.err
    data = target.read_bytes()
    assert not any(data[:MiB])
    assert not any(data[-MiB:])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_dry_run_ends_with_130_and_leaves_no_file(gpt_image, web, start_byoi, tmp_path, number):
    path = tmp_path / "new.img"
    url = web.publish(gpt_image.path, pause_at=0)
    running = start_byoi("write", "--url", url, "--type", "raw", "--disk", path, "--size", "64M", "--dry-run")
    assert web.paused.wait(30)
    running.process.send_signal(number)
    assert running.finish().status == 130
    assert not path.exists()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- what never shows ----------------------------------------------------------------------------------------

SECRETS = {
    "header": "header-5b1c2f",
    "user-data": "userdata-90aa17",
    "ssh": "AAAAC3NzaC1lZDI1NTE5AAAASecret",
    "meta": "meta-44d0e2",
    "network": "network-7c6a9b",
    "vendor": "vendor-03e1f8",
    "password": "password-1d2e3f",
    "query": "query-6a7b8c",
    "target": "redirect-8f7e6d",
}


def secret_job(web, url: str, **members) -> bytes:
    where = url.replace("127.0.0.1", f"user:{SECRETS['password']}@127.0.0.1") + f"?token={SECRETS['query']}"
    job = {
        "URL": where,
        "type": "raw",
        "httpHeader": [{"key": "X-Token", "value": SECRETS["header"]}],
        "configdrive": {
            "enable": True,
            "hostname": "web1",
            "sshKey": f"ssh-ed25519 {SECRETS['ssh']} a@example",
            "userData": f"#!/bin/sh\necho {SECRETS['user-data']}\n",
            "userMetadatas": [{"key": "k", "value": SECRETS["meta"]}],
            "networkData": {"services": [{"type": "dns", "address": SECRETS["network"]}]},
            "vendorData": {"cloud-init": SECRETS["vendor"]},
        },
    }
    return json.dumps(job | members).encode()


def assert_secret(outcome) -> None:
    shown = [name for name, text in SECRETS.items() if text in outcome.out + outcome.err]
    assert shown == []


@pytest.mark.parametrize("options", [(), ("--verbose", "--json"), ("--dry-run",), ("--dry-run", "--json")])
def test_no_secret_shows_when_all_is_well(gpt_image, web, byoi, target, options):
    job = secret_job(web, web.publish(gpt_image.path))
    outcome = byoi("write", "-", "--disk", target, *options, stdin=job)
    assert outcome.status == 0
    assert_secret(outcome)
    # It was sent, all the same.
    path, headers = web.requests[0].target, dict(web.requests[0].headers)
    assert SECRETS["query"] in path
    assert headers["X-Token"] == SECRETS["header"]
    assert headers["Authorization"].startswith("Basic ")


FAILURES = {
    "checksum": (1, {"checkSum": "0" * 64, "checkSumType": "sha256"}),
    "too small": (1, {"efiBootloaderPath": "\\EFI\\absent.efi"}),
    "html": (1, {}),
    "not found": (1, {}),
    "redirect": (1, {}),
    "bad type": (2, {"type": "qed"}),
    "unknown key": (2, {"configDrive": {"userData": SECRETS["user-data"]}}),
    "bad header": (2, {"httpHeader": [{"key": "X-Token", "value": SECRETS["header"] + "\n"}]}),
    "bad key": (2, {"configdrive": {"sshKey": "PRIVATE " + SECRETS["ssh"], "userData": 5}}),
    "bad list": (2, {"httpHeader": {"X-Token": SECRETS["header"]}}),
    "bad metadata": (2, {"configdrive": {"userMetadatas": {"k": SECRETS["meta"]}}}),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_no_secret_shows_when_it_fails(gpt_image, web, byoi, target, failure):
    status, members = FAILURES[failure]
    url = web.publish(gpt_image.path)
    if failure == "html":
        url = web.publish(b"<html>" + SECRETS["query"].encode(), content_type="text/html")
    elif failure == "not found":
        url = url.replace("image.raw", "absent.raw")
    elif failure == "redirect":
        url = web.publish(b"", status=302, location=f"/absent?sig={SECRETS['target']}")
    job = secret_job(web, url, **members)
    outcome = byoi("write", "-", "--disk", target, "--verbose", "--json", stdin=job)
    assert outcome.status == status
    assert_secret(outcome)
    assert outcome.error["message"]


@pytest.mark.parametrize("broken", ["cut", "twice", "control"])
def test_no_secret_shows_when_the_document_is_broken(web, byoi, target, broken):
    job = secret_job(web, web.publish(b""))
    text = {
        "cut": job[:-30],
        "twice": job[:-1]
        + b', "httpHeader": [{"key": "X", "value": "'
        + SECRETS["header"].encode()
        + b'"}]}',
        "control": job.replace(b"header-5b1c2f", b"header-5b1c2f\n"),
    }[broken]
    outcome = byoi("write", "-", "--disk", target, "--json", stdin=text)
    assert outcome.status == 2
    assert_secret(outcome)


def test_an_image_of_its_size_only_needs_no_drive(gpt_image, byoi, web, tmp_path):
    """The config drive is asked for, or there is none: nothing but the image and its table is written."""
    path = tmp_path / "new.img"
    url = web.publish(gpt_image.path)
    outcome = byoi("write", "--url", url, "--type", "raw", "--disk", path, "--size", f"{SIZE_MIB}M")
    assert outcome.status == 0
    assert path.read_bytes() == gpt_image.path.read_bytes()
    assert DRIVE["hostname"].encode() not in path.read_bytes()


def test_a_plan_holds_nothing_that_a_terminal_obeys(gpt_image, byoi, make_job, tmp_path):
    outcome = byoi(
        "write", make_job(gpt_image), "--disk", tmp_path / "\x1b]0;x\x07", "--size", "8M", "--dry-run"
    )
    assert outcome.status == 1
    assert "/?]0;x?" in outcome.out
    assert "\x1b" not in outcome.out
