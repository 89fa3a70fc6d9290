"""What a status document tells beside the deployment, read and in words: agent, contacts, configuration. Pure.

Older agents tell none of it, and nothing here is needed to follow a deployment: what is missing or of another kind is
passed over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.model.status import read_timestamp
from agent.model.surroundings import ContactState
from agent.text import printable
from agent.units import format_duration


@dataclass(frozen=True, slots=True)
class Contact:
    """Who gives jobs (a control plane, an Ironic), and how the last call went. Times are seconds since the epoch."""

    url: str
    state: str
    since: float | None = None
    reason: str | None = None
    next_try: float | None = None

    @property
    def is_failing(self) -> bool:
        """Whether the last call failed."""
        return self.state == ContactState.FAILING

    @property
    def is_waiting(self) -> bool:
        """Whether the last call was answered, and there was nothing yet."""
        return self.state == ContactState.WAITING


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All of it; texts are as they came."""

    version: str | None = None
    addresses: tuple[str, ...] = ()
    listening: tuple[str, ...] = ()
    control_plane: Contact | None = None
    ironic: Contact | None = None
    in_force: bool = True
    """Whether the agent works with a configuration; else it only tells its faults."""
    fault_count: int = 0
    faults: tuple[str, ...] = ()
    """The first of them."""
    warnings: tuple[str, ...] = ()


UNTOLD = Surroundings()
"""Of an agent that tells nothing."""


def read_surroundings(document: Mapping[str, Any]) -> Surroundings:
    """Read the members of a status document."""
    agent, configuration = _table(document, "agent"), _table(document, "configuration")
    faults, count = _doubts(configuration, "faults"), configuration.get("faultCount")
    return Surroundings(
        version=_text(agent, "version"),
        addresses=_texts(agent, "addresses"),
        listening=_texts(agent, "listening"),
        control_plane=_contact(_table(document, "controlPlane")),
        ironic=_contact(_table(document, "ironic")),
        in_force=configuration.get("inForce") is not False,
        fault_count=max(count, len(faults)) if type(count) is int else len(faults),
        faults=faults,
        warnings=_doubts(configuration, "warnings"),
    )


def _contact(member: Mapping[str, Any]) -> Contact | None:
    url, state = _text(member, "url"), _text(member, "state")
    if url is None or state is None:
        return None
    return Contact(url, state, _time(member, "since"), _text(member, "reason"), _time(member, "nextTry"))


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _text(member: Mapping[str, Any], key: str) -> str | None:
    value = member.get(key)
    return value if isinstance(value, str) else None


def _texts(member: Mapping[str, Any], key: str) -> tuple[str, ...]:
    items = member.get(key)
    return tuple(item for item in items if isinstance(item, str)) if isinstance(items, list) else ()


def _time(member: Mapping[str, Any], key: str) -> float | None:
    text = _text(member, key)
    try:
        return None if text is None else read_timestamp(text)
    except ValueError:
        return None


def _doubts(member: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Faults or warnings, each with its option in front."""
    items = member.get(key)
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    pairs = ((_text(item, "path"), _text(item, "message")) for item in found)
    return tuple(f"{path}: {text}" if path else text for path, text in pairs if text is not None)


# -- in words; only printable characters come out --------------------------------------------------------------


def agent_words(around: Surroundings) -> str | None:
    """Which agent it is; None where it does not say."""
    return None if around.version is None else printable(f"byoi-agent {around.version}")


def address_words(around: Surroundings) -> str | None:
    """The machine's addresses; None for an agent that does not tell any."""
    if around.version is None:
        return None
    return printable(", ".join(around.addresses)) or "this machine has none yet"


def waiting_words(around: Surroundings) -> str | None:
    """What an idle agent waits for, and from whom; None for one that does not say, or waits for nothing."""
    if around.version is None or not around.in_force:
        return None
    ways = [f"by the API on {' or '.join(around.listening)}"] if around.listening else []
    if around.control_plane is not None:
        ways.append(f"from the control plane {around.control_plane.url}")
    if around.ironic is not None:
        ways.append(f"from Ironic at {around.ironic.url}")
    return printable(f"for a job, {', or '.join(ways)}") if ways else None


def contact_words(contact: Contact | None, now: float) -> str | None:
    """How a contact is doing; None where there is none. `now` is seconds since the epoch."""
    if contact is None:
        return None
    if not contact.is_failing and not contact.is_waiting:
        answers = "answers" if contact.state == ContactState.ANSWERING else "has not been asked yet"
        return printable(f"{contact.url} {answers}")
    parts = [] if contact.since is None else [f"for {format_duration(max(now - contact.since, 0))}"]
    if contact.next_try is not None:
        again = "now" if contact.next_try <= now else f"in {remaining(contact.next_try, now)}"
        parts.append(f"next try {again}")
    when = f" ({', '.join(parts)})" if parts else ""
    how = "fails:" if contact.is_failing else "answers, but"
    return printable(f"{contact.url} {how} {contact.reason}{when}")


def fault_words(around: Surroundings, most: int | None = None) -> list[str]:
    """Up to `most` faults of the configuration below a line that says what they mean; nothing where there are none."""
    count = around.fault_count
    if not count:
        return []
    faults = f"{count} fault" if count == 1 else f"{count} faults"
    what = "the new configuration is not in force" if around.in_force else "the agent does nothing"
    cure = (
        "Mend agent.toml and `systemctl reload byoi-agent`, or mend the kernel command line and boot again."
    )
    lines = [f"{what}: its configuration has {faults}. {cure}"]
    listed = around.faults[:most]
    lines += [f"- {printable(fault)}" for fault in listed]
    if count > len(listed):
        lines.append(f"- and {count - len(listed)} more")
    return lines


def remaining(at: float, now: float) -> str:
    """Below an hour in whole seconds, which a person at the console can see count down."""
    seconds = max(math.ceil(at - now), 0)
    return f"{seconds} s" if seconds < 3600 else format_duration(seconds)
