"""The two calls of the control plane, as plain requests: what is sent, what may come back, and which faults may pass.

Everything that comes back is hostile: bounded, parsed strictly, and never followed to another place (a redirect would
take the token along).
"""

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from urllib.parse import quote

import aiohttp

from agent import __version__
from agent.aio import run_blocking
from agent.errors import JobInvalid
from agent.model.job_text import MAX_JOB_BYTES, TextRefused, bounded_text, read_json
from agent.service.config.model import ControlPlane
from agent.units import KiB

# One segment of a URL that every client and proxy passes on as it is: nothing in it is encoded, decoded or normalised.
_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:-]{1,128}")
_UNUSABLE_ID = "an id of 1 to 128 letters, digits and - . _ ~ :, and neither . nor .."
# 4xx that tell of the credentials or of the moment, and not of the request.
_PASSING = frozenset({401, 403, 407, 408, 425, 429})
_MAX_ANSWER_BYTES = 64 * KiB
_MAX_OFFER_BYTES = MAX_JOB_BYTES + 64 * KiB
_REQUEST_SECONDS = 30.0
_ID_IN_FRONT = re.compile(rb'\s*\{\s*"id"\s*:\s*"([^"\\]*)"')


class ControlFault(Exception):
    """The control plane could not be asked, or gave no sensible answer. The text holds no secret."""

    def __init__(self, reason: str, retry_after: str | None = None, *, is_final: bool = False) -> None:
        self.retry_after = retry_after
        self.is_final = is_final
        """Whether the same request will not be taken later either."""
        super().__init__(reason)


class Action(Enum):
    """What the control plane answers to a status."""

    CONTINUE = auto()
    CANCEL = auto()
    GONE = auto()
    """404 or 410: the deployment was deleted there."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A job as the control plane gave it, not yet looked at."""

    id: str
    job: Mapping[str, Any] = field(repr=False)
    fault: JobInvalid | None = None
    """Why the document cannot be read as strictly as a posted job is."""


class ControlPlaneApi:
    """The calls. `session` belongs to the caller."""

    def __init__(
        self, config: ControlPlane, service_name: str, session: aiohttp.ClientSession, context: ssl.SSLContext
    ) -> None:
        self._base = f"{config.url}/agents/{quote(service_name, safe='')}"
        self._session = session
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
        status, body = await self._call("GET", url, None, wait + _REQUEST_SECONDS, _MAX_OFFER_BYTES)
        if status == 204:
            return None
        if status != 200:
            raise ControlFault(f"it answered {status} to the question for a job")
        if body is None:
            raise ControlFault(f"it answered with more than {_MAX_OFFER_BYTES} bytes")
        document, fault = await run_blocking(_strictly, body)
        job_id, job = document.get("id"), document.get("job")
        if not isinstance(job_id, str) or not _ID.fullmatch(job_id):
            raise ControlFault(f"it gave a job without {_UNUSABLE_ID}")
        return Offer(job_id, job if isinstance(job, dict) else {}, fault)

    async def report(self, job_id: str, document: Mapping[str, Any]) -> Action:
        """Push a status document. Any 2xx takes it, whatever the answer holds.

        Raises:
            ControlFault: it was not taken.
        """
        if not _ID.fullmatch(job_id):
            raise ControlFault(f"the job is without {_UNUSABLE_ID}", is_final=True)
        url = f"{self._base}/jobs/{quote(job_id, safe='')}/status"
        status, body = await self._call("PUT", url, document, _REQUEST_SECONDS, _MAX_ANSWER_BYTES)
        if status in (404, 410):
            return Action.GONE
        if not 200 <= status < 300:
            is_final = 400 <= status < 500 and status not in _PASSING
            raise ControlFault(f"it answered {status} to a status", is_final=is_final)
        return _action(body)

    async def _call(
        self, method: str, url: str, document: Mapping[str, Any] | None, seconds: float, limit: int
    ) -> tuple[int, bytes | None]:
        """The status and the body of the answer; no body where it is longer than `limit`."""
        timeout = aiohttp.ClientTimeout(total=seconds, connect=_REQUEST_SECONDS)
        try:
            async with self._session.request(
                method,
                url,
                json=document,
                headers=self._headers,
                ssl=self._context,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status == 429 or response.status >= 500:
                    raise ControlFault(f"it answered {response.status}", response.headers.get("Retry-After"))
                return response.status, await _bounded(response, limit)
        except TimeoutError:
            raise ControlFault(f"it did not answer within {seconds:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ControlFault(f"it cannot be reached: {_reason(error)}") from None


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    parts, length = [], 0
    async for part in response.content.iter_any():
        length += len(part)
        if length > limit:
            return None
        parts.append(part)
    return b"".join(parts)


def _action(body: bytes | None) -> Action:
    """What a 2xx asks for; one that says nothing that can be understood asks for nothing."""
    try:
        document = _json(body or b"{}")
    except ControlFault:
        return Action.CONTINUE
    return Action.CANCEL if document.get("action") == "cancel" else Action.CONTINUE


def _json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(bounded_text(body))
    except TextRefused as refusal:
        raise ControlFault(f"its answer {refusal}") from refusal
    except ValueError:
        raise ControlFault("its answer is not JSON") from None
    return _object(document)


def _object(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ControlFault("its answer is not a JSON object")
    return document


def _strictly(body: bytes) -> tuple[dict[str, Any], JobInvalid | None]:
    """The document, and why a posted job would not be read; the id is needed to say so.

    Of what goes beyond the bounds nothing is read but an id that stands in front.
    """
    try:
        return _object(read_json(body)), None
    except JobInvalid as error:
        fault = error
    try:
        return _json(body), fault
    except ControlFault as refusal:
        found = _ID_IN_FRONT.match(body)
        if found is None or not isinstance(refusal.__cause__, TextRefused):
            raise
        return {"id": found[1].decode(errors="replace")}, fault


def _reason(error: Exception) -> str:
    """What went wrong, without the URL's query or any header."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "its certificate is not trusted (control_plane.ca_file names the CA)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def tls_context(config: ControlPlane) -> ssl.SSLContext:
    """The settings for https: the configured CA, or the system's. Blocking: it reads files."""
    return ssl.create_default_context(cafile=config.ca_file)
