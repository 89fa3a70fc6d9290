"""A client of the daemon's Unix socket: one connection for each request.

asyncio sends the request and reads the whole answer, so that every wait can be cancelled; http.client of the standard
library parses it. aiohttp would do both, but takes longer to import than the daemon takes to answer.
"""

import asyncio
import contextlib
import errno
import grp
import http.client
import io
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from agent.cli.commands import DEFAULT_SOCKET, SOCKET_VARIABLE
from agent.cli.failures import BadAnswer, Refused, Unreachable
from agent.cli.report import Report, read_report
from agent.model.inventory import Inventory, read_inventory
from agent.units import KiB, MiB

ANSWER_SECONDS = 30.0
# For a job of the largest size, sent to a busy machine.
POST_SECONDS = 60.0
# The daemon waits up to 30 s for the deployment to stop before it answers 503.
CANCEL_SECONDS = 60.0
MAX_ANSWER_BYTES = 16 * MiB


def socket_path(option: str | None) -> str:
    """The socket to use: that of --socket, of the environment, or the default one."""
    return option or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET


class Client:
    """Calls the daemon on one socket.

    Every method raises ClientError: Unreachable where nobody answers in time, BadAnswer where the answer is not the
    daemon's, Refused where it answers with an error.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    async def report(self, since: int | None = None, wait: float = 0.0) -> Report:
        """The status. With `since`, the daemon answers once the revision is another, or after `wait` seconds."""
        query = "" if since is None else f"?since={since}&wait={wait:g}"
        document = await self.call("GET", f"/v1/status{query}", seconds=ANSWER_SECONDS + wait)
        try:
            return read_report(document)
        except ValueError as error:
            raise BadAnswer(self.path, str(error)) from None

    async def deploy(self, server_name: str, job: bytes) -> None:
        """Post a job, as JSON."""
        await self.call("POST", _route(server_name), job, seconds=POST_SECONDS)

    async def cancel(self, server_name: str) -> None:
        """Cancel the deployment and erase its state. Refused, with HTTP status 503, while it has not stopped."""
        await self.call("DELETE", _route(server_name), seconds=CANCEL_SECONDS)

    async def inventory(self) -> Inventory:
        """The disk groups, and what is on each disk."""
        document = await self.disks(contents=True)
        try:
            return read_inventory(document)
        except ValueError as error:
            raise BadAnswer(self.path, str(error)) from None

    async def disks(self, *, contents: bool = False) -> Mapping[str, Any]:
        """The document of the inventory and the disk groups; with `contents`, what is on each disk too."""
        document = await self.call("GET", "/v1/disks" + ("?contents=true" if contents else ""))
        if not isinstance(document, dict) or not isinstance(document.get("disks"), list):
            raise BadAnswer(self.path, "it answers no inventory")
        return document

    async def call(
        self, method: str, target: str, body: bytes | None = None, *, seconds: float = ANSWER_SECONDS
    ) -> Any:
        """Send one request; returns the decoded JSON of an answer 2xx. `seconds` bound the whole exchange."""
        try:
            async with asyncio.timeout(seconds):
                answer = await _exchange(self.path, _request(method, target, body))
        except TimeoutError:
            raise Unreachable(f"byoi-agent did not answer on {self.path} within {seconds:.0f} s") from None
        except OSError as error:
            raise _unreachable(self.path, error) from None
        status, content = self._parse_answer(method, answer)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            raise BadAnswer(self.path, "it does not answer in JSON") from None
        if not 200 <= status < 300:
            raise Refused(status, document if isinstance(document, dict) else {})
        return document

    def _parse_answer(self, method: str, answer: bytes) -> tuple[int, bytes]:
        """The HTTP status and the body."""
        if not answer:
            # The daemon stopped, or was killed, before it answered.
            raise Unreachable(f"byoi-agent closed the connection on {self.path} without an answer")
        response = http.client.HTTPResponse(cast("socket.socket", _BytesSocket(answer)), method=method)
        try:
            response.begin()
            return response.status, response.read()
        except http.client.IncompleteRead:
            raise Unreachable(f"byoi-agent went away on {self.path} while it answered") from None
        except (http.client.HTTPException, ValueError) as error:
            raise BadAnswer(self.path, f"it does not speak HTTP ({type(error).__name__})") from None


class _BytesSocket:
    """An answer that is complete, as the socket that http.client reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _route(server_name: str) -> str:
    return f"/dedicated/server/{quote(server_name, safe='')}/bringYourOwnImage"


def _request(method: str, target: str, body: bytes | None) -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", "Accept: application/json"]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode("ascii") + (body or b"")


async def _exchange(path: str, request: bytes) -> bytes:
    """Send a request, and read until the daemon closes the connection.

    Raises:
        OSError: there is no such socket, it cannot be used, or the answer is longer than MAX_ANSWER_BYTES.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        # A daemon that refuses a body answers without reading the rest of it.
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        answer = bytearray()
        while chunk := await reader.read(64 * KiB):
            answer += chunk
            if len(answer) > MAX_ANSWER_BYTES:
                raise OSError(errno.EMSGSIZE, "its answer is too long")
        return bytes(answer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _unreachable(path: str, error: OSError) -> Unreachable:
    start = "Start it with `systemctl start byoi-agent`, or name its socket with --socket PATH."
    match error:
        case FileNotFoundError():
            return Unreachable(f"byoi-agent is not running: there is no socket {path}", start)
        case ConnectionRefusedError():
            return Unreachable(f"byoi-agent is not running: nobody listens on {path}", start)
        case PermissionError():
            return Unreachable(
                f"the socket {path} is not open to this user",
                f"Be root or a member of the group {_group(path)}.",
            )
        case ConnectionError():
            return Unreachable(f"byoi-agent went away on {path} before it answered", start)
        case _:
            reason = error.strerror or str(error)
            return Unreachable(f"byoi-agent cannot be asked on {path}: {reason}", start)


def _group(path: str) -> str:
    """The group of a socket, or of its directory where that may not be entered."""
    for candidate in (Path(path), Path(path).parent):
        with contextlib.suppress(OSError, KeyError):
            return grp.getgrgid(candidate.stat().st_gid).gr_name
    return "of the socket (api.socket_group in agent.toml)"
