"""The state's directory fails while a job runs: nothing is told that the next agent would not know, and what is told
stays true.
"""

import json
from contextlib import contextmanager

import pytest

from agent.units import KiB
from tests.kit.checks import assert_complete
from tests.kit.commands import run
from tests.kit.deployments import job
from tests.kit.disks import fill_up


@pytest.fixture
def small(tmp_path):
    """A state directory on a filesystem of its own, which can run full."""
    where = tmp_path / "agent" / "state"
    where.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", where)
    yield where
    run("umount", "--lazy", where)


@contextmanager
def read_only(where):
    run("mount", "-o", "remount,ro", where)
    try:
        yield
    finally:
        run("mount", "-o", "remount,rw", where)


def in_stage(agent, web, image, stage="write", **members):
    assert agent.post(job(web.url, image.sha256, **members)).status == 200
    agent.wait_for(stage)


def test_an_outcome_is_kept_where_the_directory_runs_full_after_the_acceptance(
    make_agent, slow_web, image, disk, tmp_path, small
):
    agent = make_agent().start()
    in_stage(agent, slow_web, image)
    fill_up(small / "ballast")
    before = agent.wait_for("done", "error")
    assert before["status"] == "done"
    requests = len(slow_web.requests)
    agent.kill()
    agent.start()
    after = agent.status()
    assert (after["status"], after["checksum"], after["attempt"]) == ("done", before["checksum"], 1)
    assert len(slow_web.requests) == requests, "nothing is deployed again"
    assert_complete(disk, image, tmp_path)
    # Full as it is, the slot can be emptied, and there is room again for what was reserved.
    assert agent.delete().status == 200
    (small / "ballast").unlink()
    in_stage(agent, slow_web, image)


def test_the_reboot_comes_where_the_directory_runs_full_after_the_acceptance(
    make_agent, slow_web, image, small
):
    agent = make_agent(reboot=True).start()
    in_stage(agent, slow_web, image)
    fill_up(small / "ballast")
    agent.wait(agent.rebooted.exists, "the server is handed over", 60)


def test_a_failure_is_kept_too(make_agent, slow_web, image, small):
    agent = make_agent().start()
    agent.post(job(slow_web.url, "0" * 64))
    agent.wait_for("write")
    fill_up(small / "ballast")
    before = agent.wait_for("error")
    agent.kill()
    agent.start()
    assert agent.status()["error"] == before["error"]


def test_no_job_is_taken_without_room_for_its_outcome(make_agent, web, image, small):
    """The job itself would still find room."""
    agent = make_agent().start()
    fill_up(small / "ballast")
    with (small / "ballast").open("r+b") as ballast:
        ballast.truncate(ballast.seek(0, 2) - 48 * KiB)
    answer = agent.post(job(web.url, image.sha256))
    assert (answer.status, answer.json["errorCode"]) == (500, "agent.state")
    assert str(small) in answer.json["message"]
    assert answer.json["details"]["hint"] == f"Make room on the filesystem of {small}."
    assert agent.get().status == 404
    (small / "ballast").unlink()
    assert agent.post(job(web.url, image.sha256)).status == 200


def test_no_disk_is_claimed_that_the_journal_could_not_say_so_of(make_agent, slow_web, image, disk, small):
    before = disk.read_bytes()
    agent = make_agent().start()
    in_stage(agent, slow_web, image, "preflight")
    with read_only(small):
        agent.wait(
            lambda: "outcome cannot be stored" in agent.status()["message"], "the deployment is over", 60
        )
        assert disk.read_bytes() == before
    error = agent.wait_for("error")["error"]
    assert (error["code"], error["diskState"]) == ("agent.state", "untouched")


@pytest.mark.parametrize("outcome", ["done", "error"])
def test_an_outcome_is_not_told_before_it_is_kept_and_the_status_names_the_cure(
    make_agent, slow_web, image, small, outcome
):
    agent = make_agent(reboot=outcome == "done").start()
    agent.post(job(slow_web.url, image.sha256 if outcome == "done" else "0" * 64))
    agent.wait_for("write")
    with read_only(small):
        agent.wait(lambda: "outcome cannot be stored" in agent.status()["message"], "the trouble is told", 60)
        status = agent.status()
        assert (status["status"], status["error"], status["finishedAt"]) == ("doing", None, None)
        assert status["percent"] < 100
        assert f"byoi_deployment_percent {status['percent']}\n" in agent.get("/metrics").body.decode()
        for text in (status["message"], status["notes"][-1]):
            assert f"{small} cannot be used: Read-only file system" in text
            assert f"Mount the filesystem of {small} writable again. The agent tries again every 5 s." in text
        assert agent.post(job(slow_web.url, image.sha256)).status == 409
        assert not agent.rebooted.exists()
    told = agent.wait_for(outcome)
    assert not any("tries again" in note for note in told["notes"])
    if outcome == "done":
        agent.wait(agent.rebooted.exists, "the server is handed over")


def test_what_is_noted_after_the_outcome_does_not_keep_the_server_from_its_reboot(
    make_agent, slow_web, image, small
):
    """Who has seen the outcome cannot be stored any more; the outcome has been."""
    agent = make_agent(reboot=True, grace_seconds=3600).start()
    in_stage(agent, slow_web, image)
    agent.wait_for("done")
    with read_only(small):
        assert agent.get().json["status"] == "done"
        agent.wait(agent.rebooted.exists, "the server is handed over")


def test_a_deletion_before_the_outcome_is_kept_calls_the_reboot_off(make_agent, slow_web, image, small):
    agent = make_agent(reboot=True).start()
    in_stage(agent, slow_web, image)
    with read_only(small):
        agent.wait(lambda: "outcome cannot be stored" in agent.status()["message"], "the trouble is told", 60)
        answer = agent.delete()
        assert (answer.status, answer.json["errorCode"]) == (500, "agent.state")
        assert agent.status()["status"] == "doing"
    assert agent.wait_for("done")["reboot"]["state"] == "calledOff"
    assert agent.delete().status == 200
    assert agent.get().status == 404
    assert not agent.rebooted.exists()


def test_an_agent_that_dies_before_its_outcome_is_kept_has_told_nothing(
    make_agent, slow_web, image, disk, tmp_path, small
):
    agent = make_agent().start()
    in_stage(agent, slow_web, image)
    with read_only(small):
        agent.wait(lambda: "outcome cannot be stored" in agent.status()["message"], "the trouble is told", 60)
        agent.kill()
    agent.start()
    assert agent.wait_for("done")["attempt"] == 2
    assert_complete(disk, image, tmp_path)


@pytest.mark.parametrize("cure", ["brought back", "made again"])
def test_a_directory_that_went_away_is_named_and_taken_again(make_agent, slow_web, image, tmp_path, cure):
    agent = make_agent().start()
    in_stage(agent, slow_web, image)
    state = agent.journal.parent
    state.rename(aside := tmp_path / "aside")
    agent.wait(lambda: "outcome cannot be stored" in agent.status()["message"], "the trouble is told", 60)
    assert f"{state} is gone: make it again (mkdir -m 0700 {state})" in agent.get().json["message"]
    if cure == "made again":
        state.mkdir(0o700)
    else:
        aside.rename(state)
    before = agent.wait_for("done")
    assert (state / "lock").exists()
    agent.kill()
    agent.start()
    assert agent.status()["finishedAt"] == before["finishedAt"]


def test_a_directory_that_is_full_at_the_start_is_told_in_the_status(make_agent, web, image, small):
    fill_up(small / "ballast")
    agent = make_agent().start()
    (note,) = agent.status()["notes"]
    assert note == (
        f"The state in {small} cannot be used: No space left on device. Make room on the filesystem of {small}. "
        "The agent tries again every 5 s."
    )
    (small / "ballast").unlink()
    agent.wait(lambda: agent.status()["notes"] == [], "the note goes", 30)


SECRETS = ("of-the-header", "of-the-url", "of-the-user", "of-the-metadata", "of-the-network", "of-the-vendor")
SECRET_MEMBERS = {
    "httpHeader": [{"key": "Authorization", "value": "of-the-header"}],
    "configdrive": {
        "enable": True,
        "sshKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ5b2ktYWdlbnQtdGVzdC1rZXk of-the-user",
        "userData": "of-the-user",
        "userMetadatas": [{"key": "k", "value": "of-the-metadata"}],
        "networkData": {"links": [], "networks": [], "services": [], "comment": "of-the-network"},
        "vendorData": "of-the-vendor",
    },
}


def secrets_in(directory):
    """Which of the secrets are in any of its files."""
    held = b"".join(path.read_bytes() for path in directory.iterdir()).decode()
    return [secret for secret in SECRETS if secret in held]


@pytest.mark.parametrize("end", ["done", "error", "DELETE", "given up"])
def test_the_state_holds_no_secret_of_a_job_that_is_over(make_agent, slow_web, image, end):
    agent = make_agent().start()
    sha256 = "0" * 64 if end == "error" else image.sha256
    posted = job(f"{slow_web.url}?signature=of-the-url", sha256, **SECRET_MEMBERS)
    assert agent.post(posted).status == 200
    agent.wait_for("write")
    state = agent.journal.parent
    assert secrets_in(state) == list(SECRETS), "the next agent needs them"
    match end:
        case "DELETE":
            assert agent.delete().status == 200
        case "given up":
            agent.kill()
            book = agent.stored()
            book["entry"]["attempt"] = 5
            agent.journal.write_text(json.dumps(book))
            agent.start()
            assert agent.wait_for("error")["error"]["code"] == "job.interrupted"
        case _:
            agent.wait_for(end)
    assert secrets_in(state) == []
    before = agent.status()
    agent.kill()
    agent.start()
    assert agent.status()["status"] == before["status"], "what is left of it is still read"


def test_an_agent_blanks_what_one_before_it_has_kept(make_agent, web, image):
    agent = make_agent().start()
    posted = job(f"{web.url}?signature=of-the-url", image.sha256, **SECRET_MEMBERS)
    agent.post(posted)
    before = agent.wait_for("done")
    agent.kill()
    book = agent.stored()
    book["entry"]["job"] = posted
    agent.journal.write_text(json.dumps(book))
    agent.start()
    assert agent.status()["finishedAt"] == before["finishedAt"]
    assert secrets_in(agent.journal.parent) == []


def test_the_journal_of_a_job_that_is_over_is_no_larger_than_it_has_to_be(make_agent, web, image):
    agent = make_agent().start()
    agent.post(job(web.url, image.sha256, configdrive={"enable": True, "userData": "x" * 3_000_000}))
    agent.wait_for("done")
    for path in agent.journal.parent.iterdir():
        assert path.stat().st_size < 32 * KiB, path
    agent.stored()
