"""What stays on a console, below what has scrolled by: what matters most comes first, the rest may be cut. Pure."""

from agent.cli.report import Report
from agent.cli.surroundings import (
    Surroundings,
    address_words,
    agent_words,
    contact_words,
    fault_words,
    waiting_words,
)
from agent.cli.words import disk_words, failure_words, image_words, reboot_line, summary
from agent.model.status import Status
from agent.text import printable

WAITING = "waiting for a deployment"
ERROR, CONTROL_PLANE, IRONIC = "error:", "control plane:", "Ironic:"
DETAILS = ("image:", "disk:", "byoi-agent ", "- ", "  ")
"""How lines begin that a terminal shows in another style than the rest: what is wrong, and what is not urgent."""

MAX_FAULTS = 5
"""That are shown; more of them would push what matters off a serial console, and `byoi status` lists them."""


def footer_lines(report: Report, now: float) -> tuple[str, ...]:
    """The lines, printable: an outcome and what follows it, or what is waited for; where that is; what is wrong there.

    Args:
        report: the daemon's.
        now: seconds since the epoch.
    """
    status = report.status
    own = _idle(report) if status is None else _deployment(report, status, now)
    return (*own, *_place(report), *_problems(report.surroundings, now))


def _idle(report: Report) -> list[str]:
    notes = [f"note: {printable(note)}" for note in report.notes]
    if not report.surroundings.in_force:
        return notes
    waiting = f"{WAITING} ({printable(report.server_name)})" if report.server_name else WAITING
    ways = waiting_words(report.surroundings)
    return [*notes, f"{waiting}: {ways}" if ways else waiting]


def _deployment(report: Report, status: Status, now: float) -> list[str]:
    image = f"image: {image_words(status)}"
    if status.error is not None:
        return [*failure_words(status), image]
    if status.is_over:
        lost = [f"disk: {disk_words(status)}"] if any(disk.get("failed") for disk in status.disks) else []
        return [reboot_line(report.reboot, now) or summary(status), *lost]
    return [image, *([f"disk: {disk_words(status)}"] if status.disk else [])]


def _problems(around: Surroundings, now: float) -> list[str]:
    """A line for each contact that fails or has nothing yet, and below them the faults: many fit no small screen."""
    contacts = ((CONTROL_PLANE, around.control_plane), (IRONIC, around.ironic))
    lines = [
        f"{whose} {contact_words(contact, now)}"
        for whose, contact in contacts
        if contact is not None and (contact.is_failing or contact.is_waiting)
    ]
    faults = fault_words(around, MAX_FAULTS)
    if faults:
        faults[0] = f"{ERROR} {faults[0]}"
    return lines + faults


def _place(report: Report) -> list[str]:
    """Which agent this is, and where: whoever stands before the machine may want to reach it from elsewhere."""
    agent = agent_words(report.surroundings)
    if agent is None:
        return []
    server = f" on {printable(report.server_name)}" if report.server_name else ""
    return [f"{agent}{server}; address: {address_words(report.surroundings)}"]
