"""`byoi report`: one file for a support ticket, with all that can be had and no secret."""

import io
import json
import os
import stat
import subprocess
import sys
import tarfile

import pytest

from tests.integration.daemon.test_jobs import SECRETS, secret_job
from tests.kit.agent_process import NAME
from tests.kit.commands import ROOT
from tests.kit.deployments import job

TOKEN = "canary-of-the-token-0123456789"


def unpack(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        names = tar.getnames()
        assert len({name.split("/")[0] for name in names}) == 1
        return {name.split("/", 1)[1]: tar.extractfile(name).read().decode() for name in names}


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def test_everything_is_in_it_and_no_secret(make_agent, byoi, token, web, image, tmp_path):
    agent = make_agent(config=f'[api]\nsocket = "@SOCKET@"\ntoken_file = "{token}"\n').start()
    agent.post(secret_job(web.url, image))
    agent.wait_for("done", "error")
    path = tmp_path / "report.tar.gz"
    words = ("report", "--config", agent.directory / "agent.toml", "-o", path)
    done = byoi(*words, BYOI_SOCKET=str(agent.socket))
    assert (done.status, done.out) == (0, "")
    assert "secrets blanked" in done.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = unpack(path.read_bytes())
    assert json.loads(files["status.json"])["status"] == "done"
    assert "payload" in json.loads(files["receipt.json"])
    assert json.loads(files["disks.json"])["groups"]
    options = {row["key"]: row["value"] for row in json.loads(files["configuration.json"])["options"]}
    assert (options["service_name"], options["api.token_file"]) == (NAME, "***")
    assert json.loads(files["versions.json"])["packages"]["aiohttp"]
    assert os.uname().release in files["versions.json"]
    assert [secret for secret in (*SECRETS, TOKEN) for text in files.values() if secret in text] == []

    again = byoi(*words, BYOI_SOCKET=str(agent.socket))
    assert again.status == 2
    assert "exists and is left alone" in again.err


def test_a_known_secret_is_blanked_where_nobody_expects_it(make_agent, token):
    """The agent's own words hold none: here a path has one in it, as somebody may mistake it."""
    agent = make_agent(config=f'[api]\nsocket = "@SOCKET@"\ntoken_file = "{token}"\n')
    path = agent.write_config()
    path.write_text(path.read_text() + f'\n[[disk_group]]\nid = 9\ndisks = ["/srv/{TOKEN}"]\n')
    command = [
        sys.executable,
        "-m",
        "agent.cli",
        "report",
        "--config",
        path,
        "-o",
        "-",
        "--socket",
        "/nowhere",
    ]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, timeout=100)
    files = unpack(done.stdout)
    assert TOKEN not in "".join(files.values())
    assert "/srv/***" in files["configuration.json"]


def test_without_an_agent_it_is_made_all_the_same_and_says_what_is_missing(byoi, tmp_path):
    path = tmp_path / "report.tar.gz"
    done = byoi("report", "-o", path, "--json", BYOI_SOCKET=str(tmp_path / "no.sock"))
    assert done.status == 0
    assert done.document["file"] == str(path)
    assert "not running" in done.document["missing"]["status.json"]
    files = unpack(path.read_bytes())
    assert json.loads(files["missing.json"]) == done.document["missing"]
    assert sorted(files) == done.document["files"]
    assert "disks" in json.loads(files["disks.json"])


def test_its_name_tells_the_server_and_the_time(make_agent, start_byoi, tmp_path, monkeypatch):
    agent = make_agent().start()
    monkeypatch.chdir(tmp_path)
    done = start_byoi("report", BYOI_SOCKET=str(agent.socket)).finish()
    assert done.status == 0, done.err
    [path] = tmp_path.glob("byoi-report-*.tar.gz")
    assert path.name.startswith(f"byoi-report-{NAME}-2")
    assert path.name in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "/nowhere/at/all.tar.gz"], "in a directory that is not there"),
        (["-o", "-", "--json"], "stdout is for the report"),
        (["-o", "/proc/report.tar.gz"], "cannot be written"),
    ],
)
def test_where_it_cannot_go_is_told(byoi, words, said):
    done = byoi("report", *words, BYOI_SOCKET="/nowhere")
    assert done.status == 2
    assert said in done.err


def test_after_an_error_that_is_not_the_job_s_it_is_named(make_agent, byoi, web, image):
    agent = make_agent().start()
    agent.post(job(web.url, "0" * 64))
    agent.wait_for("error")
    shown = byoi("status", BYOI_SOCKET=str(agent.socket))
    assert "for support: `byoi report`" in shown.out
