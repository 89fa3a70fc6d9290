"""What an Ironic sends, read, and what it is answered: lookups, commands and refusals. Pure.

Everything that comes is taken for hostile: what is not as the protocol has it is a `ConductorFault` (Ironic's API) or a
`Refusal` (a command), and neither quotes what may be a secret. The protocol is described in Ironic's documentation for
developers ("Agent API", "Deploy steps"); its errors have the members of WSME's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agent.model.job_text import TextRefused, bounded_text, shortened
from agent.model.surroundings import Trouble
from agent.service.ironic.long_texts import LongTexts

MAX_COMMAND_BYTES = 128 * 1024 * 1024
"""Of a command's body. Ironic sends a config drive three times in one."""
LEAST_VERSION = (1, 68)
"""Of Ironic's API: the first one that takes the certificate of an agent."""
STATUS_VERSION = (1, 72)
"""The first one that takes what an agent does at the moment."""
_SHORTEST, _LONGEST = 3.0, 3600.0


class ConductorFault(Exception):
    """Ironic's API did not answer, or not as it should. The message is for people, and holds no secret."""

    def __init__(self, reason: str, *, trouble: Trouble) -> None:
        self.trouble = trouble
        super().__init__(reason)


class TokenRefused(ConductorFault):
    """Ironic does not know this agent's token any more: what it ordered is void."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The node that this machine is, as Ironic knows it."""

    node: str
    """Its UUID."""
    token: str = field(repr=False)
    heartbeat_seconds: float
    """The longest time between two heartbeats."""


def read_lookup(body: bytes, own_token: str | None = None) -> Lookup:
    """Read the answer to a lookup.

    Args:
        body: of the answer.
        own_token: that Ironic has handed to this ramdisk otherwise; it does not tell it again.

    Raises:
        ConductorFault: it makes no sense, or the node's token was given to an agent before this one.
    """
    document = _object(body, "the answer to the lookup")
    node, config = document.get("node"), document.get("config")
    if not isinstance(node, dict) or not isinstance(config, dict):
        raise _senseless("the answer to the lookup names no node")
    try:
        uuid = str(UUID(str(node.get("uuid"))))
    except ValueError:
        raise _senseless("the answer to the lookup has no UUID of a node") from None
    token = config.get("agent_token")
    if not isinstance(token, str) or not token or len(token) > 1024 or not token.isascii():
        raise _senseless("the answer to the lookup has no agent token")
    if not token.strip("*") and own_token is not None:
        token = own_token
    elif not token.strip("*"):
        raise ConductorFault(
            "the token of this node was given to an agent that is gone; abort or undeploy the node",
            trouble=Trouble.REFUSED,
        )
    seconds = config.get("heartbeat_timeout")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise _senseless("the answer to the lookup has no heartbeat_timeout")
    return Lookup(uuid, token, float(min(max(seconds, _SHORTEST), _LONGEST)))


def read_version(body: bytes) -> tuple[int, int]:
    """The newest version of the API that Ironic speaks, from the document at its root.

    Raises:
        ConductorFault: it makes no sense.
    """
    default = _object(body, "the document at its root").get("default_version")
    text = default.get("version") if isinstance(default, dict) else None
    major, _, minor = str(text).partition(".")
    if re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", str(text)) is None:
        raise _senseless("the document at its root tells no version")
    return int(major), int(minor)


def fault_text(body: bytes) -> str:
    """Why Ironic refused a request, in its words; empty where it does not say."""
    try:
        document = json.loads(bounded_text(body))
        inner = document.get("error_message", document)
        inner = json.loads(inner) if isinstance(inner, str) else inner
        text = inner.get("faultstring") or inner.get("title")
    except (TextRefused, ValueError, AttributeError, RecursionError):
        return ""
    return shortened(text, 300) if isinstance(text, str) else ""


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(bounded_text(body))
    except (TextRefused, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _senseless(f"{what} is not a JSON object")
    return document


def _senseless(reason: str) -> ConductorFault:
    return ConductorFault(reason, trouble=Trouble.ANSWER)


# -- commands ------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """A request of the conductor is refused, with this HTTP status. `type` is the error's name in the protocol."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        self.status = status
        self.kind = kind
        self.message = message
        super().__init__(message)

    def document(self) -> dict[str, Any]:
        """The body of the answer. A conductor reads `faultstring` and nothing else."""
        return {
            "faultcode": "Server" if self.status >= 500 else "Client",
            "faultstring": self.message,
            "type": self.kind,
            "code": self.status,
        }


@dataclass(frozen=True, slots=True)
class Order:
    """A command of the conductor, as it came."""

    name: str
    """Extension and command: `deploy.execute_deploy_step`."""
    params: Mapping[str, Any] = field(repr=False)

    @property
    def command_name(self) -> str:
        """As commands are named in the list: without the extension."""
        return self.name.rpartition(".")[2]


def read_order(body: LongTexts) -> Order:
    """Read the body of a command, once.

    Raises:
        Refusal: 400, it is no command.
    """
    try:
        document = body.document()
    except (TextRefused, ValueError, RecursionError):
        raise _bad("the body is not a JSON object within bounds") from None
    if not isinstance(document, dict):
        raise _bad("the body is not a JSON object")
    name, params = document.get("name"), document.get("params", {})
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise _bad("name is missing or not a text")
    if not isinstance(params, dict):
        raise _bad("params is not an object")
    return Order(name, params)


def _bad(reason: str) -> Refusal:
    return Refusal(400, "InvalidContentError", f"Invalid request body: {reason}")


def member(params: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A parameter that has to be an object.

    Raises:
        Refusal: 400, it is none.
    """
    value = params.get(key)
    if not isinstance(value, dict):
        raise Refusal(400, "InvalidCommandParamsError", f"Invalid command parameters: {key} is not an object")
    return value


def shown_step(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step as it is given back with its result: by it Ironic knows which one has ended. Never its arguments, which
    may hold a config drive.

    Raises:
        Refusal: 400, it is none.
    """
    for key in ("interface", "step"):
        if not isinstance(step.get(key), str):
            raise Refusal(
                400, "InvalidCommandParamsError", f"Invalid command parameters: the step has no {key}"
            )
    return {key: shortened(step[key], 128) for key in ("interface", "step")}
