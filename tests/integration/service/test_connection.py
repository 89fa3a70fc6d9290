"""One connection: heads that cannot be taken, clients that close their half or go, and answers that no handler made."""

import asyncio
import logging
import socket
import ssl
import time
from contextlib import suppress

import pytest

from agent.aio import run_blocking
from agent.service.http.limits import Limits
from tests.integration.service.clients import FOREVER, HEALTH, HELD, closes, until
from tests.integration.service.conftest import ROUTE, TOKEN, Site, error_of


async def test_what_is_sent_ahead_of_an_answer_is_bounded(start):
    post = b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    async with start() as site:
        reader, writer = await site.open_unix(post)
        await until(lambda: site.server.connections == 1)
        for _ in range(100):
            writer.write(post + bytes(16 * 1024))
            await asyncio.sleep(0.01)
        assert await closes(reader) == b""
        site.gate.set()
        await until(lambda: site.server.connections == 0)


async def test_a_handler_that_outlives_its_client_is_counted(start):
    async with start() as site:
        _, writer = await site.open_unix(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: site.server.connections == 1)
        await asyncio.sleep(0.1)  # until its handler waits
        writer.transport.abort()
        await asyncio.sleep(0.1)
        assert site.server.connections == 1
        site.gate.set()
        await until(lambda: site.server.connections == 0)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 200 + b"\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\n{}",
    ],
    ids=[
        "long line",
        "long header",
        "many headers",
        "nonsense",
        "negative length",
        "two lengths",
        "length twice",
        "length listed twice",
    ],
)
async def test_a_head_that_cannot_be_taken_is_answered_with_an_object(start, request_bytes):
    async with start() as site:
        reader, _ = await site.open_unix(request_bytes)
        error = await error_of(reader)
        assert (error["status"], error["class"], error["errorCode"]) == (
            400,
            "Client::BadRequest",
            "BAD_REQUEST",
        )
        assert await closes(reader) == b""


async def test_a_head_that_grows_without_end_is_closed(start):
    async with start() as site:
        reader, writer = await site.open_unix(b"GET / HTTP/1.1\r\n")
        for number in range(100):
            writer.write(f"X-{number}: ".encode() + b"a" * 4000 + b"\r\n")
            await asyncio.sleep(0.002)
        assert await closes(reader) == b""


async def test_a_client_that_sends_no_more_is_answered_all_that_it_asked(start):
    async with start() as site:
        for asked in (1, 2, 40):  # aiohttp holds 32 of them
            reader, writer = await site.open_unix(HEALTH * asked)
            writer.write_eof()
            assert (await closes(reader)).count(b"HTTP/1.1 200 OK") == asked
        await until(lambda: site.server.connections == 0)


async def test_an_answer_that_takes_its_time_comes_to_a_client_that_sends_no_more(start):
    async with start() as site:
        reader, writer = await site.open_unix(HELD)
        writer.write_eof()
        await asyncio.sleep(0.1)  # until its handler waits
        site.gate.set()
        assert b"HTTP/1.1 200 OK" in await closes(reader)
        await until(lambda: site.server.connections == 0)


@pytest.mark.parametrize(
    "first", [b"", HEALTH[:-2], b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12"]
)
async def test_what_will_never_be_complete_is_closed_at_once(start, first):
    async with start(limits=Limits(request_seconds=FOREVER, idle_seconds=FOREVER)) as site:
        reader, writer = await site.open_unix(first)
        writer.write_eof()
        assert b"200" not in await closes(reader)
        await until(lambda: site.server.connections == 0)


async def test_a_client_that_closes_its_other_half_too_is_noticed(start):
    limits = Limits(request_seconds=FOREVER, idle_seconds=FOREVER, answer_seconds=FOREVER)
    async with start(limits=limits) as site:
        _, writer = await site.open_unix(b"GET /long_wait HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.write_eof()
        await asyncio.sleep(0.1)  # until its handler waits
        assert site.server.connections == 1
        writer.transport.abort()
        await until(lambda: site.server.connections == 0)


def ask_and_end(site: Site, version: ssl.TLSVersion, *, politely: bool) -> bytes:
    """Ask for what takes its time, send no more, and have it answered then; all that still comes."""
    context = site.tls()
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        client.write(HELD.replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()))
        connection.sendall(outgoing.read())
        time.sleep(0.2)  # until its handler waits
        if politely:
            with suppress(ssl.SSLWantReadError):
                client.unwrap()  # sends close_notify
            connection.sendall(outgoing.read())
        else:
            connection.shutdown(socket.SHUT_WR)
        time.sleep(0.2)  # until its end has come
        site.loop.call_soon_threadsafe(site.gate.set)
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                incoming.write(data)
        try:
            return client.read()
        except (ssl.SSLZeroReturnError, ssl.SSLWantReadError, ssl.SSLEOFError):
            return b""


@pytest.mark.parametrize("politely", [True, False], ids=["close_notify", "end of TCP"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_over_tls_a_client_that_sends_no_more_is_answered_nothing_more(start, version, politely):
    """asyncio's TLS drops what is written after the client's end; docs/api.md says so."""
    async with start() as site:
        assert await run_blocking(lambda: ask_and_end(site, version, politely=politely)) == b""
        await until(lambda: site.server.connections == 0)


def ask_much_and_end(site: Site) -> socket.socket:
    """Blocking, so that what is logged is the server's: asyncio logs in the client's part too."""
    plain = socket.create_connection(("127.0.0.1", site.port))
    client = site.tls().wrap_socket(plain, server_hostname="127.0.0.1")
    waits = HELD.replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    client.sendall(waits + HEALTH * 60)  # more than aiohttp takes ahead
    time.sleep(0.2)
    client.shutdown(socket.SHUT_WR)  # of TCP: TLS says nothing of it
    return client


async def test_one_who_asks_much_and_waits_for_no_answer_is_no_event(start, caplog):
    async with start() as site:
        client = await run_blocking(ask_much_and_end, site)
        await asyncio.sleep(0.2)  # until its end has come
        site.gate.set()
        await until(lambda: site.server.connections == 0)
        client.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == []


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "code"),
    [
        ("GET /nowhere", "", 404, "NOT_FOUND"),
        (f"PATCH {ROUTE}", "", 405, "METHOD_NOT_ALLOWED"),
        ("GET /healthz", "Expect: miracles\r\n", 417, "EXPECTATION_FAILED"),
        ("GET /crash?secret=hunter2", "", 500, "INTERNAL_ERROR"),
    ],
)
async def test_every_refusal_is_an_object(start, request_line, headers, status, code, capsys, caplog):
    async with start() as site:
        reader, _ = await site.open_unix(f"{request_line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        error = await error_of(reader)
    assert (error["status"], error["errorCode"], error["details"]) == (status, code, {})
    if status == 405:
        assert "POST" in error["headers"]["allow"]
    logged = capsys.readouterr()
    everything = logged.out + logged.err + caplog.text + str(error["message"])
    assert "hunter2" not in everything
    assert "Traceback" not in everything
    if status == 500:
        assert "ValueError" in logged.out


async def test_a_stream_that_fails_breaks_off(start):
    async with start() as site:
        reader, _ = await site.open_unix(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
        everything = await closes(reader)
    assert everything.endswith(b"begun")
    assert everything.count(b"HTTP/1.1") == 1
