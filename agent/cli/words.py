"""A deployment in words: the texts of the displays and of `byoi status`. Pure; only printable characters come out."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.cli.output import failure_lines
from agent.cli.report import Reboot, Report
from agent.cli.surroundings import (
    address_words,
    agent_words,
    contact_words,
    fault_words,
    remaining,
    waiting_words,
)
from agent.cli.wrap import wrap
from agent.errors import Blame
from agent.model.disk_state import DiskState, without_disk_state
from agent.model.stage import State
from agent.model.status import Status
from agent.text import printable
from agent.units import format_duration, format_size

NO_DEPLOYMENT = "no deployment"
REPORT = "for support: `byoi report` packs all that a ticket needs into one file"


def amounts(status: Status) -> str:
    """Bytes downloaded, rate, remaining time, what is waited for, connections and attempt from the second on."""
    progress = status.progress
    done = format_size(progress.bytes_downloaded)
    parts = [done if progress.bytes_total is None else f"{done} of {format_size(progress.bytes_total)}"]
    if progress.rate > 0:
        parts.append(f"{format_size(progress.rate)}/s")
    if progress.eta is not None:
        parts.append(f"{format_duration(progress.eta)} left")
    if progress.waiting_on is not None:
        slow = f" ({progress.slow_disk})" if progress.slow_disk else ""
        parts.append(f"waiting on {printable(progress.waiting_on + slow)}")
    if progress.connections > 1:
        parts.append(f"{progress.connections} connections")
    if status.attempt > 1:
        parts.append(f"attempt {status.attempt}")
    return ", ".join(parts)


def stage_name(status: Status) -> str:
    """The stage that runs or ran last; the state where none has begun."""
    return printable(status.stages[-1].name) if status.stages else status.state.value


def summary(status: Status) -> str:
    """The last line of a deployment that is done."""
    seconds = (status.finished_at or status.updated_at) - status.started_at
    size = format_size(status.progress.bytes_downloaded)
    took = format_duration(max(seconds, 0))
    return f"done: {size} deployed to {_disk(status)} in {took}{_checked(status)}{_kept_out(status)}"


def _checked(status: Status) -> str:
    """The digest in parentheses, with a remark where the job has no checksum to compare it with."""
    if not status.checksum:
        return ""
    doubt = "" if status.job.get("checkSum") else "; only the length was verified"
    return f" ({printable(status.checksum)}{doubt})"


def _disk(status: Status) -> str:
    return _paths(disk for disk in status.disks if not disk.get("failed")) or "the disk"


def _kept_out(status: Status) -> str:
    paths = _paths(disk for disk in status.disks if disk.get("failed"))
    return f"; {paths} failed and was kept out" if paths else ""


def _paths(disks: Iterable[Mapping[str, Any]]) -> str:
    return printable(" and ".join(disk["path"] for disk in disks if isinstance(disk.get("path"), str)))


def reboot_line(reboot: Reboot | None, now: float) -> str | None:
    """What follows a deployment that is done; None where the daemon does not say. `now` is seconds since the epoch."""
    match reboot:
        case None:
            return None
        case Reboot("waiting", at, reason):
            left = f" in {remaining(at, now)} at most," if at is not None else ""
            seen = _SEEN.get(reboot.waiting_for or "", _SEEN["controlPlane"])
            so_far = f" (so far: {printable(reason)})" if reason else ""
            return f"rebooting to disk{left} as soon as {seen}{so_far}"
        case Reboot("due"):
            return "rebooting to disk now"
        case Reboot("disabled"):
            return "rebooting is disabled here: the deployed system starts at the next boot"
        case Reboot("failed", _, reason):
            return f"the reboot failed: {printable(reason or 'no reason is known')}; reboot by hand"
        case Reboot(state):
            return f"reboot: {printable(state)}"


_SEEN = {
    "client": "somebody has asked the API for the outcome",
    "controlPlane": "the control plane has seen it",
}


def image_words(status: Status) -> str:
    """The image's URL, secrets blanked, and what it is: what its content showed, or else the job's type."""
    url, kind = status.job.get("URL", "unknown"), status.image_type or status.job.get("type")
    kind = f"{kind} in {status.image_packing}" if kind and status.image_packing else kind
    return printable(f"{url} ({kind})" if kind else str(url))


def disk_words(status: Status) -> str:
    """Path, model, serial number and size of the disks, as far as they are known."""
    return " and ".join(_one_disk(disk) for disk in status.disks) or "the disk"


def _one_disk(disk: Mapping[str, Any]) -> str:
    serial, size = disk.get("serial"), disk.get("size")
    known = [
        disk.get("model"),
        f"serial {serial}" if serial else None,
        format_size(size) if isinstance(size, int | float) else None,
        "failed, kept out" if disk.get("failed") else None,
    ]
    path = disk.get("path") if isinstance(disk.get("path"), str) else "the disk"
    details = ", ".join(text.strip() for text in known if isinstance(text, str))
    return printable(f"{path} ({details})" if details else str(path))


# -- `byoi status` -------------------------------------------------------------------------------------------

MAX_NOTES = 10
NAME_WIDTH = 10
"""Of the names of fields, in columns, with the colon and the space."""


def describe(report: Report, now: float, width: int | None = None) -> list[str]:
    """The lines of `byoi status`.

    Args:
        report: the daemon's.
        now: seconds since the epoch.
        width: of the terminal, in columns; None: no line is broken.
    """
    status = report.status
    fields: list[tuple[str, str | None]] = [
        ("server", printable(report.server_name or "unknown")),
        ("agent", agent_words(report.surroundings)),
        ("address", address_words(report.surroundings)),
        *(_idle(report) if status is None else _deployment(report, status, now)),
        ("control", contact_words(report.surroundings.control_plane, now)),
        ("ironic", contact_words(report.surroundings.ironic, now)),
        *(
            ("fault" if index == 0 else "", text)
            for index, text in enumerate(fault_words(report.surroundings))
        ),
        *(("warning", printable(text)) for text in report.surroundings.warnings),
    ]
    lines = [line for name, text in fields if text is not None for line in _field(name, text, width)]
    return lines + (failure_words(status, width) if status is not None else [])


def _idle(report: Report) -> Iterator[tuple[str, str | None]]:
    yield "status", NO_DEPLOYMENT
    yield "waiting", waiting_words(report.surroundings)
    yield from (("note", printable(note)) for note in report.notes)


def _deployment(report: Report, status: Status, now: float) -> Iterator[tuple[str, str | None]]:
    yield "status", f"{status.status}: {printable(status.message)}"
    yield "image", image_words(status)
    yield "disk", disk_words(status) if status.disk else None
    yield "progress", f"{status.percent:.1f} %, {amounts(status)}"
    yield "started", _start(status, now)
    yield from (("stage" if index == 0 else "", line) for index, line in enumerate(_stage_lines(status, now)))
    yield from (("note", printable(note)) for note in status.notes[-MAX_NOTES:])
    yield "reboot", reboot_line(report.reboot, now) if status.state is State.DONE else None


def _field(name: str, text: str, width: int | None) -> list[str]:
    label = f"{name + ':' if name else '':<{NAME_WIDTH}}"
    if width is None:
        return [label + text]
    first, *others = wrap(text, max(width - NAME_WIDTH, 2))
    return [label + first, *(" " * NAME_WIDTH + line for line in others)]


# What can be done, where the sentence about the disk does not say it.
_NEXT = {
    DiskState.UNTOUCHED: " Deploy again, or reboot into what it holds.",
    DiskState.COMMITTED: " Reboot into it.",
}


def failure_words(status: Status, width: int | None = None) -> list[str]:
    """The error of a deployment that failed, and what that leaves of its disk; lines as in `describe`."""
    if status.error is None:
        return []
    error, state = without_disk_state(status.error)
    lines = list(failure_lines(error))
    if state is not None:
        left = state.sentence + _NEXT.get(state, "")
        lines += [f"disk: {disk_words(status)}", f"  {left}"] if status.disk else [f"disk: {left}"]
    if error.get("blame") != Blame.REQUEST:  # whose job it is, can mend that
        lines.append(REPORT)
    return lines if width is None else [part for line in lines for part in wrap(line, width, indent=2)]


def _start(status: Status, now: float) -> str:
    # To the second, in UTC, as in the document.
    when = status.document()["startedAt"].partition(".")[0].replace("T", " ")
    if status.finished_at is not None:
        return f"{when} UTC, took {format_duration(max(status.finished_at - status.started_at, 0))}"
    return f"{when} UTC, {format_duration(max(now - status.started_at, 0))} ago"


def _stage_lines(status: Status, now: float) -> list[str]:
    lines = []
    for stage in status.stages:
        if stage.seconds is not None:
            seconds = format_duration(stage.seconds)
        else:
            seconds = f"{format_duration(max(now - stage.started_at, 0))} so far"
        lines.append(f"{printable(stage.name):<10} {seconds}")
    return lines
