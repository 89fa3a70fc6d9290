"""Pulling from a control plane, over TLS, as a server does that nobody can reach."""

import base64
import json
import re
import signal
import ssl
import time

import pytest
import trustme

from agent.model.disk_state import DiskState
from agent.service.control.poller import MAX_REFUSALS
from agent.units import MiB
from tests.kit.agent_process import NAME
from tests.kit.checks import assert_complete, assert_nothing_boots
from tests.kit.control_plane import CANCEL, DELETED, MAX_GIVEN, control_plane
from tests.kit.deployments import job

# The daemon as its command runs it, but with back-offs that a test can wait for.
IMPATIENT = """
import sys
from agent.service import daemon
from agent.service.control import poller
from agent.service.config.model import load_config
poller.BACKOFF = poller.BackoffLimits(backoff_base=0.05, backoff_cap=0.2)
sys.exit(daemon.run(load_config(sys.argv[2], cmdline="", credentials=None)))
"""
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
    record = plane.give(NAME, job(web.url, image.sha256, disk={"name": str(disk)}))
    agent.start()
    done = plane.wait_for(record, "done", "error")
    assert done["status"] == "done", done
    assert done["job"]["disk"] == {"name": str(disk)}
    assert done["id"] == record.id
    receipt = json.loads(base64.b64decode(done["receipt"]["payload"]))
    assert receipt["subject"][0]["digest"] == {"sha256": image.sha256}
    assert [status for status in record.statuses[:-1] if "receipt" in status] == []
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
    agent.wait(lambda: agent.stored()["entry"]["seen"], "the outcome is delivered")
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
    record = plane.give(NAME, {"URL": "ftp://x", "type": "qed"})
    failed = plane.wait_for(record, "error")
    assert {fault["path"] for fault in failed["error"]["faults"]} == {"URL", "type"}
    assert failed["error"]["diskState"] == "untouched"
    assert disk.read_bytes() == before


def test_a_file_of_the_server_is_not_taken_from_the_control_plane(pulling_agent, plane, disk, tmp_path):
    before = disk.read_bytes()
    secret = tmp_path / "secret"
    secret.write_text("of root")
    pulling_agent().start()
    failed = plane.wait_for(plane.give(NAME, job(secret.as_uri(), None)), "error", "done")
    missing = plane.wait_for(plane.give(NAME, job("file:///nothing", None)), "error", "done")
    assert failed["message"] == missing["message"], "whether there is such a file must not show"
    assert [fault["path"] for fault in failed["error"]["faults"]] == ["URL"]
    assert "allow_file" in failed["message"]
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
    assert (failed["error"]["diskState"], failed["error"]["hint"]) == ("empty", DiskState.EMPTY.sentence)
    assert_nothing_boots(disk)
    assert agent.get().json["error"] == failed["error"]


def hang(request):
    request.server.stopping.wait(60)


def test_a_cancellation_before_the_first_write_is_told_as_that(pulling_agent, plane, web, image, disk):
    before = disk.read_bytes()
    pulling_agent().start()
    web.answer = hang
    record = plane.give(NAME, job(web.url, image.sha256))
    plane.wait_for(record, "preflight")
    record.action = CANCEL
    failed = plane.wait_for(record, "error", "done")
    assert (failed["error"]["diskState"], failed["error"]["hint"]) == (
        "untouched",
        DiskState.UNTOUCHED.sentence,
    )
    assert disk.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_later_attempt_knows_what_the_one_before_has_done_to_the_disk(
    pulling_agent, plane, slow_web, image, disk, number
):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    agent.end(number)
    slow_web.answer = hang
    agent.start()
    agent.wait(lambda: record.statuses[-1].get("attempt") == 2, "the second attempt is told")
    record.action = CANCEL
    failed = plane.wait_for(record, "error", "done")
    assert (failed["stage"], failed["error"]["diskState"]) in ((None, "empty"), ("preflight", "empty"))
    assert_nothing_boots(disk)


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
    slow_web.answer = lambda request: request.file(image.data)
    assert plane.wait_for(again, "done", "error")["status"] == "done"


def test_a_deployment_that_is_deleted_here_is_told_there_as_cancelled(pulling_agent, plane, slow_web, image):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    assert agent.delete().status == 200
    told = plane.wait_for(record, "error")["error"]
    assert (told["code"], told["diskState"]) == ("job.cancelled", "empty")


def test_a_control_plane_that_is_down_slows_nothing_and_is_told_the_outcome_when_it_is_back(
    pulling_agent, plane, web, image, disk, tmp_path
):
    agent = pulling_agent(reboot=True, grace_seconds=3600).start()

    def down_from_here(request):
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


def test_the_status_and_the_metrics_tell_of_a_control_plane_that_does_not_answer(pulling_agent, plane):
    plane.failing = 503
    agent = pulling_agent().start()

    def contact():
        return agent.status()["controlPlane"]

    agent.wait(lambda: contact()["state"] == "failing", "the control plane is told to fail")
    told = contact()
    assert told["url"] == plane.url
    assert (told["reason"], told["trouble"]) == ("it answered 503", "unavailable")
    assert told["since"] < told["nextTry"]
    metrics = agent.get("/metrics").body.decode()
    assert 'byoi_control_plane_state{state="failing"} 1.0' in metrics
    assert 'byoi_control_plane_trouble{trouble="unavailable"} 1.0' in metrics
    plane.failing = None
    agent.wait(lambda: contact()["state"] == "answering", "it is told to answer again")
    assert contact()["since"] >= told["since"]
    assert contact()["reason"] is None


def test_an_outcome_survives_the_agent_and_is_told_by_the_next_one(pulling_agent, plane, web, image):
    agent = pulling_agent().start()

    def down_from_here(request):
        plane.failing = 503
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, "0" * 64))
    agent.wait_for("error")
    agent.kill()
    plane.failing = None
    agent.start()
    assert plane.wait_for(record, "error")["error"]["code"] == "checksum.mismatch"


def test_a_server_does_not_reboot_untold_and_does_once_the_control_plane_is_back(
    pulling_agent, plane, web, image
):
    """Its journal would go with the rescue system: the control plane would never know, and give the job no more."""
    agent = pulling_agent(reboot=True, grace_seconds=0).start()

    def down_from_here(request):
        plane.failing = 503
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait_for("done")
    agent.wait(lambda: agent.status()["reboot"]["reason"] is not None, "it says what is wrong")
    assert agent.get().json["status"] == "done", "whoever else asks is not the control plane"
    time.sleep(2)
    reboot = agent.status()["reboot"]
    assert (reboot["state"], reboot["waitingFor"]) == ("waiting", "controlPlane")
    assert reboot["reason"] == "it answered 503"
    assert reboot["since"] < reboot["at"]
    assert agent.post(job(web.url, image.sha256)).status == 409
    assert not agent.rebooted.exists()
    plane.failing = None
    plane.wait_for(record, "done", seconds=90)
    agent.wait(agent.rebooted.exists, "it reboots")


def test_a_server_reboots_untold_after_a_bound_of_its_own(pulling_agent, plane, web, image):
    agent = pulling_agent(reboot=True, grace_seconds=3600, untold_seconds=2).start()

    def down_from_here(request):
        plane.failing = 500
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "it reboots", 60)
    agent.wait(lambda: "handover_untold" in agent.log, "it says why")
    assert record.last.get("status") != "done"


def test_an_agent_that_comes_back_waits_for_the_control_plane_that_was_not_told(
    pulling_agent, plane, web, image
):
    """Somebody has seen the outcome, the control plane has not."""
    agent = pulling_agent(reboot=True, grace_seconds=0).start()

    def down_from_here(request):
        plane.failing = 503
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait_for("done")
    agent.get()
    agent.wait(lambda: agent.stored()["entry"]["seen"], "that is noted")
    agent.kill()
    agent.start()
    time.sleep(2)
    assert agent.status()["reboot"]["waitingFor"] == "controlPlane"
    assert not agent.rebooted.exists()
    plane.failing = None
    plane.wait_for(record, "done", seconds=90)
    agent.wait(agent.rebooted.exists, "it reboots")


# -- outcomes that are refused ------------------------------------------------------------------------------------


def _counted(agent):
    """How many outcomes have been set aside."""
    found = re.search(
        r"^byoi_outcomes_refused_total (\S+)$", agent.get("/metrics").body.decode(), re.MULTILINE
    )
    assert found is not None
    return float(found[1])


def test_an_outcome_that_is_refused_for_good_does_not_block_the_next_job(pulling_agent, plane, web, image):
    agent = pulling_agent(command=("-c", IMPATIENT)).start()
    plane.refusing = 422
    first = plane.give(NAME, job(web.url, image.sha256))
    agent.wait(lambda: "422" in str(agent.status().get("notes")), "it is set aside, and the notes say so", 90)
    assert plane.refusals >= MAX_REFUSALS
    agent.wait(lambda: "outcome_refused" in agent.log, "the log says so too")
    assert _counted(agent) == 1
    plane.jobs[NAME].pop(first.id)
    plane.refusing = None
    second = plane.give(NAME, job(web.url, image.sha256))
    assert plane.wait_for(second, "done", "error", seconds=90)["status"] == "done"


def test_a_wrong_token_is_no_refusal_of_the_outcome(pulling_agent, plane, web, image):
    """Somebody rotates the token, and puts it right later."""
    agent = pulling_agent(command=("-c", IMPATIENT)).start()
    plane.refusing = 403
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait(lambda: plane.refusals > MAX_REFUSALS, "it goes on trying", 90)
    plane.refusing = None
    plane.wait_for(record, "done", seconds=90)
    agent.end()  # and with it the log
    assert "outcome_refused" not in agent.log


def test_a_reboot_that_waits_for_a_refused_outcome_goes_on_waiting(pulling_agent, plane, web, image):
    agent = pulling_agent(command=("-c", IMPATIENT), reboot=True, grace_seconds=0).start()
    plane.refusing = 400
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait(lambda: plane.refusals > MAX_REFUSALS, "it goes on trying", 90)
    reboot = agent.status()["reboot"]
    assert (reboot["state"], reboot["reason"]) == ("waiting", "it answered 400 to a status")
    assert not agent.rebooted.exists()
    plane.refusing = None
    plane.wait_for(record, "done", seconds=90)
    agent.wait(agent.rebooted.exists, "it reboots")


def test_a_job_whose_id_would_lead_elsewhere_is_not_taken_and_the_log_says_why(
    pulling_agent, plane, web, image, disk
):
    before = disk.read_bytes()
    agent = pulling_agent().start()
    plane.give(NAME, job(web.url, image.sha256), "..")
    agent.wait(lambda: "neither . nor .." in agent.log, "it says why")
    assert agent.status()["status"] is None
    plane.jobs[NAME].clear()
    record = plane.give(NAME, job(web.url, image.sha256))
    assert plane.wait_for(record, "done", seconds=90)["status"] == "done"
    assert disk.read_bytes() != before


# -- jobs that are lost ------------------------------------------------------------------------------------------


def _lose(agent):
    """The server loses power: the journal is gone with the memory that it lay in."""
    agent.kill()
    agent.journal.unlink()
    agent.start()


def test_a_job_that_the_server_lost_is_given_again_under_its_id_and_run(
    pulling_agent, plane, slow_web, image, disk, tmp_path
):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    slow_web.answer = lambda request: request.file(image.data)
    _lose(agent)
    assert plane.wait_for(record, "done", "error")["status"] == "done"
    assert record.given == 2
    assert_complete(disk, image, tmp_path)


def test_a_job_whose_server_rebooted_untold_is_given_again(pulling_agent, plane, web, image):
    """The control plane comes back before the server has asked what to boot, and serves the rescue system."""
    agent = pulling_agent(reboot=True, untold_seconds=0).start()

    def down_from_here(request):
        plane.failing = 503
        request.file(image.data)

    web.answer = down_from_here
    record = plane.give(NAME, job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "it reboots untold")
    web.answer = lambda request: request.file(image.data)
    plane.failing = None
    _lose(agent)
    assert plane.wait_for(record, "done", "error")["status"] == "done"
    assert record.given == 2


def test_a_lost_job_that_was_to_be_cancelled_is_not_given_again(pulling_agent, plane, slow_web, image):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    agent.kill()
    record.action = CANCEL
    agent.journal.unlink()
    agent.start()
    assert plane.wait_for(record, "error")["message"] == "cancelled"
    assert record.given == 1
    assert agent.status()["status"] is None


def test_a_job_that_is_lost_again_and_again_is_given_up():
    with control_plane() as plane:
        record = plane.give(NAME, {})
        for number in range(MAX_GIVEN):
            assert plane.next_job(NAME, 0) is record
            plane.take_status(NAME, record.id, {"status": "doing", "percent": number})
        assert plane.next_job(NAME, 0) is None
    assert record.last["message"] == f"lost by the server {MAX_GIVEN} times"


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

    def down_from_here(request):
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


def nested(depth):
    inner: dict = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (nested(900), "nested more than 64 levels deep"),
        ({"a": [[]] * 4_000_000}, "holds more than 50000 values"),
    ],
    ids=["nested without end", "millions of values"],
)
def test_a_job_beyond_the_bounds_is_refused_and_the_daemon_stays(
    pulling_agent, plane, web, image, data, words
):
    agent = pulling_agent(fresh=True).start()
    bad = job(web.url, image.sha256) | {"configdrive": {"enable": True, "networkData": data}}
    failed = plane.wait_for(plane.give(NAME, bad), "done", "error")
    assert failed["status"] == "error"
    assert words in failed["message"]
    assert agent.get("/healthz").status == 200
    assert agent.most_memory < 200 * MiB


def test_an_answer_to_a_status_beyond_the_bounds_is_none_and_the_deployment_goes_on(
    pulling_agent, plane, slow_web, image
):
    agent = pulling_agent().start()
    record = plane.give(NAME, job(slow_web.url, image.sha256))
    plane.wait_for(record, "write")
    record.action = nested(100)
    assert plane.wait_for(record, "done", "error")["status"] == "done"
    agent.wait_for("done")


def test_a_cancellation_after_done_calls_the_reboot_off(pulling_agent, plane, web, image, disk, tmp_path):
    agent = pulling_agent(reboot=True, grace_seconds=3600)

    def cancel_from_here(request):
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
        agent.wait(lambda: agent.status()["status"] != "doing", "it has stopped")
    agent.end()  # and with it the log
    assert [line["act"] for line in told()] == ["accepted", "cancelled", "accepted", "erased"]
    for line in told():
        assert line["way"] == "control plane"
        assert line["peer"] == plane.url.removeprefix("https://").partition("/")[0]
        assert line["credential"] == "control_plane.token"
