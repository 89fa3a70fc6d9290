"""What stands on the console and in `byoi status`: which server this is, what it waits for, and why it does not."""

import re
import socket

import pytest

from agent.cli.columns import width_of
from tests.kit.agent_process import NAME
from tests.kit.byoi import Running

CONSOLE = ("status", "--watch", "--forever")
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(text: str) -> list[str]:
    """The lines that a terminal was given, without colours and movements."""
    return [line for line in re.split(r"[\r\n]+", SEQUENCE.sub("", text)) if line.strip()]


@pytest.fixture
def nobody() -> str:
    """The address of a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def lost_agent(make_agent, nobody):
    """A daemon whose control plane cannot be reached."""
    return make_agent(config=f'[control_plane]\nurl = "http://{nobody}/byoi"\npoll_seconds = 1\n').start()


LOOKS = {
    "40 columns": {"columns": 40, "TERM": "linux"},
    "80 columns": {"columns": 80, "TERM": "linux"},
    "200 columns": {"columns": 200, "TERM": "xterm-256color"},
    "no colours": {"columns": 80, "TERM": "xterm", "NO_COLOR": "1"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_an_idle_console_tells_the_server_its_agent_and_what_is_wrong(on_terminal, lost_agent, nobody, look):
    running = on_terminal(*CONSOLE, "--socket", lost_agent.socket, **LOOKS[look])
    running.wait_for("server: ")
    running.wait_for("cannot")
    lines = shown(running.text)
    words = " ".join(lines)
    assert f"http://{nobody}/byoi" in words
    for told in (NAME, "byoi-agent 0.", "waiting for a deployment", "address:", "next try at"):
        assert told in words or told in re.sub(r"\s+", " ", words), told
    assert max(map(width_of, lines)) <= LOOKS[look]["columns"]
    if "NO_COLOR" in LOOKS[look]:
        assert not re.search(r"\x1b\[[0-9;]*3\dm", running.text)


def test_status_in_a_pipe_has_every_word_in_a_line_of_its_own(byoi, lost_agent, nobody):
    lost_agent.wait(
        lambda: lost_agent.status()["agent"]["controlPlane"]["reachable"] is False, "it has been asked"
    )
    told = byoi("status", "--socket", lost_agent.socket)
    assert told.status == 0
    fields = dict(re.findall(r"^(\w+): +(.+)$", told.out, re.MULTILINE))
    assert fields["server"] == NAME
    assert fields["waits"].startswith("waiting for a deployment at ")
    assert re.fullmatch(
        rf"http://{nobody}/byoi cannot be reached since [\d:]+ UTC: .+; next try at [\d:]+ UTC",
        fields["control"],
    )
    document = byoi("status", "--json", "--socket", lost_agent.socket).document
    assert document["agent"]["version"] == fields["agent"]
    assert document["agent"]["controlPlane"]["reason"]


def test_metrics_tell_of_the_control_plane(lost_agent):
    def text() -> str:
        return lost_agent.get("/metrics").body.decode()

    lost_agent.wait(lambda: "byoi_control_plane_up 0.0" in text(), "the fault is counted")
    assert float(re.findall(r"^byoi_control_plane_faults_total (\S+)", text(), re.MULTILINE)[0]) >= 1


def test_the_console_shows_the_faults_for_which_the_agent_did_not_start(
    make_agent, on_terminal, byoi, tmp_path
):
    agent = make_agent()
    agent.environment = {"RUNTIME_DIRECTORY": str(agent.directory)}
    agent.config = "[control_plane]\nurl = 5\n[policy]\nallow_htpp = true\n"
    agent.launch()
    assert agent.process.wait(30) == 2
    console = on_terminal(*CONSOLE, "--socket", agent.socket, TERM="linux", columns=80)
    for told in (
        "its configuration has faults",
        "control_plane.url",
        "policy.allow_htpp",
        "byoi-agent --check",
    ):
        console.wait_for(told)
    refused = byoi("status", "--socket", agent.socket, "--json")
    assert refused.status == 1
    assert "policy.allow_htpp" in refused.err
    # Once it has been mended the console goes on, and nothing is left of the faults.
    agent.process = None
    agent.config = ""
    agent.start()
    console.wait_for("waiting for a deployment")
    assert not (agent.directory / "faults").exists()


def test_a_console_that_is_a_serial_line_is_not_filled_with_the_same_words(lost_agent):
    running = Running(*CONSOLE, "--socket", lost_agent.socket, TERM="vt220")
    try:
        running.wait_for("cannot be reached")
        assert running.err.count("server: ") <= 2
    finally:
        running.kill()
