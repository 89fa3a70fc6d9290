"""What stands on consoles of several kinds while an agent waits, deploys and fails: real terminals, and a pipe."""

import json
import threading
from dataclasses import dataclass

import pytest

from agent import __version__
from agent.units import MiB
from tests.integration.daemon.test_faults import FAULTY, TELLING, answers
from tests.kit.agent_process import NAME
from tests.kit.deployments import job
from tests.kit.glass import Glass, squeezed

# Nobody listens there.
CONTROL_PLANE = "https://127.0.0.1:1/byoi"
KINDS = {
    "40 columns": (40, {"TERM": "xterm"}),
    "80 columns without colours": (80, {"TERM": "xterm", "NO_COLOR": "1"}),
    "200 columns": (200, {"TERM": "xterm"}),
    "the Linux console": (80, {"TERM": "linux"}),
    "a serial line": (80, {"TERM": "vt220"}),
}
BARS = [kind for kind, (_, environment) in KINDS.items() if environment["TERM"] != "vt220"]


@dataclass(repr=False)
class Console:
    """`byoi status --watch --forever` on a terminal."""

    kind: str
    running: object

    def __repr__(self) -> str:
        return "\n".join(self.glass.lines)

    @property
    def glass(self) -> Glass:
        """The terminal as it is now; fails where it had to fold a line, or to show more lines than it has."""
        glass = Glass(KINDS[self.kind][0]).write(self.running.text)
        assert glass.folded == [], self.kind
        return glass

    def shows(self, *texts: str) -> bool:
        words = self.glass.words
        return all(squeezed(text) in words for text in texts)


@pytest.fixture
def consoles(on_terminal):
    """A function `consoles(agent)`: one of each kind."""

    def start(agent):
        return {
            kind: Console(
                kind,
                on_terminal(
                    "status", "--watch", "--forever", "--socket", agent.socket, columns=columns, **environment
                ),
            )
            for kind, (columns, environment) in KINDS.items()
        }

    return start


def wait_for(agent, consoles, *texts):
    for console in consoles.values():
        agent.wait(
            lambda shown=console: shown.shows(*texts),
            f"{console.kind} shows {texts}",
            20,
            console,
        )


@pytest.fixture
def held(web, image):
    """Its server stops in the middle of the image until `set` is called."""
    go_on = threading.Event()

    def answer(request):
        start = request.span[0] if request.span else 0
        if start == 0:
            request.file(image.data, upto=12 * MiB)
            return
        go_on.wait(60)
        request.file(image.data)

    web.answer = answer
    yield go_on
    go_on.set()


def test_what_consoles_show_of_a_deployment_from_begin_to_end(
    make_agent, consoles, start_byoi, web, held, disk
):
    agent = make_agent(config=f'[control_plane]\nurl = "{CONTROL_PLANE}"\n').start()
    shown = consoles(agent)
    piped = start_byoi("status", "--watch", "--forever", "--socket", agent.socket)
    wait_for(
        agent,
        shown,
        f"waiting for a deployment ({NAME}): for a job, by the API on /tmp/",
        f"byoi-agent {__version__} on {NAME}; address: ",
        f"control plane: {CONTROL_PLANE} fails: it cannot be reached: Connection refused",
        "next try ",
    )
    for console in shown.values():
        if console.glass.columns >= 80:
            assert console.shows(f"by the API on {agent.socket}, or from the control plane {CONTROL_PLANE}")
    piped.wait_for(f"control plane: {CONTROL_PLANE} fails: it cannot be reached: Connection refused")

    url = f"{web.url}?token=s3cret"
    assert agent.post(job(url, "0" * 64)).status == 200
    image, target = f"image: {web.url}?token=*** (raw)", f"disk: {disk} ({disk.stat().st_size // MiB}.0 MiB)"
    for kind in BARS:
        done, to_do, full = ("+", ".", "#") if KINDS[kind][1]["TERM"] == "linux" else ("✓", "·", "━")
        # What is done, what runs, and what remains differ by signs.
        stages = (
            f"{done} claim",
            f"write {full}",
            f"{full}-",
            f"{to_do} verify  {to_do} finish  {to_do} commit",
        )
        wait_for(agent, {kind: shown[kind]}, *stages, image, target)
        glass = shown[kind].glass
        if "NO_COLOR" in KINDS[kind][1]:
            assert glass.colours <= {"1"}, "bold is no colour"
        if KINDS[kind][1]["TERM"] == "linux":
            assert "".join(glass.lines).isascii()
    piped.wait_for(image)
    wait_for(agent, {"a serial line": shown["a serial line"]}, image, target)

    held.set()
    wait_for(
        agent,
        shown,
        "error: Bad sha256 for downloaded file",
        "hint: Check that checkSum belongs to the file behind the URL.",
        target,
        "The disk is empty and cannot boot: deploy again to install a system.",
        image,
    )
    piped.wait_for("The disk is empty and cannot boot")
    assert max(map(len, piped.err.splitlines())) > 100, "in a pipe no line is broken"
    assert "\x1b" not in piped.err
    assert "s3cret" not in piped.err + "".join(console.running.text for console in shown.values())


def test_the_status_on_a_terminal_and_in_a_pipe(make_agent, on_terminal, start_byoi):
    agent = make_agent(config=f'[control_plane]\nurl = "{CONTROL_PLANE}"\n').start()
    agent.wait(lambda: agent.status()["controlPlane"]["state"] == "failing", "the control plane fails")
    for columns in (40, 80, 200):
        running = on_terminal("status", "--socket", agent.socket, output=True, columns=columns, TERM="xterm")
        assert running.finish() == 0
        glass = Glass(columns).write(running.text)
        assert glass.folded == []
        assert f"agent:    byoi-agent {__version__}" in glass.lines
        said = f"control: {CONTROL_PLANE} fails: it cannot be reached: Connection refused (for "
        assert squeezed(said) in glass.words
    piped = start_byoi("status", "--socket", agent.socket).finish()
    assert next(line for line in piped.out.splitlines() if line.startswith("waiting: ")) == (
        f"waiting:  for a job, by the API on {agent.socket}, or from the control plane {CONTROL_PLANE}"
    )
    told = json.loads(start_byoi("status", "--json", "--socket", agent.socket).finish().out)
    assert told["controlPlane"]["url"] == CONTROL_PLANE
    assert told["agent"]["version"] == __version__


def test_faults_of_the_configuration_are_on_the_consoles(make_agent, consoles, start_byoi):
    faults = FAULTY + "".join(f"surprise_{number} = 1\n" for number in range(20))
    agent = make_agent(command=TELLING, config=faults)
    agent.launch()
    agent.wait(lambda: answers(agent), "it tells its faults")
    shown = consoles(agent)
    wait_for(
        agent,
        shown,
        f"byoi-agent {__version__} on {NAME}; address: ",
        "error: the agent does nothing: its configuration has 22 faults.",
        "systemctl reload byoi-agent",
        "policy.allow_htpp: is an unknown option",
    )
    listed = start_byoi("status", "--socket", agent.socket).finish()
    assert listed.status == 0
    assert listed.out.count("is an unknown option") == 21
    posted = start_byoi("deploy", "--url", "https://h/i", "--type", "raw", "--socket", agent.socket).finish()
    assert posted.status == 1
    assert "does nothing, because its configuration has faults: policy.allow_htpp" in posted.err
