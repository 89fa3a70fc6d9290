"""The agent's API as a control plane sees it: over TLS, through a port of the host that leads into the machine."""

import asyncio
import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ovh

from agent.aio import run_blocking
from tests.lab.site import APPLICATION_KEY, SERVICE_NAME, Site

REQUEST_SECONDS = 90
LONG_POLL_SECONDS = 10
DEPLOYMENT = f"/dedicated/server/{SERVICE_NAME}/bringYourOwnImage"

Status = dict[str, Any]


class Api:
    """The bearer of the token, on one connection that is kept: each handshake costs an emulated processor a while."""

    def __init__(self, port: int, site: Site, token: str) -> None:
        self._connection = http.client.HTTPSConnection(
            "127.0.0.1",
            port,
            timeout=REQUEST_SECONDS,
            context=ssl.create_default_context(cafile=str(site.ca)),
        )
        self._token = token

    def close(self) -> None:
        self._connection.close()

    async def wait(self, seconds: float) -> None:
        """Wait until the daemon answers.

        Raises:
            TimeoutError: it does not; with what was the matter last.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                await self._request("GET", "/healthz")
            except (OSError, http.client.HTTPException) as error:
                # A port is forwarded, be there a listener or not.
                self._connection.close()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no API after {seconds} s: {error}") from None
                await asyncio.sleep(0.5)
            else:
                return

    async def assert_let_in(self) -> None:
        """The token is the one that the daemon asks for."""
        await self._request("GET", "/v1/status")

    async def wait_disks(self, number: int, seconds: float) -> None:
        """Wait until the daemon answers and has found so many disks that can be deployed to.

        Raises:
            TimeoutError: it does not.
        """
        await self.wait(seconds)
        async with asyncio.timeout(seconds):
            while await self._count_disks() != number:  # noqa: ASYNC110 -- in another machine
                await asyncio.sleep(0.2)

    async def _count_disks(self) -> int:
        status, answer = await run_blocking(self._exchange, "GET", "/v1/disks", None)
        if status == 503:  # without KVM and on a busy host, udev may take longer than the agent waits for it
            return 0
        assert status == 200, f"{status}: {answer}"
        return sum(disk["eligible"] for disk in answer["disks"])

    async def post(self, job: dict[str, Any]) -> None:
        """Hand the job in."""
        await self._request("POST", DEPLOYMENT, job)

    async def get(self) -> Status:
        """The status document. Of a deployment that is done it brings the reboot."""
        return await self._request("GET", DEPLOYMENT)

    async def follow(self, until: Callable[[Status], bool], seconds: float) -> Status:
        """The first status document of which something holds.

        Raises:
            TimeoutError: none came.
            OSError: the machine ended first.
        """
        deadline = time.monotonic() + seconds
        query = ""
        while True:
            status = await self._request("GET", "/v1/status" + query)
            if until(status):
                return status
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s in vain: {status}")
            query = f"?since={status['revision']}&wait={LONG_POLL_SECONDS}"

    async def _request(self, method: str, path: str, document: object = None) -> Any:
        status, answer = await run_blocking(self._exchange, method, path, document)
        assert status == 200, f"{method} {path}: {status}: {answer}"
        return answer

    def _exchange(self, method: str, path: str, document: object) -> tuple[int, Any]:
        body = None if document is None else json.dumps(document)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


def is_over(status: Status) -> bool:
    """Whether a deployment has ended, in whichever way."""
    return status["status"] in ("done", "error")


def has_begun(stage: str) -> Callable[[Status], bool]:
    """Whether a deployment has come to a stage, or to its end."""
    return lambda status: is_over(status) or any(begun["name"] == stage for begun in status["stages"] or ())


@contextmanager
def python_ovh(port: int, site: Site) -> Iterator[ovh.Client]:
    """The client of the OVH API, unchanged, told of the endpoint as docs/api.md says. It blocks."""
    variable, before = "REQUESTS_CA_BUNDLE", os.environ.get("REQUESTS_CA_BUNDLE")
    os.environ[variable] = str(site.ca)
    ovh.client.ENDPOINTS["lab"] = f"https://127.0.0.1:{port}/1.0"
    try:
        yield ovh.Client(
            endpoint="lab",
            application_key=APPLICATION_KEY,
            application_secret=site.secret("application"),
            consumer_key=site.secret("consumer"),
        )
    finally:
        del ovh.client.ENDPOINTS["lab"]
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
