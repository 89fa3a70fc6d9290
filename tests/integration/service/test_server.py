"""What hostile and clumsy clients can do to the listeners, over real sockets, with small limits."""

import asyncio
import logging
import os
import resource
import socket
import ssl
import struct
import time
from contextlib import suppress

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent.aio import run_blocking
from agent.service.api.limits import Limits
from agent.service.api.quotas import Quotas
from agent.service.api.server import serve
from agent.service.api.sockets import ListeningSocket, listen_unix
from tests.integration.service.conftest import ROUTE, TOKEN, Site, answer_of, closed, error_of, write_cert

HELD = b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Type: application/json\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
QUICK = Limits(request_seconds=1.5, idle_seconds=1.5, answer_seconds=1.5, linger_seconds=0.2)
FOREVER = 3600.0
PATIENCE = 100.0
"""Seconds for what takes none on an idle machine: beside other tests a server may wait for its turn."""


async def healthy(site: Site) -> bool:
    reader, writer = await site.open_unix(HEALTH)
    status, _, _ = await answer_of(reader)
    writer.close()
    return status == 200


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- of the server, seen from outside
            await asyncio.sleep(0.01)


async def closes(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await closed(reader)


@pytest.fixture
def many_descriptors():
    """Both ends of 2,000 connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
async def test_two_thousand_connections_leave_the_limit_and_a_server_that_answers(start):
    limits = Limits(connections=Quotas(network=10, local=290, root=10), request_seconds=FOREVER)
    async with start(limits=limits) as site:
        opened = [await asyncio.open_unix_connection(site.path) for _ in range(2000)]
        await until(lambda: sum(reader.at_eof() for reader, _ in opened) == 1700)
        assert site.server.connections == 300
        for _, writer in opened:
            writer.transport.abort()
        await until(lambda: site.server.connections == 0)
        assert await healthy(site)


# -- who keeps whom out ------------------------------------------------------------------------------------------

KNOWN = f"GET {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
FOLLOW = f"GET /followed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
FEW = Quotas(network=8, local=4, root=2)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


async def open_plain(site: Site, address: str = "127.0.0.1") -> asyncio.StreamReader:
    """A connection to the TLS listener, from an address, on which no handshake is begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, local_addr=(address, 0))
    site.writers.append(writer)
    return reader


async def as_nobody(site: Site, data: bytes = b"") -> asyncio.StreamReader:
    """A connection on the socket by somebody who is not root."""
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)  # noqa: FBT003
    os.seteuid(65534)
    try:
        client.connect(site.path)
    finally:
        os.seteuid(0)
    reader, writer = await asyncio.open_unix_connection(sock=client)
    site.writers.append(writer)
    writer.write(data)
    return reader


@pytest.fixture
def public_directory(tmp_path):
    """Everybody gets at the socket, as its group does."""
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    return tmp_path


async def test_strangers_who_come_back_for_the_health_keep_nobody_out(start):
    """Each asks as soon as it may, on as many connections as there are places, and more."""
    async with start(limits=Limits(connections=FEW, request_seconds=FOREVER)) as site:
        strangers = [await site.open_tls(HEALTH) for _ in range(3 * FEW.network)]
        for reader, _ in strangers:
            _, headers, _ = await answer_of(reader)
            assert headers["connection"] == "close"
            assert await closes(reader) == b""
        reader, _ = await site.open_tls(KNOWN)
        assert (await answer_of(reader))[0] == 200


async def test_strangers_who_say_nothing_give_way_and_who_is_known_stays(start):
    async with start(limits=Limits(connections=FEW, request_seconds=FOREVER)) as site:
        known, writer = await site.open_tls(KNOWN)
        assert (await answer_of(known))[0] == 200
        # Counted before their handshake, and closed within it.
        silent = [await open_plain(site, f"127.0.0.{2 + number % 2}") for number in range(3 * FEW.network)]
        await until(lambda: sum(reader.at_eof() for reader in silent) == 2 * FEW.network + 1)
        await until(lambda: site.server.connections == FEW.network)
        newcomer, _ = await site.open_tls(KNOWN)
        assert (await answer_of(newcomer))[0] == 200
        assert sum(reader.at_eof() for reader in silent) == 2 * FEW.network + 2
        writer.write(KNOWN)
        assert (await answer_of(known))[0] == 200
        assert await healthy(site)


@pytest.mark.parametrize(
    "request_bytes",
    [
        KNOWN.replace(TOKEN.encode(), b"another-token-than-that"),
        KNOWN.replace(b"Authorization", b"X-Nothing"),
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
        HEALTH.replace(b"Host", b"Expect: miracles\r\nHost"),
    ],
    ids=["wrong token", "no token", "nowhere", "nonsense", "expectation"],
)
async def test_a_stranger_gets_one_answer_on_a_connection(start, request_bytes):
    async with start() as site:
        reader, _ = await site.open_tls(request_bytes * 50)
        await error_of(reader)
        assert await closes(reader) == b""


async def test_who_is_known_and_who_is_on_the_socket_may_ask_again(start):
    async with start() as site:
        for opened in (site.open_tls(KNOWN), site.open_unix(KNOWN), site.open_unix(HEALTH)):
            reader, writer = await opened
            assert (await answer_of(reader))[0] == 200
            writer.write(HEALTH)
            assert (await answer_of(reader))[0] == 200


async def test_one_address_cannot_take_the_places_of_the_others(start):
    async with start(limits=Limits(connections=FEW, per_address=3, request_seconds=FOREVER)) as site:
        held = []
        for _ in range(3):
            reader, _ = await site.open_tls(KNOWN)
            assert (await answer_of(reader))[0] == 200
            held.append(reader)
        assert await closes(await open_plain(site)) == b""
        other, writer = await asyncio.open_connection(
            "127.0.0.1", site.port, ssl=site.tls(), local_addr=("127.0.0.2", 0)
        )
        site.writers.append(writer)
        writer.write(KNOWN)
        assert (await answer_of(other))[0] == 200
        assert not any(reader.at_eof() for reader in held)


@as_root
async def test_the_socket_s_group_keeps_out_neither_root_nor_the_network(start, public_directory):
    async with start(limits=Limits(connections=FEW, request_seconds=FOREVER)) as site:
        (public_directory / "api.sock").chmod(0o666)
        held = [await as_nobody(site) for _ in range(FEW.local)]
        assert await closes(await as_nobody(site)) == b""
        for _ in range(FEW.root):
            root, _ = await site.open_unix(HEALTH)
            assert (await answer_of(root))[0] == 200
        reader, _ = await site.open_tls(KNOWN)
        assert (await answer_of(reader))[0] == 200
        assert not any(reader.at_eof() for reader in held)


@as_root
async def test_who_only_listens_keeps_nobody_else_from_listening(start, public_directory):
    async with start(limits=Limits(long_waits=Quotas(network=2, local=2, root=1))) as site:
        (public_directory / "api.sock").chmod(0o666)
        for _ in range(2):
            assert (await answer_of(await as_nobody(site, FOLLOW)))[0] == 200
            reader, _ = await site.open_tls(FOLLOW)
            assert (await answer_of(reader))[0] == 200
        for reader in (await as_nobody(site, FOLLOW), (await site.open_tls(FOLLOW))[0]):
            error = await error_of(reader)
            assert (error["status"], error["errorCode"]) == (503, "TOO_MANY_STREAMS")
            assert error["headers"]["retry-after"] == "5"
        root, writer = await site.open_unix(FOLLOW)
        assert (await answer_of(root))[0] == 200
        assert (await error_of((await site.open_unix(FOLLOW))[0]))["status"] == 503
        # Whoever goes leaves the place to the next.
        writer.transport.abort()
        await until(lambda: site.server.connections == 7)
        again, _ = await site.open_unix(FOLLOW)
        assert (await answer_of(again))[0] == 200


# -- time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first", [b"", b"GET /hea", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12"]
)
async def test_a_request_that_does_not_come_to_its_end_is_closed(start, first):
    async with start(limits=QUICK) as site:
        reader, _ = await site.open_unix(first)
        await closes(reader)
        await until(lambda: site.server.connections == 0)


@pytest.mark.parametrize("way", ["unix", "tls"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ",
        f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9999\r\n\r\n".encode(),
    ],
)
async def test_a_byte_now_and_then_does_not_keep_a_connection(start, head, way):
    async with start(limits=QUICK) as site:
        reader, writer = await (site.open_unix(head) if way == "unix" else site.open_tls(head))

        async def drip() -> None:
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drip())
            assert b"200" not in await closes(reader)
            dripping.cancel()
        assert site.seen == []


async def test_a_second_request_on_a_connection_has_its_own_time(start):
    async with start(limits=QUICK) as site:
        reader, writer = await site.open_unix()
        for _ in range(4):  # longer in all than one request may take
            writer.write(HEALTH[:-2])
            await asyncio.sleep(QUICK.request_seconds / 3)
            writer.write(HEALTH[-2:])
            assert (await answer_of(reader))[0] == 200
        writer.write(HEALTH[:-2])
        assert await closes(reader) == b""


async def test_a_handshake_that_does_not_come_is_closed(start):
    async with start(limits=QUICK) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        assert await closes(reader) == b""
        writer.close()
        await until(lambda: site.server.connections == 0)


async def test_plain_http_on_the_tls_port_is_closed(start):
    async with start() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(HEALTH)
        assert b"HTTP/" not in await closes(reader)
        writer.close()
        await until(lambda: site.server.connections == 0)


async def test_an_idle_connection_is_closed(start):
    async with start(limits=QUICK) as site:
        reader, writer = await site.open_unix()
        for _ in range(3):
            writer.write(HEALTH)
            assert (await answer_of(reader))[0] == 200
        assert await closes(reader) == b""


@pytest.mark.parametrize("way", ["unix", "tls"])
async def test_a_reader_that_stops_is_dropped(start, way):
    get = f"GET /stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    limits = Limits(request_seconds=FOREVER, idle_seconds=FOREVER, answer_seconds=1.5)
    async with start(limits=limits) as site:
        _, writer = await (site.open_unix(get) if way == "unix" else site.open_tls(get))
        writer.transport.pause_reading()
        await until(lambda: site.server.connections == 1)
        await until(lambda: site.server.connections == 0)


async def test_a_reader_that_reads_is_not_dropped(start):
    get = b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"
    async with start(limits=QUICK) as site:
        reader, writer = await site.open_unix(get)
        end = asyncio.get_running_loop().time() + 2 * QUICK.answer_seconds
        while asyncio.get_running_loop().time() < end:
            assert len(await reader.readexactly(64 * 1024)) == 64 * 1024
        writer.transport.abort()


async def test_one_who_reads_no_answer_of_many_requests_is_dropped(start):
    limits = Limits(request_seconds=FOREVER, idle_seconds=FOREVER, answer_seconds=1.5)
    async with start(limits=limits) as site:
        _, writer = await site.open_unix()
        writer.transport.pause_reading()
        for _ in range(10_000):
            if writer.is_closing():
                break
            writer.write(HEALTH * 100)
            await asyncio.sleep(0)
        await until(lambda: site.server.connections == 0)


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


# -- clients that close their half --------------------------------------------------------------------------------


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


# -- answers that no handler made --------------------------------------------------------------------------------


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


# -- the end -----------------------------------------------------------------------------------------------------


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


# -- clients that leave within the handshake ---------------------------------------------------------------------


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
