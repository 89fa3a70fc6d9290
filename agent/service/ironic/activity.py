"""What a heartbeat tells of the work that is under way, and how soon it is repeated when that has ended. Pure."""

from collections.abc import Mapping
from typing import Any

from agent.model.job_text import shortened
from agent.service.ironic.state import Command, CommandStatus
from agent.units import format_size

MAX_TEXT = 250
"""Characters: each heartbeat has Ironic write it into its database."""


def activity(command: Command | None, document: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is under way, or was last.

    Args:
        command: the conductor's last one.
        document: the status of the slot; it may be of another job.

    Returns:
        `start`, `end` or `error`, and a text; None where nothing was ordered yet.
    """
    if command is None:
        return None
    what = command.name if command.step is None else str(command.step["step"])
    match command.status:
        case CommandStatus.FAILED:
            return "error", shortened(str((command.error or {}).get("details", what)), MAX_TEXT)
        case CommandStatus.SUCCEEDED:
            return "end", what
        case _:
            doing = document if document.get("id") == command.id else {}
            return "start", shortened(f"{what}{_progress(doing)}", MAX_TEXT)


def _progress(document: Mapping[str, Any]) -> str:
    if document.get("percent") is None:
        return ""
    done, total = document.get("bytesDownloaded"), document.get("bytesTotal")
    parts = [f"{document['percent']:.0f} %"]
    if document.get("stage"):
        parts.append(f"stage {document['stage']}")
    if done and total:
        parts.append(f"{format_size(done)} of {format_size(total)}")
    if document.get("waitingOn"):
        parts.append(f"waits for {document['waitingOn']}")
    if document.get("connections", 0) > 1:
        parts.append(f"{document['connections']} connections")
    return f": {', '.join(parts)}"


def news_pause(sent: int) -> float:
    """Seconds until the next heartbeat where a command has ended and the conductor has not asked for it yet.

    A conductor drops heartbeats while it is busy with the node: for a moment, or in a crowd of servers for longer.

    Args:
        sent: how many there were already, 1 or more.
    """
    return min(1.5 * 1.2 ** (sent - 1), 10.0)
