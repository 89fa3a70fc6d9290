"""Real servers on loopback for the transfer tests: one that misbehaves as told, over plain TCP or TLS."""

import asyncio
import random
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import trustme

from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.source import HttpSource
from agent.transfer.source import TransferRestart

PHRASES = {200: "OK", 206: "Partial Content", 302: "Found", 404: "Not Found", 503: "Service Unavailable"}


@dataclass
class Exchange:
    """One request, and what the handler does about it."""

    server: "RawServer"
    connection: socket.socket
    number: int
    target: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return values[0] if values else None

    @property
    def start(self) -> int:
        """The first byte asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.header("Range") or "")
        return int(match[1]) if match else 0

    def head(self, status: int, headers: dict[str, object] | None = None) -> None:
        lines = [f"HTTP/1.1 {status} {PHRASES.get(status, 'Whatever')}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    def send(self, data: bytes | memoryview) -> None:
        self.connection.sendall(data)

    def reply(self, status: int, headers: dict[str, object] | None = None, body: bytes = b"") -> None:
        self.head(status, {"Content-Length": len(body)} | (headers or {}))
        self.send(body)

    def file(self, data: bytes, *, upto: int | None = None, etag: str = '"v1"', **more: object) -> None:
        """Serve a file as a well-behaved server does, but only up to some offset."""
        headers: dict[str, object] = {"ETag": etag, "Accept-Ranges": "bytes"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.header("Range") or "")
        if asked is None or self.header("If-Range") not in (None, etag):
            self.head(200, headers | {"Content-Length": len(data)})
            self.send(memoryview(data)[:upto])
            return
        start, stop = int(asked[1]), int(asked[2] or len(data) - 1) + 1
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}", "Content-Length": stop - start}
        self.head(206, headers)
        self.send(memoryview(data)[start : stop if upto is None else min(stop, upto)])

    def hold(self) -> None:
        """Say nothing more until the client goes away or the server stops."""
        while not self.server.stopping.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                with suppress(OSError):
                    if self.connection.recv(4096):
                        continue
                return

    def reset(self) -> None:
        """Close with a RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


Handler = Callable[[Exchange], None]


@dataclass
class RawServer:
    """Answers each connection's one request by calling the handler in a thread."""

    handler: Handler
    context: ssl.SSLContext | None = None
    family: socket.AddressFamily = socket.AF_INET
    requests: list[Exchange] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        address = "127.0.0.1" if self.family == socket.AF_INET else "::1"
        self.listener = socket.create_server((address, 0), family=self.family)
        self.port: int = self.listener.getsockname()[1]
        self.host = address if self.family == socket.AF_INET else f"[{address}]"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def url(self, path: str = "/image") -> str:
        return f"{'https' if self.context else 'http'}://{self.host}:{self.port}{path}"

    def _accept(self) -> None:
        while not self.stopping.is_set():
            if not select.select([self.listener], [], [], 0.02)[0]:
                continue
            connection, _ = self.listener.accept()
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(20)
            stream = self.context.wrap_socket(connection, server_side=True) if self.context else connection
            with stream:
                exchange = self._read_request(stream)
                if exchange is not None:
                    self.handler(exchange)

    def _read_request(self, stream: socket.socket) -> Exchange | None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = stream.recv(4096)
            if not piece:
                return None
            head += piece
        first, *lines = head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        headers = [(line.partition(":")[0], line.partition(":")[2].strip()) for line in lines]
        exchange = Exchange(self, stream, len(self.requests), first.split()[1], headers)
        self.requests.append(exchange)
        return exchange

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(25)
        self.listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    """Start servers: serve(handler), with context= for TLS and family= for IPv6."""
    servers = []

    def start(handler: Handler, **options) -> RawServer:
        servers.append(RawServer(handler, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@dataclass
class Probe:
    """A source with what it told while it worked."""

    source: HttpSource
    sleeps: list[float]
    events: list[tuple[str, dict]]
    restarts: int = 0

    def event(self, name: str) -> list[dict]:
        return [details for event, details in self.events if event == name]

    async def read(self, chunk: int = 65536, pause: float = 0.0) -> bytes:
        """Open and read to the end, beginning anew when told to."""
        await self.source.open()
        data = bytearray()
        buffer = memoryview(bytearray(chunk))
        while True:
            try:
                count = await self.source.fill(buffer)
            except TransferRestart:
                self.restarts += 1
                data.clear()
                continue
            data += buffer[:count]
            if count < chunk:
                return bytes(data)
            if pause:
                await asyncio.sleep(pause)


PATIENT = HttpLimits(connect_seconds=10, head_seconds=10, stall_seconds=10, window_seconds=10)


@pytest.fixture
async def probe():
    """Make sources that never really sleep between attempts."""
    probes: list[Probe] = []

    def make(url: str, *, limits: HttpLimits = PATIENT, **options) -> Probe:
        sleeps: list[float] = []
        events: list[tuple[str, dict]] = []

        async def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            await asyncio.sleep(0)

        source = HttpSource(
            url,
            limits=limits,
            sleep=sleep,
            on_event=lambda event, details: events.append((event, dict(details))),
            rng=random.Random(7),
            **options,
        )
        probes.append(Probe(source, sleeps, events))
        return probes[-1]

    yield make
    for one in probes:
        await one.source.close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def content() -> bytes:
    return random.Random(20).randbytes(300_000)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def tls(authority) -> ssl.SSLContext:
    """A server's context with a certificate for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def chain_text(error: BaseException) -> str:
    """All that an exception and what hangs on it can show."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    parts = []
    for one in seen:
        parts += [str(one), repr(one), repr(one.args), repr(vars(one)), *getattr(one, "__notes__", ())]
    return "\n".join(parts)


@pytest.fixture
def show_all() -> Callable[[BaseException], str]:
    return chain_text
