"""What the daemon tells systemd by sd_notify(3): that it is ready, what it does, that it is alive, that it stops.

The watchdog is fed by the event loop, and not while a deployment neither moves bytes nor ends. So where the loop or a
deployment hangs, systemd kills the daemon and starts it again, and that one begins the job again.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from agent.model.surroundings import ContactState
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.slot import Slot
from agent.units import format_duration, format_size

log = structlog.get_logger(__name__)


class Notifier:
    """Sends to the socket that NOTIFY_SOCKET names; does nothing where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        # sd_watchdog_enabled(3): another pid there means that the watchdog is not for this process.
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = os.environ.get("WATCHDOG_USEC", "") if is_ours else ""
        self.watchdog_seconds = int(usec) / 1_000_000 if usec.isdigit() and int(usec) > 0 else None
        """In which systemd wants to hear of the daemon; None where there is no watchdog."""
        self._socket: socket.socket | None = None

    def send(self, **fields: str) -> None:
        """Send assignments such as READY="1"; a manager that has gone is no fault of the daemon."""
        if not self._address:
            return
        text = "\n".join(f"{key}={_one_line(value)}" for key, value in fields.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)  # noqa: FBT003 - its name
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            self._socket.sendto(text.encode(), address)
        except OSError as error:
            log.debug("notify_failed", reason=error.strerror)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _one_line(text: str) -> str:
    return " ".join(text.split())


async def keep_status(notifier: Notifier, publisher: StatusPublisher) -> None:
    """Send STATUS=, which `systemctl status` shows, whenever the status has changed; at most once a second."""
    told = ""
    while True:
        text = status_line(publisher.document)
        if text != told:
            notifier.send(STATUS=text)
            told = text
        revision = publisher.revision
        await asyncio.sleep(1)
        await publisher.wait(revision, 3600)


def status_line(document: Mapping[str, Any]) -> str:
    """A status document in one line."""
    match document.get("status"):
        case None:
            return _waiting_line(document)
        case "doing":
            rate = document.get("rate")
            speed = f", {format_size(rate)}/s" if isinstance(rate, int | float) and rate > 0 else ""
            stage = document.get("stage") or document.get("message")
            return f"deploying: {stage}, {document.get('percent')} %{speed}"
        case "done":
            return f"done: {document.get('message')}"
        case _:
            return f"failed: {document.get('message')}"


def _waiting_line(document: Mapping[str, Any]) -> str:
    configuration = document.get("configuration") or {}
    if faults := configuration.get("faults"):
        text = f"{faults[0]['path']}: {faults[0]['message']}"
        if not configuration["inForce"]:
            return f"the configuration has faults: {text}"
        return f"waiting for a deployment; the configuration has faults since it was changed: {text}"
    parts = ["waiting for a deployment"]
    for whom, key in (("the control plane", "controlPlane"), ("Ironic", "ironic")):
        contact = document.get(key) or {}
        if contact.get("state") == ContactState.FAILING:
            parts.append(f"{whom} does not answer: {contact['reason']}")
        elif contact.get("state") == ContactState.WAITING:
            parts.append(f"{whom} answers, but {contact['reason']}")
    return "; ".join(parts)


async def keep_alive(notifier: Notifier) -> None:
    """Feed the watchdog where nothing is deployed."""
    await _feed(notifier, lambda: True)


async def feed_watchdog(notifier: Notifier, slot: Slot, stall_seconds: float) -> None:
    """Feed the watchdog three times in its period, but not while a deployment has moved nothing for `stall_seconds`."""

    def moves() -> bool:
        if slot.current.still_seconds < stall_seconds:
            return True
        log.error("deployment_stands_still", since=format_duration(slot.current.still_seconds))
        return False

    await _feed(notifier, moves)


async def _feed(notifier: Notifier, is_alive: Callable[[], bool]) -> None:
    if notifier.watchdog_seconds is None:
        return
    while True:
        if is_alive():
            notifier.send(WATCHDOG="1")
        await asyncio.sleep(notifier.watchdog_seconds / 3)
