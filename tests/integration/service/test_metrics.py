"""Requests are counted by what they were for, and by what became of them."""

import asyncio
import subprocess
import sys
from pathlib import Path

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from agent.aio import run_blocking
from agent.service.api.metrics import Metrics
from agent.service.http.errors import ApiError
from agent.service.http.middleware import json_errors
from agent.service.http.server import serve
from agent.service.http.sockets import listen_unix
from tests.integration.service.conftest import answer_of


async def test_requests_count_under_their_route_whatever_the_path(tmp_path):
    metrics = Metrics()

    async def take(request: web.Request) -> web.Response:
        if request.match_info["name"] == "other":
            raise ApiError(404, "another server")
        return web.json_response(None)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application(middlewares=[metrics.middleware, json_errors])
    app.router.add_get("/server/{name}", take)
    app.router.add_get("/hang", hang)
    path = str(tmp_path / "s")
    async with serve(app, [await run_blocking(listen_unix, path)], shutdown_seconds=0.1):
        reader, writer = await asyncio.open_unix_connection(path)
        for line in (
            "GET /server/a",
            "GET /server/b",
            "GET /server/other",
            "GET /secret-path",
            "PURGE /server/a",
        ):
            writer.write(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await answer_of(reader)
        writer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await asyncio.sleep(0)
    found = {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text(None, {}).decode())
        for sample in family.samples
        if sample.name == "byoi_http_requests_total"
    }
    assert found == {
        ("GET", "/server/{name}", "200"): 2,
        ("GET", "/server/{name}", "404"): 1,
        ("GET", "none", "404"): 1,
        ("other", "none", "405"): 1,
        ("GET", "/hang", "499"): 1,
    }


def test_the_library_is_never_imported_on_the_event_loop():
    program = """
import asyncio, sys, threading
from agent.service.api.metrics import Metrics, load_library

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "prometheus_client":
            assert threading.current_thread() is not threading.main_thread(), name
            print(name)

async def main():
    sys.meta_path.insert(0, Watch())
    await load_library()
    return Metrics().text(None, {})

assert b"byoi_deployment_active" in asyncio.run(main())
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "prometheus_client.core" in done.stdout
