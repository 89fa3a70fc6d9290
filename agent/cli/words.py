"""A deployment in words: the texts of the displays and of `byoi status`. Pure; only printable characters come out."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from agent.cli.output import failure_lines
from agent.cli.report import About, Reboot, Report
from agent.model.stage import State
from agent.model.status import Status
from agent.text import printable
from agent.units import format_duration, format_size

NO_DEPLOYMENT = "no deployment"
INDENT = 10
"""Columns in front of the texts of `byoi status`."""
WAITING = "waiting for a deployment"


def amounts(status: Status) -> str:
    """Bytes downloaded, rate, remaining time, what is waited for, and the attempt from the second on."""
    progress = status.progress
    done = format_size(progress.bytes_downloaded)
    parts = [done if progress.bytes_total is None else f"{done} of {format_size(progress.bytes_total)}"]
    if progress.rate > 0:
        parts.append(f"{format_size(progress.rate)}/s")
    if progress.eta is not None:
        parts.append(f"{format_duration(progress.eta)} left")
    if progress.waiting_on is not None:
        parts.append(f"waiting on {printable(progress.waiting_on)}")
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
    return f"done: {size} deployed to {_disk(status)} in {took}{_checked(status)}"


def _checked(status: Status) -> str:
    """The digest in parentheses, with a remark where the job has no checksum to compare it with."""
    if not status.checksum:
        return ""
    doubt = "" if status.job.get("checkSum") else "; only the length was verified"
    return f" ({printable(status.checksum)}{doubt})"


def _disk(status: Status) -> str:
    path = (status.disk or {}).get("path")
    return printable(path) if isinstance(path, str) else "the disk"


def reboot_line(reboot: Reboot | None, now: float) -> str | None:
    """What follows a deployment that is done; None where the daemon does not say. `now` is seconds since the epoch."""
    match reboot:
        case None:
            return None
        case Reboot("waiting", at, reason):
            left = f" in {_remaining(at, now)} at most," if at is not None else ""
            so_far = f" (so far: {printable(reason)})" if reason else ""
            return f"rebooting to disk{left} as soon as the control plane has seen it{so_far}"
        case Reboot("due"):
            return "rebooting to disk now"
        case Reboot("disabled"):
            return "rebooting is disabled here: the deployed system starts at the next boot"
        case Reboot("failed", _, reason):
            return f"the reboot failed: {printable(reason or 'no reason is known')}; reboot by hand"
        case Reboot(state):
            return f"reboot: {printable(state)}"


def _remaining(at: float, now: float) -> str:
    """Below an hour in whole seconds, which a person at the console can see count down."""
    seconds = max(math.ceil(at - now), 0)
    return f"{seconds} s" if seconds < 3600 else format_duration(seconds)


def footer_lines(report: Report, now: float) -> tuple[str, ...]:
    """What stays on a console while no stage runs: what is waited for, or the outcome and what follows it."""
    status = report.status
    if status is None:
        notes = (f"note: {printable(note)}" for note in report.notes)
        return (*_unreachable(report), *notes, _waiting(report), *_machine(report))
    if not status.is_over:
        return (*_unreachable(report), *_deployed(status), *_machine(report))
    end: tuple[str, ...] = (reboot_line(report.reboot, now) or summary(status),)
    if status.error is not None:
        end = failure_lines(status.error)
    return (*end, *_unreachable(report), *_deployed(status), *_machine(report))


def _waiting(report: Report) -> str:
    """What is waited for, and from whom."""
    about = report.about
    if about is None:
        return f"{WAITING} ({printable(report.server_name)})" if report.server_name else WAITING
    by = [f"at {printable(name)}" for name in about.listening]
    by += [f"from {printable(about.link.url)}"] if about.link is not None else []
    return f"{WAITING} {' or '.join(by)}" if by else WAITING


def _machine(report: Report) -> tuple[str, ...]:
    """Which server this is, and where it can be reached."""
    about = report.about
    if about is None:
        return ()
    server = f"server: {printable(report.server_name or 'unknown')}, byoi-agent {printable(about.version)}"
    return (server, f"address: {_addresses(about)}")


def _addresses(about: About) -> str:
    return ", ".join(map(printable, about.addresses)) or "none"


def _deployed(status: Status) -> tuple[str, ...]:
    """The image, and the disk that it goes to."""
    disk = () if status.disk is None else (f"disk: {_disk_words(status)}",)
    return (f"image: {_image_words(status)}", *disk)


def _image_words(status: Status) -> str:
    kind = status.image_type or status.job.get("type")
    kind = f"{kind} in {status.image_packing}" if kind and status.image_packing else kind
    url = printable(str(status.job.get("URL", "unknown")))
    return f"{url} ({printable(str(kind))})" if kind else url


def _disk_words(status: Status) -> str:
    """Path, size, model and serial number, as far as they are known."""
    disk = status.disk or {}
    size, model, serial = disk.get("size"), disk.get("model"), disk.get("serial")
    words = [
        _disk(status),
        format_size(size) if type(size) is int else "",
        printable(model) if isinstance(model, str) else "",
        f"serial {printable(serial)}" if isinstance(serial, str) and serial else "",
    ]
    return ", ".join(filter(None, words))


def _clock_time(seconds: float) -> str:
    # Not as a time that passes: on a serial line a footer is printed whenever it changes.
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")


def _unreachable(report: Report) -> tuple[str, ...]:
    """That the control plane cannot be reached, why, since when, and when it is tried again."""
    link = None if report.about is None else report.about.link
    if link is None or link.reachable is not False:
        return ()
    since = "" if link.since is None else f" since {_clock_time(link.since)}"
    again = "" if link.next_try is None else f"; next try at {_clock_time(link.next_try)}"
    reason = printable(link.reason or "no reason is known")
    return (f"error: {printable(link.url)} cannot be reached{since}: {reason}{again}",)


def describe(report: Report, now: float) -> list[str]:
    """The lines of `byoi status`. `now` is seconds since the epoch."""
    server = printable(report.server_name or "unknown")
    status = report.status
    about = report.about
    agent = [
        ("agent", printable(about.version) if about is not None else None),
        ("address", _addresses(about) if about is not None else None),
    ]
    problem = [("control", text.removeprefix("error: ")) for text in _unreachable(report)]
    if status is None:
        notes = [("note", printable(note)) for note in report.notes]
        waits = ("waits", _waiting(report) if about is not None else None)
        return _aligned([("server", server), *agent, ("status", NO_DEPLOYMENT), waits, *problem, *notes])
    fields: list[tuple[str, str | None]] = [
        ("server", server),
        *agent,
        ("status", f"{status.status}: {printable(status.message)}"),
        *problem,
        ("image", _image_words(status)),
        ("disk", _disk_words(status) if status.disk else None),
        ("progress", f"{status.percent:.1f} %, {amounts(status)}"),
        ("started", _start(status, now)),
        *(("stage" if index == 0 else "", line) for index, line in enumerate(_stage_lines(status, now))),
        *(("note", printable(note)) for note in status.notes[-MAX_NOTES:]),
        ("reboot", reboot_line(report.reboot, now) if status.state is State.DONE else None),
    ]
    return _aligned(fields) + (list(failure_lines(status.error)) if status.error is not None else [])


def _aligned(fields: Sequence[tuple[str, str | None]]) -> list[str]:
    return [f"{name + ':' if name else '':<{INDENT}}{text}" for name, text in fields if text is not None]


MAX_NOTES = 10


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
