"""`poll_load.py OPTIONS-AS-JSON`: many clients that follow a daemon, in a process of their own.

They are as cheap as clients can be (a protocol each, no HTTP library), so that what is measured is the daemon. Prints
"ready" when all are connected and have been answered once; when its stdin closes, what they got, as JSON.
"""

import asyncio
import json
import random
import resource
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

DEPLOYMENT = "/dedicated/server/bench/bringYourOwnImage"
PAUSE = (1.0, 2.0)
"""Seconds between the answer and the next request of a client that polls."""
WAIT = 30


class Load:
    """What all clients share."""

    def __init__(self) -> None:
        self.answers = 0
        self.events = 0
        self.latencies: list[float] = []
        self.lost = 0
        self.rng = random.Random(1)


class Client(asyncio.Protocol):
    """One connection. `head` is all of a request behind its path."""

    def __init__(self, load: Load, head: bytes) -> None:
        self.load = load
        self.head = head
        self.first = asyncio.get_running_loop().create_future()
        self._asked = 0.0
        self._got = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.lost += 1

    def path(self) -> str:
        return DEPLOYMENT

    def ask(self) -> None:
        if not self.transport.is_closing():
            self._asked = time.monotonic()
            self.transport.write(f"GET {self.path()} HTTP/1.1\r\n".encode() + self.head)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        length = self._got[:end].lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        if len(self._got) >= end + 4 + int(length):
            body = bytes(self._got[end + 4 :])
            self._got.clear()
            self.load.answers += 1
            self.answered(body, time.monotonic() - self._asked)
            if not self.first.done():
                self.first.set_result(None)

    def answered(self, body: bytes, seconds: float) -> None:
        self.load.latencies.append(seconds)
        asyncio.get_running_loop().call_later(self.load.rng.uniform(*PAUSE), self.ask)


class LongPoller(Client):
    """Asks for the next revision, at once after each."""

    since = 0

    def path(self) -> str:
        return f"/v1/status?since={self.since}&wait={WAIT}"

    def answered(self, body: bytes, seconds: float) -> None:
        at = body.rindex(b'"revision": ') + 12
        self.since = int(body[at:].partition(b"}")[0].partition(b",")[0])
        self.ask()


class Subscriber(Client):
    """Reads the stream of events."""

    def path(self) -> str:
        return "/v1/events"

    def data_received(self, data: bytes) -> None:
        self.load.events += data.count(b"\n\n")
        if not self.first.done():
            self.first.set_result(None)


KINDS: dict[str, Callable[[Load, bytes], Client]] = {
    "poll": Client,
    "longPoll": LongPoller,
    "events": Subscriber,
}


async def main(options: dict[str, Any]) -> None:
    """Connect all, and wait for the end."""
    loop = asyncio.get_running_loop()
    load = Load()
    head = f"Host: localhost\r\nAuthorization: Bearer {options['token']}\r\n\r\n".encode()
    context = ssl.create_default_context(cafile=options["ca"])
    clients = []
    for kind, count in options["clients"].items():
        for number in range(count):

            def make(kind: str = kind) -> Client:
                return KINDS[kind](load, head)

            if number % 2:
                _, client = await loop.create_connection(make, "127.0.0.1", options["port"], ssl=context)
            else:
                _, client = await loop.create_unix_connection(make, options["socket"])
            clients.append(client)
    await asyncio.wait([client.first for client in clients])
    load.answers = load.events = load.lost = 0
    load.latencies.clear()
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    latencies = sorted(load.latencies) or [0.0]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "answers": load.answers,
                "events": load.events,
                "lost": load.lost,
                "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "median": latencies[len(latencies) // 2],
                "p99": latencies[int(len(latencies) * 0.99)],
            }
        ),
        flush=True,
    )
    for client in clients:
        client.transport.abort()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
