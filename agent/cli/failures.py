"""How a call to the daemon fails, and how that is printed."""

from collections.abc import Mapping
from typing import Any

from agent.cli.output import EXIT_FAILED, end_with_json, print_failure, print_faults
from agent.command_line import EXIT_USAGE
from agent.errors import Fault


class ClientError(Exception):
    """A call that failed: message and hint for people, `document` as an error body of the API."""

    exit_status = EXIT_FAILED

    def __init__(self, message: str, hint: str = "", *, error_class: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.faults: tuple[Fault, ...] = ()
        self.document: Mapping[str, Any] = {
            "class": error_class,
            "message": message,
            "errorCode": code,
            "details": {"hint": hint} if hint else {},
        }


class Unreachable(ClientError):
    """Nobody answers on the socket. Another try may help: the daemon may be starting again."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, error_class="Client::Unreachable", code="AGENT_UNREACHABLE")


class BadAnswer(ClientError):
    """What answers on the socket is not byoi-agent, or one of another version. Another try does not help."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"what answers on {path} is no byoi-agent of this version: {reason}",
            "Use the byoi command that came with the agent, and restart an agent that was updated.",
            error_class="Client::BadAnswer",
            code="BAD_ANSWER",
        )


class Refused(ClientError):
    """The daemon answered with an HTTP status other than 2xx; `document` is its error body, {} where it has none."""

    def __init__(self, http_status: int, document: Mapping[str, Any]) -> None:
        message, code = document.get("message"), document.get("errorCode")
        super().__init__(
            message if isinstance(message, str) and message else f"byoi-agent refused it ({http_status})",
            error_class="",
            code=code if isinstance(code, str) else "",
        )
        details = document.get("details")
        details = details if isinstance(details, dict) else {}
        self.http_status = http_status
        self.document = document
        self.faults = _read_faults(details.get("faults"))
        hint = details.get("hint")
        self.hint = hint if isinstance(hint, str) else ""
        if http_status in (400, 413, 422):
            self.exit_status = EXIT_USAGE
        elif http_status == 409 and not self.hint:
            self.hint = "`byoi status` shows what runs, `byoi cancel` cancels it."


def _read_faults(items: object) -> tuple[Fault, ...]:
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return tuple(
        Fault(str(item.get("path") or ""), item["message"])
        for item in found
        if isinstance(item.get("message"), str)
    )


def print_client_error(error: ClientError, *, as_json: bool) -> int:
    """Print the error on stderr, and its error body on stdout too where `as_json`; returns the exit status.

    An error body has no member `status`, so that nobody takes it for a status document.
    """
    if error.faults:
        print_faults(error.message, error.faults, error.hint)
    else:
        print_failure({"message": error.message, "hint": error.hint})
    return end_with_json(error.exit_status, error.document) if as_json else error.exit_status
