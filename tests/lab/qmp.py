"""QEMU's machine protocol: commands and events over a Unix socket (QEMU Machine Protocol specification, 2.1 to 2.5).

One task at a time may talk. Events that arrive meanwhile are kept until somebody asks for them.
"""

import asyncio
import json
from pathlib import Path
from typing import Any


class QmpError(Exception):
    """QEMU refused a command."""


class QmpClosed(Exception):
    """QEMU is gone."""


class Qmp:
    """A session. `events` holds every event seen so far, oldest first."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.events: list[dict[str, Any]] = []

    @classmethod
    async def connect(cls, path: Path) -> "Qmp":
        """Greet the QEMU that listens there.

        Raises:
            OSError: nobody listens.
        """
        reader, writer = await asyncio.open_unix_connection(path, limit=16 * 2**20)
        session = cls(reader, writer)
        await session._receive()  # the greeting
        await session.execute("qmp_capabilities")
        return session

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command (underscores in names of arguments stand for hyphens); gives its result.

        Raises:
            QmpError: QEMU's own words, and the command.
            QmpClosed: QEMU ended before it answered.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self.send(command, named)

    async def send(self, command: str, arguments: dict[str, Any]) -> Any:
        """The same for names that cannot be keywords here."""
        try:
            self._writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            await self._writer.drain()
        except ConnectionError:
            raise QmpClosed(command) from None
        while True:
            answer = await self._receive()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"{command} {arguments}: {answer['error']['desc']}")

    async def wait_event(self, name: str) -> dict[str, Any]:
        """The first event of this name that has not been taken yet."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            await self._receive()

    async def drain(self) -> list[dict[str, Any]]:
        """All events of a QEMU that has ended or is about to."""
        try:
            while True:
                await self._receive()
        except QmpClosed:
            return self.events

    async def _receive(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise QmpClosed
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self.events.append(message)
        return message

    async def close(self) -> None:
        """Hang up; QEMU runs on."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
