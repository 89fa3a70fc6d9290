"""`byoi deploy`, `status`, `cancel` and `disks` over a real socket, against the real daemon."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.units import MiB
from tests.kit.agent_process import NAME as SERVER
from tests.kit.agent_process import AgentProcess, agent_process
from tests.kit.disks import make_disk

ROOT = Path(__file__).parents[2]
STAGES = ["preflight", "claim", "write", "verify", "finish", "commit"]


@pytest.fixture
def disk(tmp_path) -> Path:
    return make_disk(tmp_path / "disk.img", 64 * MiB)


@pytest.fixture
def agent(disk, tmp_path_factory) -> Iterator[AgentProcess]:
    # The path of a Unix socket has at most 107 bytes.
    with agent_process(tmp_path_factory.mktemp("agent"), disks=(disk,), grace_seconds=600) as agent:
        yield agent.start()


@pytest.fixture
def call(agent, byoi):
    """Run a command against the daemon to its end."""
    return lambda *arguments, **more: byoi(*arguments, BYOI_SOCKET=str(agent.socket), **more)


@pytest.fixture
def begin(agent, start_byoi):
    """Start a command against the daemon."""
    return lambda *arguments, **more: start_byoi(*arguments, BYOI_SOCKET=str(agent.socket), **more)


@pytest.fixture
def job(make_job, gpt_image) -> Path:
    return make_job(gpt_image, configdrive=None)


@pytest.fixture
def slow_job(web, gpt_image, tmp_path) -> Path:
    """A job whose download falls silent in the middle until `web.resume` is set."""
    path = tmp_path / "slow.json"
    url = web.publish(gpt_image.path, "slow.raw", pause_at=20 * MiB)
    path.write_text(
        json.dumps({"URL": url, "type": "raw", "checkSum": gpt_image.sha256, "checkSumType": "sha256"})
    )
    return path


def lines(text: str) -> list[str]:
    """Lines without the time before them."""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in text.splitlines()]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# -- deploying -------------------------------------------------------------------------------------------------


def test_a_deployment_is_followed_to_its_end(disk, call, job, gpt_image):
    outcome = call("deploy", job, "--watch", "--json")
    assert outcome.status == 0, outcome.err
    shown = lines(outcome.err)
    assert [line.split(":")[0] for line in shown if line.endswith(": begins")] == STAGES
    assert [line.split(":")[0] for line in shown if re.fullmatch(r"\w+: [\d.]+ s", line)] == STAGES
    assert re.fullmatch(rf"done: 48\.0 MiB deployed to {disk} in .* \(sha256:{gpt_image.sha256}\)", shown[-2])
    assert shown[-1] == "rebooting is disabled here: the deployed system starts at the next boot"
    assert (outcome.document["status"], outcome.document["servername"]) == ("done", SERVER)
    # The image lies on the disk, but for the end of its table, which has moved.
    assert disk.read_bytes()[MiB : 40 * MiB] == gpt_image.read(MiB, 39 * MiB)


def test_a_deployment_goes_on_without_its_command(call, job):
    outcome = call("deploy", job)
    assert (outcome.status, outcome.out) == (0, "")
    assert "`byoi status --watch`" in outcome.err
    assert call("status", "--watch").status == 0
    late = call("status", "--watch")  # what is over already is told all the same
    assert late.status == 0
    assert lines(late.err)[-2].startswith("done: 48.0 MiB")
    assert call("deploy", job, "--watch", "--quiet") == (0, "", "")


def test_options_make_the_job_as_they_do_for_write(call, web, gpt_image):
    url = web.publish(gpt_image.path)
    outcome = call(
        *("deploy", "--url", url, "--type", "raw", "--checksum", f"sha256:{gpt_image.sha256}"),
        *("--hostname", "web1", "--disk-group", "1", "--watch", "--json"),
    )
    assert outcome.status == 0, outcome.err
    assert outcome.document["job"] == {
        "URL": url,
        "type": "raw",
        "checkSum": gpt_image.sha256,
        "checkSumType": "sha256",
        "diskGroupId": 1,
        "configdrive": {"enable": True, "hostname": "web1"},
    }


def test_a_group_on_the_command_line_outranks_that_of_the_document(call, make_job, gpt_image):
    document = make_job(gpt_image, configdrive=None, diskGroupId=7)
    outcome = call("deploy", document, "--watch", "--json")
    assert (outcome.status, outcome.document["error"]["code"]) == (2, "disk.group")
    assert call("deploy", document, "--disk-group", "1", "--watch").status == 0


def test_hints_on_the_command_line_choose_the_disk(call, make_job, gpt_image, disk):
    document = make_job(gpt_image, configdrive=None, diskGroupId=7)
    outcome = call("deploy", document, "--disk-hint", f"name={disk}", "--watch", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.document["disk"]["path"] == str(disk)
    assert outcome.document["job"]["disk"] == {"name": str(disk)}
    assert "diskGroupId" not in outcome.document["job"]
    none = call("deploy", document, "--disk-hint", f"name={disk}x", "--watch", "--json")
    assert (none.status, none.document["error"]["code"]) == (2, "disk.selector")
    assert f"{disk}: name is {disk}" in none.document["error"]["detail"]


def test_a_fault_of_an_option_is_told_by_its_name(call):
    outcome = call(
        "deploy", "--url", "http://127.0.0.1:1/x", "--type", "raw", "--hostname", "a_b", "--meta", "=x"
    )
    assert outcome.status == 2
    assert [line.split(":")[0].strip() for line in outcome.err.splitlines()[1:3]] == ["--hostname", "--meta"]


def test_every_fault_of_a_job_is_told(call, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('{"URL": "ftp://a.example/x", "type": "iso", "checksum": "x"}')
    outcome = call("deploy", path, "--json")
    assert outcome.status == 2
    told = outcome.err.splitlines()
    assert told[0] == "error: the job has faults:"
    assert [line.split(":")[0] for line in told[1:]] == ["  URL", "  type", "  checksum"]
    body = outcome.document
    assert body["class"] == "Client::BadRequest::InvalidJob"
    assert [fault["path"] for fault in body["details"]["faults"]] == ["URL", "type", "checksum"]
    assert call("deploy", "-", stdin=b"{").status == 2


def test_a_second_deployment_is_refused(call, slow_job, job, web):
    assert call("deploy", slow_job).status == 0
    outcome = call("deploy", job)
    assert (outcome.status, outcome.out) == (1, "")
    assert "`byoi cancel` cancels it" in outcome.err
    web.resume.set()
    assert call("status", "--watch").status == 0


def test_the_error_and_what_to_do_about_it(call, make_job, gpt_image):
    bad = make_job(gpt_image, configdrive=None, checkSum="0" * 64)
    outcome = call("deploy", bad, "--watch")
    assert outcome.status == 1
    shown = lines(outcome.err)
    assert any(line.startswith("verify: failed after ") for line in shown)
    assert [line.split(":")[0] for line in shown[-5:-2]] == ["error", "hint", "disk"]
    assert shown[-1].startswith("for support: `byoi report`")
    assert "checkSum belongs to the file" in shown[-4]
    assert shown[-2] == "  The disk is empty and cannot boot: deploy again to install a system."
    # Asked without --watch, the agent could be asked: that is all.
    later = call("status")
    assert later.status == 0
    assert later.out.splitlines()[-1] == shown[-1]
    assert call("status", "--watch").status == 1


# -- cancelling ------------------------------------------------------------------------------------------------


def test_cancelling_says_what_it_cancels_and_ends_those_who_watch(call, begin, slow_job, web):
    watcher = begin("deploy", slow_job, "--watch")
    assert web.paused.wait(60)
    until(lambda: call("status", "--json").document["stage"] == "write", "it writes")
    outcome = call("cancel")
    assert outcome.status == 0
    assert re.search(r"cancelling in stage write, at \d+\.\d %", outcome.err)
    assert "cancelled and its state erased" in outcome.out
    assert "The disk is empty and cannot boot: deploy again" in outcome.out
    assert watcher.finish().status == 130
    assert "no deployment" in call("status").out


def test_there_may_be_nothing_to_cancel(call):
    assert call("cancel") == (0, "no deployment\n", "")
    assert call("cancel", "--json").document == {
        "outcome": "nothing",
        "message": "no deployment",
        "notes": [],
    }


def test_cancelling_calls_a_reboot_off(agent, call, job):
    agent.end()
    agent.reboot = True
    agent.start()
    outcome = call("deploy", job, "--watch")
    assert outcome.status == 0
    left = re.search(r"rebooting to disk in (\d+) s at most, as soon as somebody has asked", outcome.err)
    assert left is not None
    assert 500 < int(left[1]) <= 600
    told = call("cancel", "--json").document
    assert (told["outcome"], told["message"]) == ("called off", "The state is erased, and no reboot follows.")
    assert any("The disk holds the deployed system and can boot." in note for note in told["notes"])
    assert call("status", "--json").document["status"] is None


def test_an_interrupted_watch_leaves_the_deployment_alone(call, begin, slow_job, web):
    watcher = begin("deploy", slow_job, "--watch")
    assert web.paused.wait(60)
    watcher.process.send_signal(signal.SIGINT)
    outcome = watcher.finish()
    assert outcome.status == 130
    assert outcome.err.endswith("A deployment goes on without this command; `byoi cancel` cancels it.\n")
    web.resume.set()
    assert call("status", "--watch").status == 0


# -- an agent that goes and comes -----------------------------------------------------------------------------


def test_an_agent_that_dies_and_comes_back_is_followed_on(agent, begin, slow_job, web):
    watcher = begin("deploy", slow_job, "--watch", "--json")
    assert web.paused.wait(60)
    agent.kill()
    web.resume.set()
    agent.start()
    outcome = watcher.finish()
    assert outcome.status == 0, outcome.err
    assert outcome.document["attempt"] == 2
    begun = [line.split(":")[0] for line in lines(outcome.err) if line.endswith(": begins")]
    assert begun[-6:] == STAGES
    assert begun.count("preflight") == 2


def test_a_console_follows_one_deployment_after_another(agent, call, begin, make_job, gpt_image):
    good = make_job(gpt_image, configdrive=None)
    bad = make_job(gpt_image, configdrive=None, checkSum="0" * 64)
    agent.end()
    console = begin("status", "--watch", "--forever")
    console.wait_for("byoi-agent is not running")
    agent.start()
    console.wait_for(f"waiting for a deployment ({SERVER})")
    assert call("deploy", bad).status == 0
    console.wait_for("hint: Check that checkSum")
    assert call("deploy", good).status == 0
    console.wait_for("rebooting is disabled here")
    agent.end()
    console.wait_for("byoi-agent")
    agent.start()
    console.process.terminate()
    assert console.finish().status == 0


# -- the inventory ---------------------------------------------------------------------------------------------


def test_the_disks_are_those_of_the_daemon(disk, call):
    disks = {found["path"]: found for found in call("disks", "--json").document["disks"]}
    assert disks[str(disk)]["diskGroupId"] == 1
    assert disks[str(disk)]["eligible"] is True
    table = call("disks").out
    row = next(line for line in table.splitlines() if str(disk) in line)
    assert row.split()[:3] == [str(disk), "64.0", "MiB"]
    assert row.split()[-2:] == ["1", "yes"]
    assert row.split()[-1] == "yes"


def test_the_groups_alone_are_a_number_a_line(call):
    assert call("disks", "--groups").out == "1\n"


def test_the_disks_need_no_daemon_unless_one_was_named(agent, byoi, disk):
    """Without it they are the same, and both outputs say whose word it is."""
    config = agent.write_config()
    asked = byoi("disks", "--json", "--socket", agent.socket)
    assert (asked.document["agentAsked"], asked.document["configuredGroups"], asked.err) == (True, True, "")
    agent.end()
    outcome = byoi("disks", "--json", "--config", config, BYOI_SOCKET="")
    assert outcome.status == 0
    assert (outcome.document["agentAsked"], outcome.document["configuredGroups"]) == (False, True)
    assert outcome.document["groups"] == asked.document["groups"]
    assert "note: byoi-agent was not asked: " in outcome.err
    assert "note: the disk groups are those of its configuration" in outcome.err
    config.write_text('service_name = "ns1"\n')
    guessed = byoi("disks", "--config", config, BYOI_SOCKET="")
    assert "made of like disks: it configures none" in guessed.err
    config.write_text("[[disk_groups]]\n")
    refused = byoi("disks", "--config", config, BYOI_SOCKET="")
    assert (refused.status, refused.out) == (1, "")
    assert "disk_groups: is an unknown option" in refused.err
    outcome = byoi("disks", "--socket", agent.socket)
    assert outcome.status == 1
    assert str(agent.socket) in outcome.err


# -- nobody, or somebody else, on the socket -------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("status",), ("status", "--watch"), ("cancel",), ("deploy", "--url", "http://127.0.0.1:1/x")]
)
def test_no_daemon(byoi, tmp_path, command):
    path = tmp_path / "absent.sock"
    outcome = byoi(*command, "--socket", path, BYOI_SOCKET="/nowhere")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        f"error: byoi-agent is not running: there is no socket {path}\n"
        "hint: Start it with `systemctl start byoi-agent`, or name its socket with --socket PATH.\n"
    )


def test_no_daemon_as_json_is_no_status(byoi, tmp_path):
    outcome = byoi("status", "--json", "--socket", tmp_path / "absent.sock")
    assert outcome.status == 1
    assert outcome.document["class"] == "Client::Unreachable"
    assert "status" not in outcome.document


def test_a_dead_socket(byoi, tmp_path):
    path = tmp_path / "dead.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    outcome = byoi("status", "--socket", path)
    assert outcome.status == 1
    assert f"nobody listens on {path}" in outcome.err


AS_NOBODY = """
import os, sys, agent.cli.status
from agent.cli.main import main
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sys.exit(main(["status", "--socket", sys.argv[1]]))
"""


def test_a_socket_that_is_not_for_this_user():
    # Not in tmp_path, which nobody else may enter.
    path = Path(tempfile.gettempdir()) / f"byoi-test-{os.getpid()}.sock"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        try:
            path.chmod(0)
            listener.listen()
            done = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, str(path)],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
        finally:
            path.unlink()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: the socket {path} is not open to this user\n")
    assert re.search(r"hint: Be root or a member of the group \w+\.", done.stderr)


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[None]:
    """A server that answers one connection after another with these bytes, whatever it is asked."""
    left = iter(answers)
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    try:
                        connection.sendall(next(left, b""))
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def http(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_what_a_cancellation_waits_for_is_told_until_it_is_over(byoi, tmp_path):
    """A disk that hangs cannot be had for a test: these are the daemon's answers while one does."""
    stage = {"name": "write", "startedAt": "2024-05-01T10:00:00Z", "seconds": None}
    running = {
        **dict.fromkeys(
            ("message", "checksum", "bytesTotal", "eta", "waitingOn", "error", "disk", "job", "finishedAt")
        ),
        "servername": SERVER,
        "status": "doing",
        "revision": 1,
        "id": "a",
        "stages": [stage],
        "notes": [],
        "percent": 5.5,
        "bytesDownloaded": 1,
        "bytesWritten": 1,
        "rate": 0,
        "attempt": 1,
        "startedAt": "2024-05-01T10:00:00Z",
        "updatedAt": "2024-05-01T10:00:01Z",
    }
    hanging = {
        "class": "Server::Unavailable",
        "message": "The deployment is being cancelled and has not stopped yet: a write to /dev/sda.",
        "errorCode": "STILL_CANCELLING",
        "details": {},
    }
    refusal = http(json.dumps(hanging).encode(), b"HTTP/1.1 503 Service Unavailable")
    path = tmp_path / "a.sock"
    with answering(path, http(json.dumps(running).encode()), refusal, refusal, http(b"null")):
        outcome = byoi("cancel", "--socket", path)
    assert outcome.status == 0
    assert outcome.err.splitlines() == [
        "cancelling in stage write, at 5.5 %",
        hanging["message"],
        hanging["message"],
    ]
    assert "cancelled and its state erased" in outcome.out


STRANGERS = {
    "nothing": (b"", "without an answer"),
    "no http": (b"220 mail.example.net ESMTP\r\n", "does not speak HTTP"),
    "noise": (b"\x00\xff" * 5000, "does not speak HTTP"),
    "half": (http(b"{}" * 100)[:-50], "while it answered"),
    "endless": (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 20 * MiB, "too long"),
    "long header": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MiB, "does not speak HTTP"),
    "no json": (http(b"<html>"), "does not answer in JSON"),
    "deep": (http(b"[" * 100_000), "does not answer in JSON"),
    "no status": (http(b"[]"), "is not a JSON object"),
    "half a status": (http(b'{"revision": 1, "status": "doing"}'), "the member stages"),
    "refusal": (http(b'{"message": "no \\u001b[31m"}', b"HTTP/1.1 403 No"), "error: no ?[31m"),
    "bare refusal": (http(b"null", b"HTTP/1.1 500 No"), "refused it (500)"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_somebody_else_on_the_socket(byoi, tmp_path, stranger):
    answer, told = STRANGERS[stranger]
    path = tmp_path / "other.sock"
    with answering(path, answer):
        outcome = byoi("status", "--socket", path)
    assert (outcome.status, outcome.out) == (1, "")
    assert told in outcome.err
    assert len(outcome.err) < 1000
