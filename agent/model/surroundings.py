"""What stands in every status document beside the deployment: the agent, who gives it jobs, its configuration.

Members of the JSON document, made here and nowhere else. No secret is in them.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from agent.errors import Fault
from agent.model.status import timestamp

MAX_FAULTS = 50
"""Faults and warnings that a document lists; a file that is no configuration at all may have thousands."""


class ContactState(StrEnum):
    """How the last call to a control plane, or to an Ironic, went."""

    UNASKED = "unasked"
    """There was none yet."""
    ANSWERING = "answering"
    WAITING = "waiting"
    """It answers, and has nothing for this machine yet."""
    FAILING = "failing"


class Trouble(StrEnum):
    """Why such a call failed, for metrics: one of few words."""

    CONNECTION = "connection"
    """Nobody could be reached: name, route, port, or a connection that broke off."""
    CERTIFICATE = "certificate"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    """It answered 429 or 5xx."""
    REFUSED = "refused"
    """It answered another status than one of success."""
    ANSWER = "answer"
    """What it answered makes no sense."""
    AGENT = "agent"
    """The fault is on this side."""


def agent_member(version: str, addresses: Sequence[str], listeners: Sequence[str]) -> dict[str, Any]:
    """The member `agent`: its version, the machine's addresses, and what the API is served on."""
    return {"version": version, "addresses": list(addresses), "listening": list(listeners)}


def contact_member(
    url: str,
    state: ContactState,
    *,
    since: float | None = None,
    reason: str | None = None,
    trouble: Trouble | None = None,
    next_try: float | None = None,
) -> dict[str, Any]:
    """The member `controlPlane`, or `ironic`: how the contact to it is. Times are seconds since the epoch.

    Args:
        url: that is configured.
        state: of the contact.
        since: when it came to be in that state.
        reason: why the last call failed, or what is waited for; for people.
        trouble: why it failed, for programs.
        next_try: when it is tried again.
    """
    return {
        "url": url,
        "state": state.value,
        "since": None if since is None else timestamp(since),
        "reason": reason,
        "trouble": None if trouble is None else trouble.value,
        "nextTry": None if next_try is None else timestamp(next_try),
    }


def configuration_member(
    faults: Sequence[Fault], warnings: Sequence[Fault] = (), *, in_force: bool = True
) -> dict[str, Any]:
    """The member `configuration`.

    Args:
        faults: that keep a configuration from being used: the one the agent should have started with, or the one
            that it should have taken up while it ran.
        warnings: what is allowed but probably wrong.
        in_force: whether there is another one, without faults, that the agent works with.
    """
    return {
        "inForce": in_force,
        "faultCount": len(faults),
        "faults": [fault.document() for fault in faults[:MAX_FAULTS]],
        "warnings": [warning.document() for warning in warnings[:MAX_FAULTS]],
    }
