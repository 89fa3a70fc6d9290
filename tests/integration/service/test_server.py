"""The server as a whole: its end, its certificates, a listener that fails, handshakes that break off."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent.aio import run_blocking
from agent.service.http.limits import Limits
from agent.service.http.middleware import json_errors
from agent.service.http.server import serve
from agent.service.http.sockets import ListeningSocket, listen_unix
from tests.integration.service.clients import FOREVER, HEALTH, KNOWN, until
from tests.integration.service.conftest import TOKEN, Site, answer_of, write_cert


async def test_at_the_end_nothing_is_left(start):
    async with start(limits=Limits(request_seconds=FOREVER)) as site:
        _, _ = await site.open_unix(HEALTH[:-2])
        _, writer = await site.open_unix(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.transport.pause_reading()
        _, _ = await site.open_tls(
            f"POST /held HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await until(lambda: site.server.connections == 3)
        path = site.path
    assert site.server.connections == 0
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(path)


async def test_a_failure_inside_comes_out_as_it_is(start):
    with pytest.raises(ZeroDivisionError):
        async with start():
            raise ZeroDivisionError


async def test_renewed_certificates_are_used_after_a_reload(start, ca, tmp_path, tls_files):
    async def serial(site: Site) -> str:
        _, writer = await site.open_tls()
        return writer.get_extra_info("peercert")["serialNumber"]

    async with start() as site:
        first = await serial(site)
        await run_blocking(write_cert, ca, tmp_path)
        assert await serial(site) == first
        await run_blocking(site.certificates.load, tls_files)
        assert await serial(site) != first


async def test_a_listener_that_cannot_accept_leaves_the_others_their_loop(tmp_path):
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(None)

    app = web.Application()
    app.router.add_get("/healthz", answer)
    broken = socket.socket(socket.AF_UNIX)  # it does not listen: each accept fails at once
    broken.settimeout(0)
    path = str(tmp_path / "s")
    with capture_logs() as logs:
        async with serve(
            app, [ListeningSocket(broken, "broken", local=True), await run_blocking(listen_unix, path)]
        ):
            for _ in range(3):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(HEALTH)
                assert (await answer_of(reader))[0] == 200
                writer.close()
                await asyncio.sleep(0.4)
    assert [line["listener"] for line in logs if line["event"] == "accept_failed"] == ["broken"]


async def test_a_client_that_leaves_while_it_is_written_to_is_no_fault_of_ours(tmp_path):
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        request.transport.abort()  # as after a reset: the loop tells of the end in its next turn, and not yet
        await response.write(b"more")
        return response

    app = web.Application(middlewares=[json_errors])
    app.router.add_get("/healthz", stream)
    path = str(tmp_path / "s")
    with capture_logs() as logs:
        async with serve(app, [await run_blocking(listen_unix, path)]):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(HEALTH)
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []


def leave_at(site: Site, cut: int) -> None:
    """Begin a TLS connection by hand, and reset it when so many bytes have been sent; or right after the handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = site.tls().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left = cut
        while left > 0:
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
                left = 0
            data = outgoing.read()[: max(left, 1)]
            connection.sendall(data)
            left -= len(data)
            if left > 0:
                incoming.write(connection.recv(65536))


@pytest.mark.parametrize("tail", [0, 1, 40], ids=["hello", "finished", "late"])
async def test_clients_that_leave_within_the_handshake_end_no_other_connection(start, tail):
    async with start() as site:
        held, _ = await site.open_tls(KNOWN)
        await answer_of(held)
        for cut in range(1 + tail * 30, 600 + tail * 30, 37):
            await run_blocking(leave_at, site, cut)
        reader, _ = await site.open_tls(HEALTH)
        assert (await answer_of(reader))[0] == 200
