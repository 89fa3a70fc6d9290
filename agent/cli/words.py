"""A deployment in words: the texts of the displays and of `byoi status`. Pure; only printable characters come out."""

import math

from agent.cli.output import failure_lines
from agent.cli.report import Reboot, Report
from agent.model.stage import State
from agent.model.status import Status
from agent.text import printable
from agent.units import format_duration, format_size

NO_DEPLOYMENT = "no deployment"
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
        waiting = f"{WAITING} ({printable(report.server_name)})" if report.server_name else WAITING
        return (*(f"note: {printable(note)}" for note in report.notes), waiting)
    if not status.is_over:
        return ()
    if status.error is not None:
        return failure_lines(status.error)
    return (reboot_line(report.reboot, now) or summary(status),)


def describe(report: Report, now: float) -> list[str]:
    """The lines of `byoi status`. `now` is seconds since the epoch."""
    server = printable(report.server_name or "unknown")
    status = report.status
    if status is None:
        notes = [f"note:     {printable(note)}" for note in report.notes]
        return [f"server:   {server}", f"status:   {NO_DEPLOYMENT}", *notes]
    fields = [
        ("server", server),
        ("status", f"{status.status}: {printable(status.message)}"),
        ("image", printable(str(status.job.get("URL", "unknown")))),
        ("disk", _disk(status) if status.disk else None),
        ("progress", f"{status.percent:.1f} %, {amounts(status)}"),
        ("started", _start(status, now)),
        *(("stage" if index == 0 else "", line) for index, line in enumerate(_stage_lines(status, now))),
        *(("note", printable(note)) for note in status.notes[-MAX_NOTES:]),
        ("reboot", reboot_line(report.reboot, now) if status.state is State.DONE else None),
    ]
    lines = [f"{name + ':' if name else '':<9} {text}" for name, text in fields if text is not None]
    return lines + (list(failure_lines(status.error)) if status.error is not None else [])


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
