"""`/v1/disks` where the inventory does not come."""

import threading
from unittest.mock import sentinel

import aiohttp
import pytest

from agent.aio import run_blocking
from agent.service.api.app import Parts, make_app
from agent.service.api.auth import Authenticator
from agent.service.config.model import Config
from agent.service.http.request_body import BodyReader
from agent.service.http.server import serve
from agent.service.http.sockets import listen_unix
from agent.service.jobs.audit import Failures
from agent.service.jobs.publisher import StatusPublisher


@pytest.fixture
def gate():
    gate = threading.Event()
    yield gate
    gate.set()


async def test_an_inventory_that_hangs_is_told_and_comes_when_it_can(tmp_path, gate):
    def read(_contents):
        assert gate.wait(60)
        return {"disks": [], "groups": []}

    bodies = BodyReader()
    parts = Parts(
        config=Config(service_name="ns1.example.net"),
        slot=sentinel.no_deployment,
        publisher=StatusPublisher({"status": None}),
        authenticator=Authenticator(
            None, accept_client_certificates=False, ovh=None, bodies=bodies, failures=Failures()
        ),
        bodies=bodies,
        disks=read,
        disks_seconds=0.05,
    )
    path = str(tmp_path / "s")
    connector = aiohttp.UnixConnector(path)
    async with (
        serve(make_app(parts), [await run_blocking(listen_unix, path)], shutdown_seconds=0.1),
        aiohttp.ClientSession("http://localhost", connector=connector) as session,
    ):
        for _ in range(2):
            async with session.get("/v1/disks") as answer:
                document = await answer.json()
                assert (answer.status, document["errorCode"]) == (503, "INVENTORY_HANGS")
                assert "has not come in 0.05 s" in document["message"]
                assert answer.headers["Retry-After"] == "10"
        gate.set()
        status = 503
        while status == 503:
            async with session.get("/v1/disks") as answer:
                status = answer.status
                document = await answer.json()
    assert (status, document) == (200, {"disks": [], "groups": []})
