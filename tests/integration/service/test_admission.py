"""How many may be connected, and who keeps whom out: over real sockets, with small limits."""

import asyncio
import os
import resource
import socket

import pytest

from agent.service.http.limits import Limits
from agent.service.http.quotas import Quotas
from tests.integration.service.clients import FOREVER, HEALTH, KNOWN, closes, healthy, until
from tests.integration.service.conftest import TOKEN, Site, answer_of, error_of

FOLLOW = f"GET /followed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
FEW = Quotas(network=8, local=4, root=2)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


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
    path = tmp_path
    while path.stat().st_mode & 0o1000 == 0 and path != path.parent:  # up to /tmp
        path.chmod(path.stat().st_mode | 0o055)
        path = path.parent
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
