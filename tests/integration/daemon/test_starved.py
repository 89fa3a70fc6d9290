"""A daemon that has too little of something for a deployment: the error says so, and the next one works."""

import re
from pathlib import Path

import pytest

from agent.units import MiB
from tests.kit.checks import assert_complete
from tests.kit.commands import run
from tests.kit.deployments import job
from tests.kit.disks import fill_up


def fails_and_lives_on(agent, wanted, code, enough):
    """The job fails by this code; once the daemon may have `enough` (an option of prlimit) the same one is done."""
    pid = agent.process.pid
    assert agent.post(wanted).status == 200
    error = agent.wait_for("done", "error")["error"]
    assert (error["code"], error["blame"]) == (code, "agent")
    assert error["diskState"] in {"untouched", "empty"}
    run("prlimit", "--pid", pid, enough)
    assert agent.delete().status == 200
    assert agent.post(wanted).status == 200
    assert agent.wait_for("done", "error")["status"] == "done"
    assert agent.process.pid == pid


def test_a_deployment_without_descriptors_says_so_and_the_daemon_lives_on(make_agent, web, image):
    agent = make_agent(reboot=False).start()
    pid = agent.process.pid
    enough_for_a_question = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 5
    run("prlimit", "--pid", pid, f"--nofile={enough_for_a_question}:")
    fails_and_lives_on(agent, job(web.url, image.sha256), "agent.descriptors", "--nofile=1024:")


@pytest.mark.parametrize("spare", [0, 2 * MiB])
def test_so_does_one_without_memory(make_agent, web, image, spare):
    """Also where the kernel gives no further thread."""
    agent = make_agent(reboot=False).start()
    pid = agent.process.pid
    status = Path(f"/proc/{pid}/status").read_text()
    used = int(re.search(r"^VmSize:\s*(\d+) kB", status, re.MULTILINE)[1]) * 1024
    run("prlimit", "--pid", pid, f"--as={used + spare}:")
    fails_and_lives_on(agent, job(web.url, image.sha256), "agent.memory", "--as=unlimited:")


def test_no_temporary_file_is_needed(make_agent, web, image, disk, tmp_path):
    """They would outlive a daemon that is killed."""
    (full := tmp_path / "full").mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full)
    try:
        fill_up(full / "ballast")
        agent = make_agent(reboot=False, environment={"TMPDIR": str(full)}).start()
        assert agent.post(job(web.url, image.sha256)).status == 200
        status = agent.wait_for("done", "error")
        assert (status["status"], status["notes"]) == ("done", [])
        assert_complete(disk, image, tmp_path)
    finally:
        run("umount", "--lazy", full)
