"""`byoi-agent` as systemd runs it: a process of its own, a configuration file, its socket, and all that it emitted."""

import http.client
import json
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit.commands import ROOT
from tests.kit.processes import wait_while_at_work
from tests.kit.starts import Process, start_python

NAME = "ns1.example.net"
DEPLOYMENT = f"/dedicated/server/{NAME}/bringYourOwnImage"


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class AgentProcess:
    """One daemon in a directory of its own; `start` may be called again after it has ended."""

    directory: Path
    config: str = ""
    """TOML behind what every agent here has."""
    reboot: bool = False
    grace_seconds: float = 1
    untold_seconds: float = 86400
    stays_up: bool = False
    """The reboot command fails when it has done its work: the server does not go down here."""
    disks: tuple[Path, ...] = ()
    groups: tuple[tuple[Path, ...], ...] = ()
    """Disk groups of several disks; none: each disk is one of its own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ("-m", "agent.service.daemon")
    """What Python runs, with `--config FILE` behind it."""
    inside: tuple[str, ...] = ()
    """Words in front of that: what puts the process somewhere else and becomes it, as `ip netns exec` does."""
    fresh: bool = False
    """It is executed, not forked (tests/kit/starts.py)."""
    stderr: int | None = None
    """A descriptor to log to, instead of the file."""
    process: Process | None = None
    exits: list[int] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.directory / "api.sock"

    @property
    def url(self) -> str:
        """Of the TLS listener, whose port the kernel chose. A thread writes the log, so the socket may answer first."""
        served: list[list[str]] = []

        def look() -> bool:
            served[:] = [line["on"] for line in self.lines if line["event"] == "serving"]
            return len(served) > len(self.exits)

        self.wait(look, "the log says where it serves")
        return f"https://{served[-1][-1]}"

    @property
    def journal(self) -> Path:
        return self.directory / "state" / "journal.json"

    def stored(self) -> dict[str, Any]:
        """What the journal holds.

        Its two files swap their names, and the spare one is written anew: one that was opened a moment too early is
        read once more.
        """
        for _ in range(100):
            with suppress(ValueError):
                state: dict[str, Any] = json.loads(self.journal.read_text())
                return state
        raise AssertionError(f"the journal is no JSON document: {self.journal.read_text()!r}")

    @property
    def rebooted(self) -> Path:
        """Is made by the reboot command."""
        return self.directory / "rebooted"

    @property
    def log(self) -> str:
        """All that any of its processes wrote to stderr."""
        path = self.directory / "agent.log"
        return path.read_text() if path.exists() else ""

    @property
    def most_memory(self) -> int:
        """Bytes that it had resident at the most so far."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What is an event in its log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def write_config(self) -> Path:
        groups = "".join(
            f"[[disk_group]]\nid = {number}\ndisks = {json.dumps([str(disk) for disk in group])}\n"
            for number, group in enumerate(self.groups or [[disk] for disk in self.disks], 1)
        )
        touch = ["touch", str(self.rebooted)]
        command = json.dumps(["sh", "-c", f"{shlex.join(touch)}; exit 1"] if self.stays_up else touch)
        path = self.directory / "agent.toml"
        path.write_text(
            f'service_name = "{NAME}"\n'
            f"[reboot]\nenabled = {str(self.reboot).lower()}\ncommand = {command}\n"
            f"grace_seconds = {self.grace_seconds}\nuntold_seconds = {self.untold_seconds}\n"
            f'[state]\ndirectory = "{self.directory / "state"}"\n'
            + self.config.replace("@SOCKET@", str(self.socket))
            + ("" if "@SOCKET@" in self.config else f'\n[api]\nsocket = "{self.socket}"\n')
            + "\n"
            + groups
        )
        return path

    def start(self, seconds: float = 30) -> "AgentProcess":
        """Start it, and wait until its socket answers."""
        self.launch()
        self.wait(self.answers, "the socket answers", seconds)
        return self

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        path = self.write_config()
        with (self.directory / "agent.log").open("ab") as log:
            self.process = start_python(
                [*self.command, "--config", path],
                {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.environment},
                stdout=log,
                stderr=log if self.stderr is None else self.stderr,
                directory=ROOT,
                fresh=self.fresh,
                inside=self.inside,
            )

    def answers(self) -> bool:
        """Whether its socket answers."""
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return self.get("/healthz").status == 200
        except OSError:
            return False

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        connection = _UnixConnection(self.socket, timeout)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str = DEPLOYMENT) -> Answer:
        return self.request("GET", path)

    def post(self, job: object) -> Answer:
        return self.request("POST", DEPLOYMENT, job)

    def delete(self) -> Answer:
        return self.request("DELETE", DEPLOYMENT)

    def status(self) -> dict[str, Any]:
        """The full status; to ask for it does not count as having seen the outcome."""
        document: dict[str, Any] = self.get("/v1/status").json
        return document

    def wait_for(self, *wanted: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until the status (`done`) or the stage (`write`) is one of these."""
        found: dict[str, Any] = {}

        def look() -> bool:
            found.clear()
            found.update(self.status())
            return found["status"] in wanted or (found["status"] == "doing" and found["stage"] in wanted)

        self.wait(look, f"one of {wanted}", seconds, found)
        return found

    def wait(self, holds: Callable[[], bool], what: str, seconds: float = 30, shown: object = None) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"waited in vain until {what}: {shown}\n{self.log[-4000:]}"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Send a signal and wait for the end; gives the exit status."""
        assert self.process is not None
        process, self.process = self.process, None
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            status = wait_while_at_work(process, seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it did not end: {self.log[-4000:]}") from None
        self.exits.append(status)
        return status

    def kill(self) -> None:
        """What a crash, or the OOM killer, does."""
        self.end(signal.SIGKILL)

    def reboot_now(self) -> None:
        """The server goes down and comes up again, to a journal on a disk that outlives the boot."""
        self.kill()
        book = self.stored()
        self.journal.write_text(json.dumps(book | {"boot": "another boot"}))
        self.start()


@contextmanager
def agent_process(directory: Path, **options: Any) -> Iterator[AgentProcess]:
    """A daemon that is ended with the block, however that ends; started by whoever uses it."""
    directory.mkdir(exist_ok=True)
    agent = AgentProcess(directory, **options)
    try:
        yield agent
    finally:
        if agent.process is not None:
            agent.end(signal.SIGKILL)
