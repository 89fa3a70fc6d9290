"""The api storm: clients by the dozen at one daemon at the same time, of every manner, while jobs come and go.

A run is one burst. Its clients are drawn from the seed: they post and delete, read, wait, follow the events without
reading them, send heads and bodies that no client would, come with a wrong token or with none, and go away in the
middle. Each answer has to be one that the API's own description knows for what was asked; afterwards the daemon answers
as before, nothing was told as a fault of its own, no job was lost, and the disk is as it was, blank or whole.
"""

import http.client
import json
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from agent.units import KiB, MiB
from tests.kit.agent_process import DEPLOYMENT, NAME, AgentProcess, agent_process
from tests.kit.checks import what_is_on
from tests.kit.deployments import job
from tests.kit.images import Image, make_image, make_old_disk
from tests.kit.server import serving
from tests.storm.frame import Try
from tests.storm.holdings import Holdings, holdings_of
from tests.storm.mutations import mutated

NEEDS_ROOT = False
IMAGE_SIZE, DISK_SIZE = 13 * MiB, 16 * MiB
MOST_CLIENTS = 40
ANSWER_SECONDS = 600
END_SECONDS = 600
"""What no machine is too busy for: whoever waits so long waits for something that does not come."""
TOKEN = "storm-storm-storm-storm"
# A burst leaves nothing behind; what the interpreter keeps for the next one is bounded.
MORE_FILES, MORE_THREADS, MORE_MEMORY = 8, 4, 32 * MiB
WARM_UP = 3
"""Bursts until everything has been loaded that comes to be."""


@dataclass(frozen=True)
class Door:
    """A way to the daemon: its Unix socket, or its TLS listener with some token."""

    agent: AgentProcess
    trust: ssl.SSLContext | None = None
    token: str | None = None

    def connect(self) -> socket.socket:
        if self.trust is None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(ANSWER_SECONDS)
            sock.connect(str(self.agent.socket))
            return sock
        host, _, port = self.agent.url.removeprefix("https://").partition(":")
        plain = socket.create_connection((host, int(port)), ANSWER_SECONDS)
        return self.trust.wrap_socket(plain, server_hostname=host)

    def head(self, method: str, path: str, **headers: object) -> bytes:
        """The head of a request, as a client that means it sends it."""
        known = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in {**known, **headers}.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    @property
    def is_open(self) -> bool:
        """Whether whoever comes by it is known."""
        return self.trust is None or self.token == TOKEN


@dataclass(frozen=True)
class Told:
    """What a client was answered: for which operation of the description, and the status."""

    asked: str
    path: str
    status: int


@dataclass
class Burst:
    """What the clients of one run share."""

    doors: list[Door]
    order: dict[str, Any]
    told: list[Told] = field(default_factory=list)

    def ask(self, door: Door, method: str, path: str, body: bytes = b"", asked: str = "") -> Told:
        """One whole request and its answer."""
        more = {"Content_Type": "application/json", "Content_Length": len(body)} if body else {}
        with door.connect() as sock:
            sock.sendall(door.head(method, path, **more) + body)
            told = Told(asked or method, path.partition("?")[0], _status_of(sock))
        self.told.append(told)
        return told


Client = Callable[[Burst, Door, random.Random], None]


def _status_of(sock: socket.socket, method: str = "GET") -> int:
    """Of the answer, which has to be JSON where it is an error."""
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    if response.status >= 400:
        document = json.loads(response.read())
        assert {"class", "message", "errorCode"} <= document.keys(), document
    return response.status


# -- the clients -----------------------------------------------------------------------------------------------------


def _post(burst: Burst, door: Door, chance: random.Random) -> None:
    order = burst.order
    if chance.random() < 0.2:
        order = order | {chance.choice(list(order)): chance.choice([None, 7, "", [], {}, "x" * 70 * KiB])}
    burst.ask(door, "POST", DEPLOYMENT, json.dumps(order).encode())


def _delete(burst: Burst, door: Door, chance: random.Random) -> None:
    time.sleep(chance.random())
    burst.ask(door, "DELETE", DEPLOYMENT)


def _read(burst: Burst, door: Door, chance: random.Random) -> None:
    paths = (
        DEPLOYMENT,
        "/v1/status",
        "/v1/disks",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/auth/time",
        "/1.0/auth/time",
    )
    for _ in range(chance.randrange(1, 6)):
        burst.ask(door, "GET", chance.choice(paths))


def _elsewhere(burst: Burst, door: Door, chance: random.Random) -> None:
    paths = (
        "/",
        "/v1",
        "/v1/status/",
        f"{DEPLOYMENT}/..",
        DEPLOYMENT.replace(NAME, "other"),
        "/%00",
        "/v1/status?since=x",
    )
    burst.ask(
        door, chance.choice(["GET", "PUT", "PATCH", "OPTIONS", "FOO"]), chance.choice(paths), asked="anything"
    )


def _wait(burst: Burst, door: Door, chance: random.Random) -> None:
    burst.ask(door, "GET", f"/v1/status?since={chance.randrange(99)}&wait={chance.random():.1f}")


def _follow(_: Burst, door: Door, chance: random.Random) -> None:
    """Events, of which it reads little or nothing."""
    with door.connect() as sock:
        sock.sendall(door.head("GET", "/v1/events"))
        time.sleep(chance.random() * 2)
        sock.recv(chance.choice([1, 100, 64 * KiB]))


def _go_away(burst: Burst, door: Door, chance: random.Random) -> None:
    """In the middle of what it says."""
    body = json.dumps(burst.order).encode()
    whole = door.head("POST", DEPLOYMENT, Content_Type="application/json", Content_Length=len(body)) + body
    with door.connect() as sock:
        sock.sendall(whole[: chance.randrange(len(whole) - 1)])
        time.sleep(chance.random())


def _garbage(burst: Burst, door: Door, chance: random.Random) -> None:
    """What is nearly a request, or none at all. It is answered, or the connection ends."""
    body = json.dumps(burst.order).encode()
    whole = door.head("POST", DEPLOYMENT, Content_Type="application/json", Content_Length=len(body)) + body
    said = chance.randbytes(chance.randrange(1, 4 * KiB)) if chance.random() < 0.2 else mutated(whole, chance)
    with door.connect() as sock, suppress(ConnectionError, ssl.SSLError, http.client.HTTPException):
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR) if door.trust is None else None
        sock.settimeout(2)
        with suppress(TimeoutError):
            burst.told.append(Told("anything", "", _status_of(sock)))


def _much(burst: Burst, door: Door, chance: random.Random) -> None:
    """A body that is too long, or says that it is."""
    length = chance.choice([2 * MiB, 64 * MiB, 2**63, 10**30])
    with door.connect() as sock, suppress(ConnectionError, ssl.SSLError):
        sock.sendall(door.head("POST", DEPLOYMENT, Content_Type="application/json", Content_Length=length))
        burst.told.append(Told("anything", "", _status_of(sock)))


CLIENTS: dict[Client, int] = {
    _post: 6, _delete: 3, _read: 8, _elsewhere: 2, _wait: 4, _follow: 3, _go_away: 3, _garbage: 6, _much: 2,
}  # fmt: skip
"""And how often they come."""


# -- a run -----------------------------------------------------------------------------------------------------------


@dataclass
class Life:
    """A daemon, and what is known of it."""

    agent: AgentProcess
    doors: list[Door]
    url: str
    image: Image
    old: bytes
    disk: Path
    idle: list[Holdings] = field(default_factory=list)

    def attempt(self, seed: int) -> str:
        chance = random.Random(seed)
        burst = Burst(self.doors, job(self.url, self.image.sha256))
        drawn = chance.choices(list(CLIENTS), list(CLIENTS.values()), k=chance.randrange(4, MOST_CLIENTS))
        known = [door for door in self.doors if door.is_open]
        with ThreadPoolExecutor(len(drawn)) as threads:
            clients = [
                threads.submit(
                    client,
                    burst,
                    chance.choice(known if chance.random() < 0.8 else self.doors),
                    random.Random(chance.random()),
                )
                for client in drawn
            ]
        for client in clients:
            client.result()
        self._come_to_rest()
        self._judge(burst)
        return (
            "a job was taken"
            if any(told.status == 200 for told in burst.told if told.asked == "POST")
            else "no job was taken"
        )

    def _come_to_rest(self) -> None:
        """Whatever was going on is deleted, by the API."""
        ends = time.monotonic() + END_SECONDS
        while (answer := self.agent.delete()).status not in (200, 404):
            assert time.monotonic() < ends, answer
            time.sleep(0.1)
        assert self.agent.get(DEPLOYMENT).status == 404

    def _judge(self, burst: Burst) -> None:
        described = self.agent.get("/openapi.json").json["paths"]
        for told in burst.told:
            assert _is_described(told, described), told
        assert what_is_on(self.disk, self.old) in ("old", "blank", "headless", "system")
        if what_is_on(self.disk, self.old) == "system":
            content = self.disk.read_bytes()
            assert content[MiB : IMAGE_SIZE - MiB] == self.image.data[MiB:-MiB], "half of a system"
        for line in self.agent.lines:
            assert line["event"] not in ("request_failed", "deploy_crashed"), line
        assert "Traceback" not in self.agent.log, self.agent.log[-4000:]
        self._hold_no_more()

    def _hold_no_more(self) -> None:
        assert self.agent.process is not None
        time.sleep(0.3)  # for the connections of whoever has gone
        self.idle.append(holdings_of(self.agent.process.pid))
        warm, now = self.idle[min(WARM_UP, len(self.idle) - 1)], self.idle[-1]
        shown = f"warm: {warm.summary()}; now: {now.summary()}"
        assert len(now.files) - len(warm.files) <= MORE_FILES, shown
        assert now.threads - warm.threads <= MORE_THREADS, shown
        assert now.resident - warm.resident <= MORE_MEMORY, shown


def _is_described(told: Told, paths: dict[str, Any]) -> bool:
    """Whether the description knows this answer. What nobody asks is refused, but never as a fault of the daemon."""
    if told.asked == "anything":
        return told.status < 500 or told.status == 503
    path = told.path.removeprefix("/1.0").replace(NAME, "{serviceName}")
    return str(told.status) in paths[path][told.asked.lower()]["responses"]


def prepare(directory: Path) -> None:
    make_image(directory, IMAGE_SIZE)
    make_old_disk(directory, DISK_SIZE)


@contextmanager
def opened(directory: Path) -> Iterator[Try]:
    """A daemon for all runs of a process, until one of them fails."""
    authority = trustme.CA()
    shared = directory / "shared"
    image = Image(shared / "image.raw")
    old = (shared / "old.raw").read_bytes()
    disk = directory / "disk.raw"
    disk.write_bytes(old)
    data = image.data
    with ExitStack() as stack:
        server = stack.enter_context(serving(lambda request: request.file(data, pause=0.01)))
        agent = stack.enter_context(
            agent_process(directory / "agent", disks=(disk,), config=_configuration(directory, authority))
        )
        agent.start(seconds=END_SECONDS)
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        doors = [
            Door(agent),
            *(Door(agent, trust, token) for token in (TOKEN, "wrong-wrong-wrong-wrong", None)),
        ]
        yield Life(agent, doors, server.url, image, old, disk).attempt


def _configuration(directory: Path, authority: trustme.CA) -> str:
    """A TLS listener that takes a token."""
    cert = authority.issue_cert("127.0.0.1")
    files = {
        "tls_cert": cert.cert_chain_pems[0].bytes(),
        "tls_key": cert.private_key_pem.bytes(),
        "token_file": TOKEN.encode(),
    }
    lines = ["[api]", 'socket = "@SOCKET@"', 'listen = "127.0.0.1:0"']
    for option, content in files.items():
        path = directory / option
        path.write_bytes(content)
        path.chmod(0o600)
        lines.append(f'{option} = "{path}"')
    return "\n".join(lines) + "\n"
