"""The requests to Ironic's API: version, lookup, heartbeat, inventory. Every fault of a connection becomes a
`ConductorFault`.
"""

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from agent import __version__
from agent.aio import run_blocking
from agent.model.surroundings import Trouble
from agent.service.config.model import IronicConfig
from agent.service.http.asking import NoAnswer, asked, bounded_body, os_reason
from agent.service.ironic.messages import (
    LEAST_VERSION,
    STATUS_VERSION,
    ConductorFault,
    Lookup,
    TokenRefused,
    fault_text,
    read_lookup,
    read_version,
)

REQUEST_SECONDS = 30.0
MAX_NAMED = 8
"""MAC addresses that a text names; a server with many network cards has enough of them there to be known by."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024
_INSPECTION_VERSION = (1, 84)
_VOID_WORDS = ("agent token", "agent_token", "detected change")


class NotYet(ConductorFault):
    """The node is not known yet, is in a state that nobody looks it up in, or is locked: that passes."""


class NobodyInspects(NotYet):
    """No node of this machine is being inspected."""


class InspectionRefused(ConductorFault):
    """The inventory was not taken, and will not be as it is."""


class Conductor:
    """Ironic's API. `session` belongs to the caller."""

    def __init__(self, config: IronicConfig, session: aiohttp.ClientSession, context: ssl.SSLContext) -> None:
        """Nothing is sent yet.

        Args:
            config: tells its URLs.
            session: makes the requests.
            context: by which its certificate is checked.
        """
        self._config = config
        self._session = session
        self._context = context
        self._urls = config.url
        self._version = LEAST_VERSION
        self._has_version = False

    async def find_version(self) -> None:
        """Ask which version of the API it speaks, unless that is known.

        Raises:
            ConductorFault: it does not answer, or is too old to be told the certificate of an agent.
        """
        if self._has_version:
            return
        status, body = await self._call("GET", self._urls, "/")
        if status != 200:
            raise _refused(status, body)
        version = read_version(body)
        if version < LEAST_VERSION:
            text = ".".join(map(str, version))
            raise ConductorFault(
                f"Ironic speaks version {text} of its API, and 1.68 or newer is needed",
                trouble=Trouble.REFUSED,
            )
        self._version, self._has_version = min(version, STATUS_VERSION), True

    async def look_up(self, addresses: Sequence[str]) -> Lookup:
        """Ask which node has one of these MAC addresses.

        Raises:
            NotYet: none, yet; or it is locked.
            ConductorFault: no answer, or none that makes sense.
        """
        status, body = await self._call(
            "GET", self._urls, "/v1/lookup", query={"addresses": ",".join(addresses)}
        )
        if status in (404, 409):
            what = (
                f"no node that waits for its ramdisk has a MAC address of this machine ({_named(addresses)})"
            )
            raise _not_yet(what if status == 404 else "the node is locked", "lookup", status, body)
        if status != 200:
            raise _refused(status, body)
        return read_lookup(body, self._config.agent_token)

    async def heartbeat(
        self, lookup: Lookup, callback_url: str, certificate: str, activity: tuple[str, str] | None
    ) -> None:
        """Tell that the agent is here, and what it does.

        Args:
            lookup: the node.
            callback_url: where the conductor finds the agent.
            certificate: by which it knows it; PEM.
            activity: the state in the protocol's words (`start`, `end`, `error`), and a text for people.

        Raises:
            TokenRefused: the token is void.
            ConductorFault: no answer, or a refusal.
        """
        document = {
            "callback_url": callback_url,
            "agent_token": lookup.token,
            "agent_version": __version__,
            "agent_verify_ca": certificate,
        }
        if activity is not None and self._version >= STATUS_VERSION:
            document |= {"agent_status": activity[0], "agent_status_message": activity[1]}
        status, body = await self._call("POST", self._urls, f"/v1/heartbeat/{lookup.node}", document)
        if _is_void(status, body):
            raise TokenRefused(f"the heartbeat was refused: {fault_text(body)}", trouble=Trouble.REFUSED)
        if status == 409:
            raise _not_yet("the node is locked", "heartbeat", status, body)
        if status != 202:
            raise _refused(status, body)

    async def inspect(self, inventory: Mapping[str, Any]) -> Lookup | None:
        """Post the inventory of this machine.

        Returns:
            The node, as a lookup tells it: its token is given to whoever asks first. None where it is not told.

        Raises:
            NobodyInspects: the machine is known for something else, or not at all.
            NotYet: the node is locked.
            InspectionRefused: trying again makes no difference.
            ConductorFault: it was not taken.
        """
        urls = self._config.inspection_url or ()
        status, body = await self._call("POST", urls, "", inventory, version=_INSPECTION_VERSION)
        if status == 404:
            what = "no node of this machine is being inspected"
            raise _not_yet(what, "inventory", status, body, NobodyInspects)
        if status == 409:
            raise _not_yet("the node is locked", "inventory", status, body)
        if status not in (200, 202):
            fault = _refused(status, body)
            if fault.trouble is Trouble.REFUSED:
                raise InspectionRefused(f"it refused the inventory: {fault}", trouble=fault.trouble)
            raise fault
        try:
            return read_lookup(body)
        except ConductorFault:  # it answers with the UUID alone where it is older
            return None

    async def _call(
        self,
        method: str,
        urls: Sequence[str],
        path: str,
        document: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        version: tuple[int, int] | None = None,
    ) -> tuple[int, bytes]:
        """Ask the first of the URLs that can be reached."""
        major, minor = version or self._version
        headers = {
            "Accept": "application/json",
            "User-Agent": f"byoi-agent/{__version__}",
            "X-OpenStack-Ironic-API-Version": f"{major}.{minor}",
        }
        if self._config.request_id is not None:
            headers["X-OpenStack-Request-ID"] = self._config.request_id
        fault: ConductorFault | None = None
        for url in urls:
            try:
                async with asked(
                    self._session,
                    method,
                    url + path,
                    context=self._context,
                    ca_option="ironic.ca_file",
                    timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
                    params=query,
                    json=document,
                    headers=headers,
                ) as response:
                    body = await bounded_body(response, MAX_ANSWER_BYTES)
                    if body is None:
                        raise ConductorFault("its answer is too long", trouble=Trouble.ANSWER)
                    return response.status, body
            except NoAnswer as missing:
                fault = ConductorFault(str(missing), trouble=missing.trouble)
        if fault is None:
            raise RuntimeError("there is no URL")
        raise fault


def _is_void(status: int, body: bytes) -> bool:
    """Whether a heartbeat was refused for good: the node is gone, or another agent's.

    That no conductor is there at the moment is told by 400 as well, and a 404 without words is somebody's between here
    and Ironic: neither may stop a deployment.
    """
    text = fault_text(body).lower()
    return (status == 404 and text != "") or (status == 400 and any(word in text for word in _VOID_WORDS))


def _named(addresses: Sequence[str]) -> str:
    more = len(addresses) - MAX_NAMED
    return ", ".join(addresses[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _not_yet(what: str, asked: str, status: int, body: bytes, kind: type[NotYet] = NotYet) -> NotYet:
    said = fault_text(body).rstrip(".")
    answer = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    return kind(f"{what}; the {asked} was answered {answer}", trouble=Trouble.REFUSED)


def _refused(status: int, body: bytes) -> ConductorFault:
    trouble = Trouble.UNAVAILABLE if status == 429 or status >= 500 else Trouble.REFUSED
    return ConductorFault(f"it answered HTTP {status}: {fault_text(body) or 'no reason'}", trouble=trouble)


async def make_context(config: IronicConfig) -> ssl.SSLContext:
    """The TLS settings for requests: the configured CA, the system's, or none.

    Raises:
        ConductorFault: the file of the CA cannot be used.
    """
    try:
        context = await run_blocking(ssl.create_default_context, cafile=config.ca_file)
    except OSError as error:  # those of OpenSSL among them
        reason = f"{config.ca_file} (ironic.ca_file) cannot be used: {os_reason(error)}"
        raise ConductorFault(reason, trouble=Trouble.AGENT) from error
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
