"""What the daemon finds when it starts, and who may have put it there."""

import json
import os
import subprocess
import sys

import pytest

from tests.kit.agent_process import NAME
from tests.kit.commands import ROOT
from tests.kit.deployments import job

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def forged(path, web, image):
    """A journal with a job that nobody has posted."""
    entry = {
        "id": "forged", "origin": "api", "job": job(web.url, image.sha256), "acceptedAt": 0.0, "phase": "running",
        "attempt": 1, "seal": None, "status": None, "seen": False, "told": False, "ending": None, "percent": 0.0,
    }  # fmt: skip
    book = {
        "format": "byoi-agent journal", "version": 1, "server": NAME, "boot": "", "taken": [], "farewells": [],
        "revision": 0, "entry": entry,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book))
    path.chmod(0o600)


def started(agent):
    """Start it in the foreground, where it is to refuse: exit status, and what it says."""
    path = agent.write_config()
    done = subprocess.run(
        [sys.executable, *agent.command, "--config", str(path)],
        capture_output=True, text=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_forged_journal_in_a_directory_that_nobody_made_is_not_run(make_agent, web, image, disk):
    before = disk.read_bytes()
    agent = make_agent()
    forged(agent.journal, web, image)
    directory = agent.journal.parent
    for path in (directory, agent.journal):
        os.chown(path, NOBODY, NOBODY)
    status, said = started(agent)
    assert status == 2
    assert f"{directory} belongs to the user nobody, who decides what is in it" in said
    assert f"chown root: {directory}" in said
    assert web.requests == []
    assert disk.read_bytes() == before
    # Half of the way out: the directory is root's now, the journal in it is not.
    os.chown(directory, 0, 0)
    status, said = started(agent)
    assert status == 1
    assert f"{agent.journal} belongs to the user nobody" in said
    assert f"hint: look through it, or remove it, then chown root: {agent.journal}" in said
    assert disk.read_bytes() == before
    agent.journal.unlink()
    agent.start()
    assert agent.get().status == 404


def test_a_configuration_that_somebody_else_owns_is_not_read_as_root(make_agent):
    agent = make_agent()
    path = agent.write_config()
    os.chown(path, NOBODY, NOBODY)
    agent.write_config = lambda: path  # type: ignore[method-assign]
    status, said = started(agent)
    assert status == 2
    assert f"{path} belongs to the user nobody" in said
