"""Logging of the daemon and of `byoi write`: structlog, one event a line on stderr.

The daemon's lines are written by a thread (`agent.log_lines`): a reader that stops holds nobody up.
`byoi write` writes them itself, between the lines of its progress.

JSON where a journal or a file reads it, with systemd's priority in front of each line (sd-daemon(3)) when the journal
does; readable text on a terminal. One event a stage, none a chunk. Events carry no secrets by themselves; a last filter
blanks the members that would, should one ever do. A fault that nobody expected is told by its kind and its places: its
text, and the variables around it, may hold what was being worked on.
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
# syslog(3): what sd-daemon(3) reads in front of a line.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_RENDER = structlog.processors.JSONRenderer(sort_keys=True)
SECRET_KEYS = frozenset(
    {"userData", "user_data", "sshKey", "ssh_key", "token", "authorization", "secret", "password", "value"}
)
# What the end of the process waits for a reader.
FLUSH_SECONDS = 1.0
# Of one fault: what caused it and what it is made of included.
_MAX_FAULTS = 16
_MAX_PLACES = 40
_OWN_WORDS = re.compile(r"[^\n(<\[{'\"%]*")


def configure_logs(level: str, form: str) -> None:
    """Set structlog and the standard library's logging (aiohttp's) up, both to stderr by way of a thread.

    Args:
        level: the lowest that is logged: debug, info, warning, error.
        form: json, text, or auto: text on a terminal.
    """
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    set_up(
        _LEVELS[level],
        as_json=form == "json" or (form == "auto" and not is_terminal),
        lines=None if sys.stderr is None else _QueuedLines(LineWriter(sys.stderr.fileno())),
    )


def set_up(level: int, *, as_json: bool, lines: "_QueuedLines | None" = None) -> None:
    """Log from this level (of the standard library's numbers) on, and take over what Python itself would print of
    faults that nobody has caught.

    Args:
        level: the lowest that is logged.
        as_json: rather than as text for people.
        lines: takes the lines; without it whoever logs writes them to stderr.
    """
    global _queued  # noqa: PLW0603 - one process has one stderr
    _queued = lines
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _tell_places,
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
        logger_factory=_Lines if lines is None else lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Bridge()], force=True)
    sys.excepthook = _log_uncaught
    sys.unraisablehook = lambda fault: _log_uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)
    threading.excepthook = lambda fault: _log_uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)


class _Lines:
    """Writes lines to stderr. A reader that went away, or a full disk below a file, is no fault of what is logged."""

    def __init__(self, *_: object) -> None:
        """Structlog gives the arguments of `get_logger`."""

    def msg(self, message: str) -> None:
        """Write one line, if that can be done."""
        with suppress(OSError, ValueError, AttributeError):  # the last: there was no stderr from the start
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    log = debug = info = warning = error = critical = exception = msg


class _QueuedLines:
    """Has lines written by a thread, and tells of those that were dropped as soon as lines get through again."""

    def __init__(self, writer: LineWriter) -> None:
        self.writer = writer

    def msg(self, message: str) -> None:
        """Have one line written."""
        dropped = self.writer.newly_dropped()
        if dropped:
            structlog.get_logger(__name__).error("log_lines_dropped", count=dropped)
        self.writer.write(message)

    log = debug = info = warning = error = critical = exception = msg


_queued: _QueuedLines | None = None


def say(line: str) -> None:
    """Print a line for people on stderr, behind what is logged already and as little held up."""
    (_Lines() if _queued is None else _queued).msg(line)


def dropped_lines() -> int:
    """How many lines of the log nobody will ever read, because nobody read those before them."""
    return 0 if _queued is None else _queued.writer.dropped


def flush_logs() -> None:
    """Wait until stderr has taken what was logged, for a second at the most: the process ends."""
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


# -- faults --------------------------------------------------------------------------------------------------


def _tell_places(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put kinds and places where a renderer expects a traceback."""
    told = event.pop("exc_info", None)
    error = sys.exception() if told is True else told[1] if isinstance(told, tuple) else told
    if isinstance(error, BaseException):
        event["exception"] = fault_text(error)
    return event


def fault_text(error: BaseException) -> str:
    """What kind of fault it is and where it happened, down to its causes; no text of any exception, and no values."""
    lines: list[str] = []
    for number, (why, fault) in enumerate(_faults(error)):
        if number == _MAX_FAULTS:
            lines.append("...")
            break
        lines.append(f"{why}{type(fault).__name__}")
        places = traceback.walk_tb(fault.__traceback__)
        found = [f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in places]
        lines += [f"  {place}" for place in found[-_MAX_PLACES:]]
    return "\n".join(lines)


def _faults(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    """The fault and all behind it, each once, with a word on how they belong together."""
    todo, seen = [("", error)], set[int]()
    while todo:
        why, fault = todo.pop()
        if id(fault) in seen:
            continue
        seen.add(id(fault))
        yield why, fault
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
    """Passes what libraries log (aiohttp's server, asyncio) on to structlog, one short text a record.

    Only what the library wrote itself is passed: asyncio puts the repr of exceptions and of arguments into its texts,
    aiohttp what a client sent. That begins with a bracket, a quotation mark or a conversion (%s).
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record, without the values that its text would be filled with."""
        text = _OWN_WORDS.match(str(record.msg))
        structlog.get_logger(record.name).log(
            record.levelno,
            "library_log",
            text=text[0].strip()[:500] if text else "",
            exc_info=record.exc_info or None,
        )
