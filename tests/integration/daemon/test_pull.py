"""Pulling from a control plane, over TLS, as a server does that nobody can reach."""

import json
import ssl
import time

import pytest
import trustme

from tests.control_plane import CANCEL, DELETED, control_plane
from tests.integration.daemon.agent_process import NAME
from tests.integration.harness import assert_complete, assert_nothing_boots, job

TOKEN = "t0ken-of-the-control-plane"


@pytest.fixture
def plane(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with control_plane(tls=context, token=TOKEN) as server:
        yield server


@pytest.fixture
def pulling_agent(make_agent, plane, authority, tmp_path):
    """A function `make(**options)`: an agent that pulls from `plane`."""

    def make(token=TOKEN, **options):
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        (tmp_path / "token").write_text(token)
        (tmp_path / "token").chmod(0o600)
        config = (
            f'[control_plane]\nurl = "{plane.url}"\ntoken_file = "{tmp_path / "token"}"\n'
            f'ca_file = "{tmp_path / "ca.pem"}"\npoll_seconds = 1\npush_seconds = 0.5\n'
        )
        return make_agent(config=config, **options)

    return make


def test_a_job_is_pulled_and_its_outcome_told_before_the_reboot(
    pulling_agent, plane, web, image, disk, tmp_path
):
    agent = pulling_agent(reboot=True, grace_seconds=3600)
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.start()
    done = plane.wait_for(record, "done", "error")
    assert done["status"] == "done", done
    assert done["id"] == record.id
    assert_complete(disk, image, tmp_path)
    agent.wait(agent.rebooted.exists, "it reboots once the control plane has acknowledged")
    assert record.given == 1


def test_each_stage_is_told_and_progress_in_between(pulling_agent, plane, slow_web, image):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "done", "error")
    told = [status.get("stage") for status in record.statuses]
    assert told.count("write") >= 2
    percents = [status["percent"] for status in record.statuses]
    assert percents == sorted(percents)
    messages = {status["message"] for status in record.statuses}
    assert len(messages) >= 2
    agent.end()


def test_a_job_that_was_taken_is_not_run_twice_though_it_is_given_again(pulling_agent, plane, web, image):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(web.url, image.sha256), "job-1")
    plane.wait_for(record, "done")
    agent.wait(lambda: json.loads(agent.journal.read_text())["entry"]["seen"], "the outcome is delivered")
    fresh = plane.give(NAME, job(web.url, image.sha256), "job-2")
    assert plane.wait_for(fresh, "done", "error")["status"] == "done"
    agent.kill()
    agent.start()
    again = plane.give(NAME, job(web.url, image.sha256), "job-1")
    refused = plane.wait_for(again, "error", "done")
    assert refused["error"]["code"] == "job.taken"
    assert len(web.requests) == 2


def test_a_job_with_faults_is_told_to_the_control_plane_with_all_of_them(pulling_agent, plane, disk):
    before = disk.read_bytes()
    pulling_agent().start()
    record = plane.give(NAME, {"URL": "ftp://x", "type": "vhd"})
    failed = plane.wait_for(record, "error")
    assert {fault["path"] for fault in failed["error"]["faults"]} == {"URL", "type"}
    assert disk.read_bytes() == before


def test_the_answer_to_a_status_cancels_and_the_cancellation_is_told(
    pulling_agent, plane, slow_web, image, disk
):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    record.action = CANCEL
    failed = plane.wait_for(record, "error", "done")
    assert failed["error"]["code"] == "job.cancelled"
    assert_nothing_boots(disk)
    assert agent.get().json["status"] == "error"


def test_a_deployment_that_was_deleted_there_is_cancelled_and_erased_here(
    pulling_agent, plane, slow_web, web, image, disk
):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    record.action = DELETED
    agent.wait(lambda: agent.get().status == 404, "the state is erased")
    assert_nothing_boots(disk)
    again = plane.give(NAME, job(web.url, image.sha256))
    slow_web.answer = lambda request, _number: request.file(image.data)
    assert plane.wait_for(again, "done", "error")["status"] == "done"


def test_a_deployment_that_is_deleted_here_is_told_there_as_cancelled(pulling_agent, plane, slow_web, image):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    assert agent.delete().status == 200
    assert plane.wait_for(record, "error")["error"]["code"] == "job.cancelled"


def test_a_control_plane_that_is_down_slows_nothing_and_is_told_the_outcome_when_it_is_back(
    pulling_agent, plane, web, image, disk, tmp_path
):
    agent = pulling_agent(reboot=True, grace_seconds=3600).start()

    def down_from_here(request, _number):
        plane.failing = 503
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait_for("done")
    assert_complete(disk, image, tmp_path)
    assert record.last.get("status") != "done"
    assert not agent.rebooted.exists()
    plane.failing = None
    plane.wait_for(record, "done", seconds=90)
    agent.wait(agent.rebooted.exists, "it reboots")


def test_an_outcome_survives_the_agent_and_is_told_by_the_next_one(pulling_agent, plane, web, image):
    agent = pulling_agent().start()

    def down_from_here(request, _number):
        plane.failing = 503
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, "0" * 64))
    agent.wait_for("error")
    agent.kill()
    plane.failing = None
    agent.start()
    assert plane.wait_for(record, "error")["error"]["code"] == "checksum.mismatch"


def test_the_server_reboots_after_the_grace_time_though_the_control_plane_is_down(
    pulling_agent, plane, web, image
):
    agent = pulling_agent(reboot=True, grace_seconds=2).start()

    def down_from_here(request, _number):
        plane.failing = 500
        request.file(image.data)

    web.answer = down_from_here
    plane.give(NAME, job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "it reboots", 60)


def test_a_control_plane_that_is_not_trusted_is_told_nothing(
    pulling_agent, plane, authority, web, image, tmp_path
):
    agent = pulling_agent()
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.config = agent.config.replace("ca.pem", "other.pem")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    agent.start()
    agent.wait(lambda: "certificate is not trusted" in agent.log, "it says why")
    time.sleep(1)
    assert record.given == 0
    assert plane.refused == 0
    assert TOKEN not in agent.log


def test_a_wrong_token_is_said_and_not_shown(pulling_agent, plane):
    agent = pulling_agent(token="wr0ng-token-of-sixteen").start()
    agent.wait(lambda: "answered 401" in agent.log, "it says why")
    assert "wr0ng-token" not in agent.log


def test_a_job_that_left_the_slot_before_its_outcome_was_told_is_told_as_what_it_was(
    pulling_agent, plane, web, image, disk
):
    """Done while the control plane was down, then deleted on the server: the disk holds the system all the same."""
    agent = pulling_agent().start()

    def down_from_here(request, _number):
        plane.failing = 503
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait_for("done")
    assert agent.delete().status == 200
    agent.kill()
    plane.failing = None
    agent.start()
    assert plane.wait_for(record, "done", "error", seconds=90)["status"] == "done"


def test_a_job_of_the_slot_that_is_given_again_is_told_as_it_is(pulling_agent, plane, web, image):
    pulling_agent().start()
    record = plane.give(NAME, job(web.url, image.sha256), "job-1")
    plane.wait_for(record, "done")
    time.sleep(1)
    again = plane.give(NAME, job(web.url, image.sha256), "job-1")
    assert plane.wait_for(again, "done", "error")["status"] == "done"
    assert len(web.requests) == 1


@pytest.mark.parametrize("retry_after", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "-1", "x" * 1000])
def test_an_answer_that_makes_no_sense_does_not_end_the_daemon(
    pulling_agent, plane, slow_web, image, retry_after
):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    plane.retry_after, plane.failing = retry_after, 503
    time.sleep(2)
    plane.failing = None
    assert agent.get("/healthz").status == 200
    assert plane.wait_for(record, "done", "error", seconds=90)["status"] == "done"


def test_a_job_nested_without_end_is_refused_and_the_daemon_stays(pulling_agent, plane, web, image):
    agent = pulling_agent().start()
    nested: dict = {}
    for _ in range(900):
        nested = {"a": nested}
    bad = job(web.url, image.sha256) | {"configdrive": {"enable": True, "networkData": nested}}
    record = plane.give(NAME, bad)
    assert plane.wait_for(record, "done", "error")["status"] == "error"
    assert agent.get("/healthz").status == 200


def test_a_cancellation_after_done_calls_the_reboot_off(pulling_agent, plane, web, image, disk, tmp_path):
    agent = pulling_agent(reboot=True, grace_seconds=3600)

    def cancel_from_here(request, _number):
        plane.failing = 503
        request.file(image.data)

    web.answer = cancel_from_here
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.start()
    agent.wait_for("done")
    record.action = CANCEL
    plane.failing = None
    plane.wait_for(record, "done", seconds=90)
    agent.wait(lambda: agent.status()["reboot"]["state"] == "calledOff", "the reboot is called off")
    assert agent.status()["status"] == "done"
    assert_complete(disk, image, tmp_path)
    time.sleep(2)
    assert not agent.rebooted.exists()


def test_a_control_plane_is_named_for_what_it_gives_cancels_and_deletes(
    pulling_agent, plane, slow_web, image
):
    agent = pulling_agent().start()

    def told():
        return [line for line in agent.lines if line["event"] == "audit"]

    for action in (CANCEL, DELETED):
        record = plane.give(NAME, job(slow_web.url, image.sha256))
        agent.wait_for("write")
        record.action = action
        agent.wait(lambda: len(told()) % 2 == 0, "it is told")
        agent.wait(lambda: agent.status()["status"] != "doing", "it has stopped")
    assert [line["act"] for line in told()] == ["accepted", "cancelled", "accepted", "erased"]
    for line in told():
        assert line["way"] == "control plane"
        assert line["peer"] == plane.url.removeprefix("https://").partition("/")[0]
        assert line["credential"] == "control_plane.token"
