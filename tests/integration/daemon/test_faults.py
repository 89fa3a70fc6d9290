"""An agent whose configuration has faults, started as its unit does: it tells them, and does nothing else."""

import signal
from contextlib import suppress

import pytest

from tests.integration.daemon.test_notify import managing
from tests.kit.agent_process import NAME
from tests.kit.control_plane import control_plane
from tests.kit.deployments import job

TELLING = ("-m", "agent.service.daemon", "--tell-faults")
FAULTY = '[policy]\nallow_htpp = true\n[control_plane]\nurl = "http://control.example.net"\n'


def answers(agent, path="/v1/status"):
    with suppress(OSError):
        return agent.get(path).status == 200
    return False


@pytest.fixture
def faulty(make_agent):
    """An agent that has launched with two faults and answers."""
    agent = make_agent(command=TELLING, config=FAULTY)
    agent.launch()
    agent.wait(lambda: answers(agent), "it tells its faults")
    return agent


def test_the_status_and_the_metrics_tell_the_faults(faulty):
    status = faulty.status()
    assert (status["servername"], status["status"]) == (NAME, None)
    assert status["configuration"]["faultCount"] == 2
    paths = {fault["path"] for fault in status["configuration"]["faults"]}
    assert paths == {"policy.allow_htpp", "control_plane.url"}
    assert status["agent"]["listening"] == [str(faulty.socket)]
    assert b"byoi_configuration_faults 2.0" in faulty.get("/metrics").body
    assert "the configuration has faults:" in faulty.log  # in the log too, as ever


def test_no_job_is_taken_and_the_journal_is_left_alone(faulty, web, image, disk):
    before = disk.read_bytes()
    for answer in (faulty.post(job(web.url, image.sha256)), faulty.delete(), faulty.get("/healthz")):
        assert (answer.status, answer.json["errorCode"]) == (503, "config.invalid")
        assert "its configuration has faults" in answer.json["message"]
    assert not faulty.journal.exists()
    assert web.requests == []
    assert disk.read_bytes() == before
    assert faulty.end() == 2  # as an agent that ends at once
    assert not faulty.socket.exists()


def test_once_they_are_mended_a_reload_starts_it(faulty, web, image):
    faulty.process.send_signal(signal.SIGHUP)
    faulty.wait(lambda: "reload_refused" in faulty.log, "it has looked again")
    assert faulty.status()["configuration"]["faultCount"] == 2
    with control_plane() as plane:
        faulty.config = f'[control_plane]\nurl = "{plane.url}"\npoll_seconds = 1\n'
        faulty.write_config()
        faulty.process.send_signal(signal.SIGHUP)
        faulty.wait(lambda: answers(faulty, "/healthz"), "it serves as it should")
        assert faulty.status()["configuration"]["faultCount"] == 0
        assert faulty.post(job(web.url, image.sha256)).status == 200
        assert faulty.wait_for("done", "error")["status"] == "done"
    assert faulty.end() == 0


def test_without_the_option_it_ends_at_once(make_agent):
    agent = make_agent(config=FAULTY)
    agent.launch()
    assert agent.process.wait(30) == 2
    assert not agent.socket.exists()


def test_systemd_is_told_what_is_wrong(make_agent, tmp_path):
    name = str(tmp_path / "notify")
    with managing(name) as manager:
        environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000"}
        agent = make_agent(command=TELLING, config=FAULTY, environment=environment)
        agent.launch()
        manager.wait_for("READY=1")
        manager.wait_for("STATUS=the configuration has faults: policy.allow_htpp: ")
        agent.wait(lambda: len(manager.times("WATCHDOG=1")) > 2, "the watchdog is fed")
        assert agent.end() == 2
        manager.wait_for("STOPPING=1")
