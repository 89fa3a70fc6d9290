"""Logging of the daemon: structlog, one event a line on stderr.

JSON where a journal or a file reads it, with systemd's priority in front of each line (sd-daemon(3)) when the journal
does; readable text on a terminal. One event a stage, none a chunk. Events carry no secrets by themselves; a last filter
blanks the members that would, should one ever do.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from agent.service.config import Log

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# syslog(3): what sd-daemon(3) reads in front of a line.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_RENDER = structlog.processors.JSONRenderer(sort_keys=True)
SECRET_KEYS = frozenset(
    {"userData", "user_data", "sshKey", "ssh_key", "token", "authorization", "secret", "password", "value"}
)


def configure_logs(log: Log) -> None:
    """Set structlog and the standard library's logging (aiohttp's) up, both to stderr."""
    as_json = log.format == "json" or (log.format == "auto" and not sys.stderr.isatty())
    level = _LEVELS[log.level]
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _blank_secrets,
    ]
    if as_json:
        processors.append(structlog.processors.format_exc_info)
        processors.append(_render_for_journal if "JOURNAL_STREAM" in os.environ else _RENDER)
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Bridge()], force=True)


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
    """Passes what libraries log (aiohttp's server, asyncio) on to structlog, one short text a record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; the traceback's text may quote a request, so only its type is kept."""
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        structlog.get_logger(record.name).log(
            record.levelno, "library_log", text=record.getMessage()[:500], fault=kind
        )
