"""What clients that are slow, idle or silent can do to the listeners, over real sockets, with short limits."""

import asyncio

import pytest

from agent.service.http.limits import Limits
from tests.integration.service.clients import FOREVER, HEALTH, QUICK, closes, until
from tests.integration.service.conftest import ROUTE, TOKEN, answer_of


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
