"""What comes at the worst instant: ends, polls and faults between the steps of a job."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from tests.kit.checks import assert_complete, assert_nothing_boots
from tests.kit.commands import ROOT
from tests.kit.deployments import job


def _many(count, act):
    threads = [threading.Thread(target=act) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_outcomes_survive_that_many_clients_see_them_at_once(make_agent, web, image):
    """Each poll that sees `done` is noted in the journal, while the job's own task writes there too."""
    agent = make_agent().start()
    over = threading.Event()

    def poll():
        while not over.is_set():
            agent.get()

    threads = _many(4, poll)
    try:
        for _ in range(15):
            assert agent.post(job(web.url, image.sha256)).status == 200
            document = agent.wait_for("done", "error")
            assert document["status"] == "done", document["error"]
            agent.wait(lambda: agent.stored()["entry"]["phase"] == "closed", "it is closed")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    entry = agent.stored()["entry"]
    assert (entry["phase"], entry["status"]["status"]) == ("closed", "done")


def test_a_deletion_that_waits_for_a_disk_is_kept_by_the_next_agent(make_agent, slow_web, image, frozen):
    disk, freeze, thaw = frozen
    agent = make_agent(disks=(disk,)).start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    freeze()
    time.sleep(1)
    answers = []

    def delete():
        with suppress(OSError):  # the agent dies before it answers
            answers.append(agent.delete())

    (thread,) = _many(1, delete)
    agent.wait(lambda: agent.stored()["entry"]["ending"] == "erase", "the promise is kept")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGKILL)
    thaw()
    agent.process.wait(20)
    agent.process = None
    thread.join()
    assert answers == []
    requests = len(slow_web.requests)
    agent.start()
    assert agent.get().status == 404
    time.sleep(1)
    assert len(slow_web.requests) == requests, "the job that was deleted does not begin again"
    assert_nothing_boots(disk)


def test_a_job_that_comes_while_the_daemon_stops_is_not_begun(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=0).start()
    large = job(web.url, image.sha256) | {
        "configdrive": {"enable": True, "userData": "x" * (7 * 1024 * 1024)}
    }
    body = json.dumps(large).encode()
    statuses = []

    def post():
        try:
            statuses.append(agent.post(body).status)
        except OSError:
            statuses.append(None)  # the connection was closed before it was read

    threads = _many(2, post)
    time.sleep(0.05)
    assert agent.end(signal.SIGTERM) == 0
    for thread in threads:
        thread.join()
    assert not agent.rebooted.exists()
    accepted = statuses.count(200)
    entry = agent.stored()["entry"] if agent.journal.exists() else None
    assert accepted == (0 if entry is None else 1), "what was accepted is in the journal, and nothing else"


def test_a_deletion_or_a_post_after_the_reboot_command_is_refused(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=0).start()
    agent.post(job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "the command has run")
    for answer in (agent.delete(), agent.post(job(web.url, image.sha256))):
        assert (answer.status, answer.json["errorCode"]) == (409, "REBOOT_ORDERED")
        assert "cancel" not in answer.json["details"]["hint"]
    assert agent.get().json["status"] == "done"


def test_a_deletion_while_a_slow_reboot_command_runs_is_refused(make_agent, web, image):
    """One that takes longer than anybody would wait for it: the reboot comes all the same."""
    agent = make_agent(reboot=True, grace_seconds=0)
    path = agent.write_config()
    slow = f"touch {agent.rebooted}; sleep 7; touch {agent.rebooted}.after"
    path.write_text(
        path.read_text().replace(f'["touch", "{agent.rebooted}"]', json.dumps(["sh", "-c", slow]))
    )
    agent.write_config = lambda: path  # type: ignore[method-assign]
    agent.start()
    agent.post(job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "the command runs")
    assert agent.delete().status == 409
    agent.wait(agent.rebooted.with_name("rebooted.after").exists, "nothing has cut the command")


def test_the_reboot_command_is_run_once_in_a_boot(make_agent, web, image):
    """The agent is killed while the server goes down, and started again before it is down."""
    agent = make_agent(reboot=True, grace_seconds=0).start()
    agent.post(job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "the command has run")
    agent.kill()
    agent.rebooted.unlink()
    agent.start()
    assert agent.status()["reboot"]["state"] == "due"
    assert agent.get().json["status"] == "done"
    time.sleep(2)
    assert not agent.rebooted.exists()
    assert (agent.delete().status, agent.post(job(web.url, image.sha256)).status) == (409, 409)


@pytest.mark.parametrize("after", ["see", "nothing"])
def test_a_hand_over_that_was_seen_goes_on_at_once_after_a_restart(make_agent, web, image, after):
    agent = make_agent(reboot=True, grace_seconds=3600).start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    agent.kill()
    book = agent.stored()
    book["entry"]["seen"] = after == "see"
    agent.journal.write_text(json.dumps(book))
    agent.start()
    if after == "see":
        agent.wait(agent.rebooted.exists, "it reboots")
    else:
        time.sleep(2)
        assert not agent.rebooted.exists()


def test_the_percentage_does_not_go_back_when_another_agent_begins_again(make_agent, slow_web, image):
    agent = make_agent().start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    agent.wait(lambda: agent.stored()["entry"]["percent"] > 20, "some of it is kept")
    before = agent.stored()["entry"]["percent"]
    agent.kill()
    agent.start()
    assert agent.status()["percent"] >= before
    assert agent.wait_for("write")["percent"] >= before


def test_revisions_grow_though_the_clock_was_put_back(make_agent, web, image):
    agent = make_agent().start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    agent.kill()
    book = agent.stored()
    ahead = book["revision"] + 3_600_000
    agent.journal.write_text(json.dumps(book | {"revision": ahead}))
    agent.start()
    assert agent.status()["revision"] > ahead


def test_a_daemon_whose_log_is_gone_goes_on(make_agent, web, image, disk, tmp_path):
    """Whoever read its stderr has died: a log line that cannot be written changes no outcome."""
    agent = make_agent()
    path = agent.write_config()
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "agent.service.daemon", "--config", str(path)], stderr=write, cwd=ROOT
    ) as process:
        os.close(write)
        try:
            agent.wait(agent.socket.exists, "the socket is there")
            os.close(read)
            assert agent.post(job(web.url, image.sha256)).status == 200
            assert agent.wait_for("done", "error")["status"] == "done"
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert_complete(disk, image, tmp_path)


def _sealed(agent, **members):
    """The journal as an agent leaves it that dies in the commit."""
    book = agent.stored()
    book["entry"] |= {"phase": "sealed", "status": None, **members}
    agent.journal.write_text(json.dumps(book))


@pytest.mark.parametrize("complete", [True, False])
def test_a_cancellation_of_a_commit_that_was_complete_tells_the_outcome(
    make_agent, web, image, disk, complete
):
    """The agent had promised to cancel, and died in the commit: what is on the disk decides."""
    agent = make_agent(reboot=True, grace_seconds=3600).start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    agent.kill()
    _sealed(agent, ending="cancel")
    if not complete:
        with disk.open("r+b") as file:
            file.write(bytes(512))
    agent.start()
    document = agent.wait_for("done", "error")
    if complete:
        agent.wait(lambda: agent.status()["reboot"]["state"] == "calledOff", "the reboot is called off")
        assert document["status"] == "done"
    else:
        assert document["error"]["code"] == "job.cancelled"
    assert len(web.requests) == 1
    assert not agent.rebooted.exists()


def test_a_promised_deletion_of_a_sealed_job_is_kept(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=0).start()
    agent.post(job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "it reboots")
    agent.kill()
    agent.rebooted.unlink()
    _sealed(agent, ending="erase")
    agent.start()
    agent.wait(lambda: agent.get().status == 404, "it is erased")
    time.sleep(1.5)
    assert not agent.rebooted.exists()
    assert len(web.requests) == 1


def test_a_reboot_that_was_called_off_stays_called_off(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=3600).start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    agent.kill()
    book = agent.stored()
    book["entry"] |= {"ending": "cancel", "seen": True}
    agent.journal.write_text(json.dumps(book))
    agent.start()
    assert agent.status()["reboot"]["state"] == "calledOff"
    time.sleep(2)
    assert not agent.rebooted.exists()


def test_a_deletion_while_the_server_goes_down_is_not_answered_as_if_it_stayed(make_agent, web, image):
    """The reboot that was ordered stops this daemon: its last answer must not say that the server stays in rescue."""
    agent = make_agent(reboot=True, grace_seconds=0).start()
    agent.post(job(web.url, image.sha256))
    agent.wait(agent.rebooted.exists, "the command has run")
    answers = []

    def delete():
        with suppress(OSError):
            answers.append(agent.delete().status)

    (thread,) = _many(1, delete)
    time.sleep(0.5)
    assert agent.end(signal.SIGTERM) == 0
    thread.join()
    assert answers in ([409], [])
    assert agent.stored()["entry"]["phase"] == "done"
