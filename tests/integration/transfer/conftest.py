"""A server that misbehaves as told, over plain TCP or TLS, and sources that tell what they did."""

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import trustme

from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.source import HttpSource
from agent.transfer.source import TransferRestart
from tests.kit.server import Server, serving


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers: serve(answer), with tls= a context and address= one of IPv6."""
    with ExitStack() as stack:
        yield lambda answer, **options: stack.enter_context(serving(answer, **options))


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

    def make(
        url: str,
        *,
        limits: HttpLimits = PATIENT,
        headers=(),
        ca_file: str | None = None,
        clock=time.monotonic,
        **more,
    ) -> Probe:
        sleeps: list[float] = []
        events: list[tuple[str, dict]] = []

        async def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            await asyncio.sleep(0)

        options = HttpOptions(
            headers=headers,
            ca_file=ca_file,
            limits=limits,
            sleep=sleep,
            clock=clock,
            on_event=lambda event, details: events.append((event, dict(details))),
            rng=random.Random(7),
        )
        source = HttpSource(url, options, **more)
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
