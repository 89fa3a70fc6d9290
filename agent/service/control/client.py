"""The two calls of the control plane as HTTP requests: what is sent, how long an answer may take, what may pass.

Owned by the poller. What comes back is read by `agent.service.control.answers`; every fault of a connection becomes a
`ControlFault`.
"""

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from agent import __version__
from agent.aio import run_blocking
from agent.service.config.model import ControlPlaneConfig
from agent.service.control.answers import (
    MAX_OFFER_BYTES,
    MAX_REPLY_BYTES,
    Action,
    ControlFault,
    Offer,
    check_available,
    check_id,
    read_action,
    read_offer,
)
from agent.service.http.asking import NoAnswer, asked, bounded_body

REQUEST_SECONDS = 30.0
"""In which a connection has to be made, and in which an answer that is not held back has to be here to its end."""


class ControlPlaneApi:
    """The calls. `session` belongs to the caller."""

    def __init__(
        self,
        config: ControlPlaneConfig,
        service_name: str,
        session: aiohttp.ClientSession,
        context: ssl.SSLContext,
        *,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Nothing is sent yet.

        Args:
            config: gives URL and token.
            service_name: of this server; a segment of every URL.
            session: makes the requests.
            context: by which the control plane's certificate is checked.
            request_seconds: see REQUEST_SECONDS.
        """
        self._base = f"{config.url}/agents/{quote(service_name, safe='')}"
        self._session = session
        self._request_seconds = request_seconds
        self.take(config.token, context)

    def take(self, token: str | None, context: ssl.SSLContext) -> None:
        """Show this token, and check the control plane by this context, from the next request on."""
        self._context = context
        self._headers = {"Accept": "application/json", "User-Agent": f"byoi-agent/{__version__}"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    async def ask(self, wait: float) -> Offer | None:
        """Ask for a job; the control plane may hold the answer back for `wait` seconds.

        Raises:
            ControlFault: no answer, or none that makes sense.
        """
        url = f"{self._base}/job?wait={wait:g}"
        status, body = await self._call("GET", url, None, wait + self._request_seconds, MAX_OFFER_BYTES)
        return await run_blocking(read_offer, status, body)

    async def report(self, job_id: str, document: Mapping[str, Any]) -> Action:
        """Push a status document. Any 2xx takes it, whatever the answer holds.

        Raises:
            ControlFault: it was not taken.
            ValueError, RecursionError: the document cannot be written as JSON.
        """
        check_id(job_id)
        url = f"{self._base}/jobs/{quote(job_id, safe='')}/status"
        status, body = await self._call("PUT", url, document, self._request_seconds, MAX_REPLY_BYTES)
        return read_action(status, body)

    async def _call(
        self, method: str, url: str, document: Mapping[str, Any] | None, seconds: float, limit: int
    ) -> tuple[int, bytes | None]:
        """The status and the body of the answer; no body where it is longer than `limit`."""
        timeout = aiohttp.ClientTimeout(total=seconds, connect=self._request_seconds)
        try:
            async with asked(
                self._session,
                method,
                url,
                context=self._context,
                ca_option="control_plane.ca_file",
                timeout=timeout,
                json=document,
                headers=self._headers,
            ) as response:
                check_available(response.status, response.headers.get("Retry-After"))
                return response.status, await bounded_body(response, limit)
        except NoAnswer as fault:
            raise ControlFault(str(fault), trouble=fault.trouble) from None


def tls_context(config: ControlPlaneConfig) -> ssl.SSLContext:
    """The settings for https: the configured CA, or the system's. Blocking: it reads files."""
    return ssl.create_default_context(cafile=config.ca_file)
