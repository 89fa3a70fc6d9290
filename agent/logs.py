"""Logging of the daemon and of `byoi write`: structlog, one event a line on stderr.

The daemon calls `configure_logs`: a thread (`agent.log_lines`) writes its lines, so that a reader which stops reading
stops nothing else. `byoi write` calls `set_up` without one: it writes the lines itself, between those of its progress.

The format is JSON for a file or systemd's journal, the journal's priority in front of each line (sd-daemon(3)), and
text on a terminal. An event is logged for a stage, never for a buffer. Callers log no secrets; as a second guard the
members named in SECRET_KEYS are blanked. An exception is logged by its class and the places in its traceback, and not
by its text or its variables: they may hold parts of a job.
"""

import atexit
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import structlog

from agent.log_lines import LineWriter

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# The levels of syslog(3), as sd-daemon(3) reads them in front of a line.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_RENDER = structlog.processors.JSONRenderer(sort_keys=True)
SECRET_KEYS = frozenset(
    {
        "userData",
        "user_data",
        "sshKey",
        "ssh_key",
        "token",
        "authorization",
        "secret",
        "password",
        "value",
        "auth",
    }
)
"""Members of an event, at any depth, whose values are blanked."""
# How long the end of the process waits for stderr to take the lines.
FLUSH_SECONDS = 1.0
# Exceptions that are logged for one: itself, its causes, and the members of groups.
_MAX_ERRORS = 16
# Lines of traceback for each of them, the innermost.
_MAX_PLACES = 40
# The words at the begin of a message of asyncio's or aiohttp's, up to the first value that it quotes.
_OWN_WORDS = re.compile(r"[^\n(<\[{'\"%]*")


def configure_logs(level: str, form: str) -> None:
    """Set the daemon's logging up: `set_up` with a thread that writes the lines.

    Args:
        level: the lowest that is logged: debug, info, warning or error.
        form: json, text, or auto: text on a terminal, else json.
    """
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    set_up(
        _LEVELS[level],
        as_json=form == "json" or (form == "auto" and not is_terminal),
        lines=None if sys.stderr is None else _QueuedLines(LineWriter(sys.stderr.fileno())),
    )


def set_up(level: int, *, as_json: bool, lines: "_QueuedLines | None" = None) -> None:
    """Set structlog, the standard library's logging (asyncio's and aiohttp's), and Python's hooks for exceptions that
    nobody caught up: all of them log to stderr, in the same form.

    Args:
        level: the lowest that is logged, as a number of the standard library's.
        as_json: JSON, else text.
        lines: takes the lines; None: the caller of a log method writes them to stderr itself, and waits for it.
    """
    global _queued  # noqa: PLW0603 - one process has one stderr
    _queued = lines
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _render_exception,
        _blank_secrets,
    ]
    if as_json:
        processors.append(_render_for_journal if "JOURNAL_STREAM" in os.environ else _RENDER)
    else:
        plain = structlog.dev.plain_traceback
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr is not None and sys.stderr.isatty(), exception_formatter=plain
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_DirectLines if lines is None else lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Bridge()], force=True)
    sys.excepthook = _log_uncaught
    sys.unraisablehook = lambda fault: _log_uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)
    threading.excepthook = lambda fault: _log_uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)


class _DirectLines:
    """Writes lines to stderr at once. What cannot be written is lost: a reader that is gone, or a full disk, must not
    fail what is logged.
    """

    def __init__(self, *_: object) -> None:
        """Structlog passes on the arguments of `get_logger`; none is used."""

    def msg(self, message: str) -> None:
        """Write one line, or lose it."""
        with suppress(OSError, ValueError, AttributeError):  # AttributeError: sys.stderr is None
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    log = debug = info = warning = error = critical = exception = msg


class _QueuedLines:
    """Gives lines to the thread that writes them, and logs how many were dropped once there is room again."""

    def __init__(self, writer: LineWriter) -> None:
        self.writer = writer

    def msg(self, message: str) -> None:
        """Put one line into the queue, or drop it where the queue is full. Never blocks."""
        dropped = self.writer.newly_dropped()
        if dropped:
            structlog.get_logger(__name__).error("log_lines_dropped", count=dropped)
        self.writer.write(message)

    log = debug = info = warning = error = critical = exception = msg


_queued: _QueuedLines | None = None
"""Of the daemon; None where lines are written directly."""


def print_line(line: str) -> None:
    """Print a line for people on stderr, after what has been logged so far. The daemon does not wait for it."""
    (_DirectLines() if _queued is None else _queued).msg(line)


def dropped_lines() -> int:
    """How many lines have been lost so far because stderr did not take them in time, or not at all."""
    return 0 if _queued is None else _queued.writer.dropped


def flush_logs() -> None:
    """Wait until stderr has taken what was logged, for FLUSH_SECONDS at most. Called when the process ends."""
    if _queued is not None:
        _queued.writer.flush(FLUSH_SECONDS)


atexit.register(flush_logs)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, places: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), places)
    else:
        structlog.get_logger(__name__).critical("crashed", exc_info=error or kind())


# -- exceptions --------------------------------------------------------------------------------------------------


def _render_exception(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace `exc_info` (an exception, its triple, or True for the one being handled) by the text of its places."""
    given = event.pop("exc_info", None)
    error = sys.exception() if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = exception_text(error)
    return event


def exception_text(error: BaseException) -> str:
    """The class of an exception and the places of its traceback, then those of its causes and of a group's members.

    Holds no text of any exception and no value of any variable. At most _MAX_ERRORS exceptions, of each the
    _MAX_PLACES innermost places.
    """
    lines: list[str] = []
    for number, (relation, fault) in enumerate(_related(error)):
        if number == _MAX_ERRORS:
            lines.append("...")
            break
        lines.append(f"{relation}{type(fault).__name__}")
        places = traceback.walk_tb(fault.__traceback__)
        found = [f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in places]
        lines += [f"  {place}" for place in found[-_MAX_PLACES:]]
    return "\n".join(lines)


def _related(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    """An exception and all that it is caused by or made of, each once, with the words for how it is related."""
    todo, seen = [("", error)], set[int]()
    while todo:
        relation, fault = todo.pop()
        if id(fault) in seen:
            continue
        seen.add(id(fault))
        yield relation, fault
        if fault.__cause__ is not None:
            todo.append(("caused by ", fault.__cause__))
        elif fault.__context__ is not None and not fault.__suppress_context__:
            todo.append(("while handling ", fault.__context__))
        if isinstance(fault, BaseExceptionGroup):
            todo += [("made of ", part) for part in reversed(fault.exceptions)]


# -- secrets -------------------------------------------------------------------------------------------------


def _blank_secrets(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _blanked(key, value)
    return event


def _blanked(key: str, value: Any) -> Any:
    if key in SECRET_KEYS and value is not None:
        return "***"
    if isinstance(value, dict):
        return {name: _blanked(name, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_blanked("", item) for item in value]
    return value


def _render_for_journal(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
    priority = _PRIORITIES.get(str(event.get("level")), 6)
    return f"<{priority}>{_RENDER(logger, name, event)!s}"


class _Bridge(logging.Handler):
    """Passes the records of the standard library's logging (aiohttp's and asyncio's) on to structlog.

    Only the words up to the first value go into the log: asyncio quotes exceptions and arguments in its messages,
    aiohttp what a client sent. A value begins with a bracket, a quotation mark or a conversion (%s).
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record, its text cut to 500 characters."""
        text = _OWN_WORDS.match(str(record.msg))
        structlog.get_logger(record.name).log(
            record.levelno,
            "library_log",
            text=text[0].strip()[:500] if text else "",
            exc_info=record.exc_info or None,
        )
