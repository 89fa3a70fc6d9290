"""A front for Ironic in this process, an API that answers what the test says, and deployments that do so too."""

import asyncio
import functools
import json
import random
import ssl
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agent.aio import run_blocking
from agent.service.config.model import Config, load_config
from agent.service.ironic.front import IronicFront
from agent.service.jobs.audit import Failures
from tests.unit.service.jobs.conftest import Agent, make_agent  # noqa: F401 - a fixture

NODE = "12345678-1234-5678-1234-567812345678"
TOKEN = "t0ken" * 8
URL = "http://127.0.0.1:9/image.raw"


@dataclass
class FakeIronic:
    """Ironic's API. Each of its answers can be replaced: status and document."""

    url: str = ""
    root: tuple[int, Any] = (200, {"default_version": {"version": "1.109"}})
    lookup: tuple[int, Any] = (
        200,
        {"node": {"uuid": NODE}, "config": {"agent_token": TOKEN, "heartbeat_timeout": 3}},
    )
    heartbeat: tuple[int, Any] = (202, None)
    inspection: tuple[int, Any] = (202, {"uuid": NODE})
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        self.asked.append(request.path)
        name = request.path.removeprefix("/v1/").partition("/")[0] or "root"
        name = {"continue_inspection": "inspection"}.get(name, name)
        if name == "heartbeat":
            self.heartbeats.append(await request.json())
        status, document = getattr(self, name)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        return web.json_response(document, status=status)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for requests until something holds."""
        async with asyncio.timeout(30):
            while not holds():
                await self.changed.wait()

    async def order(self, name: str, **params: Any) -> dict[str, Any]:
        """Post a command to the agent of the last heartbeat."""
        status, document = await self.call("POST", "?wait=false", {"name": name, "params": params})
        assert status == 200, document
        return document

    async def commands(self) -> list[dict[str, Any]]:
        """The agent's list."""
        _, document = await self.call("GET")
        return document["commands"]

    async def call(
        self, method: str, path: str = "?", document: Any = None, token: str = TOKEN
    ) -> tuple[int, Any]:
        """Ask the agent, by the certificate that it has told."""
        last = self.heartbeats[-1]
        context = await run_blocking(ssl.create_default_context, cadata=last["agent_verify_ca"])
        url = f"{last['callback_url']}/v1/commands/{path}&agent_token={token}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, json=document, ssl=context) as response,
        ):
            return response.status, await response.json()


@asynccontextmanager
async def fake_ironic(tls: ssl.SSLContext | None = None):
    """An Ironic that knows this machine, and takes every heartbeat; by https where it has a certificate."""
    fake = FakeIronic()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    fake.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def ironic():
    """The same, by http."""
    async with fake_ironic() as fake:
        yield fake


@pytest.fixture
def configure(tmp_path, ironic) -> Callable[..., Config]:
    """The configuration, with more members of `[ironic]`, or with words of the kernel command line."""
    disk = tmp_path / "disk.img"
    disk.touch()

    def configure(*, disks: Sequence[Path] = (disk,), cmdline: str = "", **more: object) -> Config:
        members = {"url": ironic.url, "listen": "127.0.0.1:0", "advertise": "127.0.0.1"} | more
        lines = "\n".join(f'{key} = "{value}"' for key, value in members.items() if value is not None)
        path = tmp_path / "agent.toml"
        group = f"[[disk_group]]\nid = 1\ndisks = {json.dumps([str(path) for path in disks])}\n"
        path.write_text(f'service_name = "n"\n[ironic]\n{lines}\n{group}')
        path.chmod(0o644)
        return load_config(str(path), cmdline=cmdline, credentials=None)

    return configure


@pytest.fixture
def run_front(make_agent, configure):  # noqa: F811 - the fixture
    """A function: a context with an agent whose front runs, which is cancelled at the end."""

    @asynccontextmanager
    async def run(**more: object):
        config = await run_blocking(functools.partial(configure, **more))
        async with make_agent() as agent:
            front = IronicFront(
                config,
                config.ironic,
                agent.slot,
                agent.store,
                agent.publisher,
                Failures(),
                rng=random.Random(1),
            )
            task = asyncio.ensure_future(front.run())  # noqa: TID251
            try:
                yield agent
            finally:
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled() or task.exception() is None, task.exception()

    return run
