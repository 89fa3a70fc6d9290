"""Life and death of the daemon: crashes, restarts, the journal, and what a deployment in its middle becomes."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import pytest

from tests.kit.checks import assert_complete, assert_nothing_boots, what_is_on
from tests.kit.commands import ROOT, run
from tests.kit.deployments import job


def journal_of(agent):
    return agent.stored()


@pytest.mark.parametrize("stage", ["preflight", "write"])
def test_a_killed_agent_begins_its_job_again_by_itself(make_agent, slow_web, image, disk, tmp_path, stage):
    agent = make_agent().start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for(stage)
    agent.kill()
    if stage == "write":
        assert_nothing_boots(disk)
    slow_web.answer = lambda request: request.file(image.data)
    agent.start()
    done = agent.wait_for("done", "error")
    assert (done["status"], done["attempt"]) == ("done", 2)
    assert_complete(disk, image, tmp_path)


def test_a_job_whose_agent_always_dies_is_given_up(make_agent, slow_web, image):
    agent = make_agent().start()
    agent.post(job(slow_web.url, image.sha256))
    for _ in range(5):
        agent.wait_for("write")
        agent.kill()
        agent.start()
    failed = agent.wait_for("error")
    assert failed["error"]["code"] == "job.interrupted"
    assert "5 attempts" in failed["message"]
    assert failed["error"]["diskState"] == "empty"
    assert agent.get().json["status"] == "error"


def test_a_stopped_agent_leaves_the_disk_unbootable_and_begins_again_when_it_is_back(
    make_agent, slow_web, image, disk, tmp_path
):
    agent = make_agent().start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    assert agent.end(signal.SIGTERM) == 0
    assert_nothing_boots(disk)
    slow_web.answer = lambda request: request.file(image.data)
    agent.start()
    assert agent.wait_for("done")["attempt"] == 2
    assert_complete(disk, image, tmp_path)


def test_a_finished_deployment_still_answers_after_a_restart_and_is_not_run_again(
    make_agent, web, image, disk
):
    agent = make_agent().start()
    agent.post(job(web.url, image.sha256))
    before = agent.wait_for("done")
    requests = len(web.requests)
    agent.kill()
    disk_before = disk.read_bytes()
    agent.start()
    after = agent.status()
    assert after["revision"] > before["revision"]
    for document in (before, after):
        del document["revision"]
    assert after == before
    time.sleep(0.5)
    assert len(web.requests) == requests
    assert disk.read_bytes() == disk_before


def test_a_failed_deployment_still_answers_after_a_restart(make_agent, web, image):
    agent = make_agent().start()
    agent.post(job(web.url, "0" * 64))
    before = agent.wait_for("error")
    agent.kill()
    agent.start()
    assert agent.status()["error"] == before["error"]


def test_a_commit_that_was_complete_is_known_by_its_seal(make_agent, web, image, disk, tmp_path):
    """The agent died between the last write of the commit and the journal's word of it."""
    agent = make_agent(reboot=True).start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    agent.kill()
    book = journal_of(agent)
    book["entry"] |= {"phase": "sealed", "status": None}
    agent.journal.write_text(json.dumps(book))
    agent.rebooted.unlink(missing_ok=True)
    requests = len(web.requests)
    agent.start()
    done = agent.wait_for("done")
    assert done["attempt"] == 1
    assert done["checksum"] == f"sha256:{image.sha256}"
    assert (done["imageType"], done["imagePacking"]) == ("raw", None)
    assert any("found it complete" in note for note in done["notes"])
    agent.wait(agent.rebooted.exists, "the server is handed over")
    assert len(web.requests) == requests, "nothing is downloaded again"


def test_a_commit_that_was_not_complete_is_done_again(make_agent, web, image, disk, tmp_path):
    agent = make_agent().start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    agent.kill()
    book = journal_of(agent)
    book["entry"] |= {"phase": "sealed", "status": None}
    agent.journal.write_text(json.dumps(book))
    with disk.open("r+b") as file:
        file.write(bytes(512))  # the last write of the commit did not reach the disk
    agent.start()
    assert agent.wait_for("done")["attempt"] == 2
    assert_complete(disk, image, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "torn"),
        (b'{"format": "byoi-agent journal", "version": 1, "server": "ns1', "torn"),
        (b"\0" * 4096, "torn"),
        (b"[]", "not a journal"),
        (b'{"format": "another", "version": 1}', "not a journal"),
        (b'{"format": "byoi-agent journal", "version": 2}', "version"),
        (b'{"format": "byoi-agent journal", "version": 1, "server": "ns2"}', "another server"),
    ],
)
def test_a_torn_or_foreign_journal_is_set_aside_and_said(make_agent, web, image, content, reason):
    agent = make_agent()
    agent.journal.parent.mkdir(parents=True)
    agent.journal.write_bytes(content)
    agent.start()
    assert agent.get().status == 404
    (note,) = agent.status()["notes"]
    assert reason in note
    agent.wait(lambda: reason in agent.log, "the log says so too")
    (aside,) = agent.journal.parent.glob("journal.json.*")
    assert str(aside) in note
    assert aside.read_bytes() == content
    assert agent.post(job(web.url, image.sha256)).status == 200
    assert agent.wait_for("done")["notes"] == []


def test_a_journal_that_is_a_link_is_set_aside_and_what_it_leads_to_is_left_alone(
    make_agent, tmp_path, web, image
):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    agent = make_agent()
    agent.journal.parent.mkdir(parents=True)
    agent.journal.symlink_to(victim)
    agent.start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    assert victim.read_text() == "precious"
    assert not agent.journal.is_symlink()


def test_a_torn_write_of_the_journal_loses_nothing(make_agent, web, image):
    """A new journal that was being written when the agent died is not the journal."""
    agent = make_agent().start()
    agent.post(job(web.url, image.sha256))
    before = agent.wait_for("done")
    agent.kill()
    agent.journal.with_name(".journal.json.new").write_text('{"format": "byoi-agent jour')
    agent.start()
    assert agent.status()["checksum"] == before["checksum"]
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")


def test_a_second_agent_does_not_take_the_state_of_the_first(make_agent):
    agent = make_agent().start()
    second = subprocess.run(
        [sys.executable, "-m", "agent.service.daemon", "--config", str(agent.directory / "agent.toml")],
        capture_output=True, text=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert second.returncode == 1
    assert "another byoi-agent uses it" in second.stderr
    assert "Traceback" not in second.stderr
    assert agent.get("/healthz").status == 200


def _fill(path):
    """Take all the room that a filesystem has."""
    with path.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))


def test_a_journal_that_cannot_be_written_accepts_nothing(make_agent, web, image, disk, tmp_path):
    """The state's filesystem is full: a job that would be lost by a crash is not taken."""
    before = disk.read_bytes()
    where = tmp_path / "agent" / "state"
    agent = make_agent()
    where.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", where)
    try:
        agent.start()
        _fill(where / "ballast")
        answer = agent.post(job(web.url, image.sha256))
        assert (answer.status, answer.json["errorCode"]) == (500, "agent.state")
        assert "No space left" in answer.json["message"]
        assert agent.get().status == 404
        (where / "ballast").unlink()
        assert agent.post(job(web.url, image.sha256)).status == 200
        agent.wait_for("done")
        agent.end()
    finally:
        run("umount", "--lazy", where)
    assert what_is_on(disk, before) == "system"


def test_a_group_gets_at_the_socket_beside_the_state_and_nobody_at_the_journal(make_agent, web, image):
    agent = make_agent()
    agent.directory.chmod(0o755)
    config = (
        f'[api]\nsocket = "@SOCKET@"\nsocket_group = "daemon"\n[state]\ndirectory = "{agent.directory}"\n'
    )
    path = agent.write_config()
    kept = path.read_text().split("[state]")[0]
    path.write_text(
        f'{kept}{config}[[disk_group]]\nid = 1\ndisks = ["{agent.disks[0]}"]\n'.replace(
            "@SOCKET@", str(agent.socket)
        )
    )
    agent.write_config = lambda: path  # type: ignore[method-assign]
    agent.start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    assert agent.socket.group() == "daemon"
    assert agent.socket.stat().st_mode & 0o777 == 0o660
    journal = agent.directory / "state" / "journal.json"
    assert journal.stat().st_mode & 0o777 == 0o600
    assert journal.parent.stat().st_mode & 0o777 == 0o700


def test_who_waits_for_a_change_is_answered_when_the_daemon_stops(make_agent):
    """A client would else be cut off, and the daemon wait ten seconds for it."""
    agent = make_agent().start()
    idle = agent.status()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for client in clients:
            client.connect(str(agent.socket))
            client.sendall(b"GET /v1/status?since=%d&wait=60 HTTP/1.1\r\nHost: a\r\n\r\n" % idle["revision"])
        agent.get("/healthz")  # answered after those before it have been taken
        assert agent.end(signal.SIGTERM) == 0
        for client in clients:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert (answer.status, json.loads(answer.read())) == (200, idle)


# -- ends that take their time --------------------------------------------------------------------------------


def test_a_stalled_download_is_cancelled_at_once(make_agent, web, image, disk):
    def stall(request):
        request.head(200, Content_Length=len(image.data))
        request.send(image.data[: 13 * 1024 * 1024])
        request.server.stopping.wait(120)

    web.answer = stall
    agent = make_agent().start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("write")
    assert agent.delete().status == 200
    assert_nothing_boots(disk)
    agent.post(job(web.url, image.sha256))
    agent.wait_for("write")
    assert agent.end(signal.SIGTERM) == 0


def test_a_disk_that_hangs_is_named_and_the_deletion_ends_when_it_answers(
    make_agent, slow_web, image, frozen
):
    disk, freeze, thaw = frozen
    agent = make_agent(disks=(disk,)).start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    freeze()
    time.sleep(1)
    answer = agent.delete()
    assert answer.status == 503
    assert answer.json["errorCode"] == "STILL_CANCELLING"
    assert str(disk) in answer.json["message"]
    document = agent.get().json
    assert document["status"] == "doing"
    assert document["message"].startswith(f"Cancelling: {disk} has not finished")
    assert agent.post(job(slow_web.url, image.sha256)).status == 409
    thaw()
    agent.wait(lambda: agent.get().status == 404, "the state is erased")
    assert_nothing_boots(disk)
    slow_web.answer = lambda request: request.file(image.data)
    assert agent.post(job(slow_web.url, image.sha256)).status == 200
    agent.wait_for("done")
    agent.end()


def test_a_disk_that_hangs_does_not_keep_the_daemon_from_ending(make_agent, slow_web, image, frozen):
    disk, freeze, thaw = frozen
    agent = make_agent(disks=(disk,)).start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    freeze()
    time.sleep(1)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    agent.wait(lambda: "stop_hangs" in agent.log, "it gives up waiting", 40)
    # The kernel keeps a process whose thread hangs in it until the disk answers; nothing of ours is left to do.
    agent.wait(lambda: str(disk) in agent.log, "it names the disk")
    thaw()
    assert agent.process.wait(20) == 1
    agent.process = None
    assert_nothing_boots(disk)
