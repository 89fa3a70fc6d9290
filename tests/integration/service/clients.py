"""What the clients of these tests send, and how they wait; nothing of the server's."""

import asyncio

from agent.service.http.limits import Limits
from tests.integration.service.conftest import ROUTE, TOKEN, Site, answer_of, closed

HELD = b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Type: application/json\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
KNOWN = f"GET {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
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
