"""A small application behind the real listeners: the socket, TLS, the authenticator and the server."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from agent.aio import run_blocking
from agent.service.api.auth import CALLER, Authenticator, authenticate
from agent.service.http.connection import long_wait
from agent.service.http.limits import Limits
from agent.service.http.middleware import json_errors
from agent.service.http.request_body import BodyReader
from agent.service.http.request_head import check_request_head
from agent.service.http.server import Server, serve
from agent.service.http.sockets import Certificates, TlsFiles, listen_tls, listen_unix
from agent.service.jobs.audit import Failures

TOKEN = "correct-horse-battery"
DEFAULT = Limits()
NAME = "ns1.example.net"
ROUTE = f"/dedicated/server/{NAME}/bringYourOwnImage"


@dataclass(frozen=True)
class Keys:
    application_key: str = "app-key"
    application_secret: str = "app-secret"
    consumer_key: str = "consumer-key"


@dataclass
class Site:
    """What a test sees of the running server."""

    server: Server
    path: str
    port: int
    ca_file: str
    certificates: Certificates
    bodies: BodyReader
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Posts to /held are answered when it is set."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    """Of the clients that a test opened: closed when the server is."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def tls(self, cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if cert is not None:
            cert.configure_cert(context)
        return context

    async def open_unix(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    async def open_tls(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls())
        self.writers.append(writer)
        writer.write(data)
        return reader, writer


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer with a Content-Length, to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def error_of(reader: asyncio.StreamReader) -> dict:
    """One error answer: it has to be a JSON object with the four members."""
    status, headers, body = await answer_of(reader)
    assert headers["content-type"].startswith("application/json")
    document = json.loads(body)
    assert list(document) == ["class", "message", "errorCode", "details"]
    return document | {"status": status, "headers": headers}


async def closed(reader: asyncio.StreamReader) -> bytes:
    """All that still comes until the other side closes, however it does."""
    try:
        return await reader.read()
    except (ConnectionError, ssl.SSLError):
        return b""


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_files(ca, tmp_path) -> TlsFiles:
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    write_cert(ca, tmp_path)
    return TlsFiles(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), str(tmp_path / "ca.pem"))


def write_cert(ca: trustme.CA, directory: Path) -> None:
    cert = ca.issue_cert("127.0.0.1")
    (directory / "tls.key").write_bytes(cert.private_key_pem.bytes())
    (directory / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))


def make_app(authenticator: Authenticator, bodies: BodyReader, site: Callable[[], Site]) -> web.Application:
    async def take(request: web.Request) -> web.Response:
        body = await bodies.read(request) if request.method == "POST" else b""
        site().seen.append((request.method, request[CALLER].auth_method.value, body))
        return web.json_response(None)

    async def held(request: web.Request) -> web.Response:
        await bodies.read(request)
        await site().gate.wait()
        return web.json_response(None)

    async def waits(request: web.Request) -> web.Response:
        with long_wait(request):
            await site().gate.wait()
        return web.json_response(None)

    async def now(_: web.Request) -> web.Response:
        return web.json_response(int(time.time()))

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def crash(request: web.Request) -> web.Response:
        raise ValueError(f"the secret is {request.query['secret']}")

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(16 * 1024))

    async def broken_stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"begun")
        raise RuntimeError

    async def followed(request: web.Request) -> web.StreamResponse:
        with long_wait(request):
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"begun")
            await site().gate.wait()
        return response

    app = web.Application(middlewares=[json_errors, check_request_head, authenticate(authenticator, bodies)])
    for prefix in ("", "/1.0"):
        app.router.add_get(prefix + "/healthz", healthz)
        app.router.add_get(prefix + "/auth/time", now)
        app.router.add_post(prefix + "/held", held)
        app.router.add_get(prefix + "/long_wait", waits)
        app.router.add_get(prefix + "/crash", crash)
        app.router.add_get(prefix + "/stream", stream)
        app.router.add_get(prefix + "/broken", broken_stream)
        app.router.add_get(prefix + "/followed", followed)
        for method in ("GET", "POST", "DELETE"):
            app.router.add_route(method, prefix + "/dedicated/server/{name}/bringYourOwnImage", take)
    return app


@pytest.fixture
def start(tmp_path, tls_files):
    """Serve: `async with start(token=..., limits=...) as site`."""

    @asynccontextmanager
    async def run(
        *,
        token: str | None = TOKEN,
        ovh: Keys | None = Keys(),
        certificates: bool = True,
        limits: Limits = DEFAULT,
        clock: Callable[[], float] = time.time,
        **bodies_options,
    ) -> AsyncIterator[Site]:
        files = tls_files if certificates else TlsFiles(tls_files.cert, tls_files.key)
        local = await run_blocking(listen_unix, str(tmp_path / "api.sock"))
        remote = await run_blocking(listen_tls, "127.0.0.1", 0, files)
        bodies = BodyReader(**bodies_options)
        authenticator = Authenticator(
            token,
            accept_client_certificates=certificates,
            ovh=ovh,
            bodies=bodies,
            failures=Failures(),
            clock=clock,
        )
        sites: list[Site] = []
        app = make_app(authenticator, bodies, lambda: sites[0])
        async with serve(app, [local, remote], limits, shutdown_seconds=1) as server:
            assert remote.certificates is not None
            assert remote.port is not None
            sites.append(
                Site(server, local.name, remote.port, str(tmp_path / "ca.pem"), remote.certificates, bodies)
            )
            try:
                yield sites[0]
            finally:
                for writer in sites[0].writers:
                    writer.transport.abort()
                await asyncio.sleep(0)

    return run
