"""What the commands print: documents on stdout, errors with their hints on stderr; and the exit statuses.

The texts come from jobs, servers and disks: a model name, a URL or a message may hold escape sequences. On stderr, and
in JSON, characters that are not printable are replaced or escaped here. What goes to `print_stdout` has been made
printable by its caller.
"""

import contextlib
import json
import re
import sys
from typing import Any

from agent.command_line import EXIT_OUTPUT, EXIT_USAGE, OutputLost, write_out
from agent.errors import Blame, DeployError, Fault, ImageDownload, JobCancelled, JobInvalid
from agent.model.disk_state import DiskState
from agent.text import printable

EXIT_DONE, EXIT_FAILED, EXIT_CANCELLED = 0, 1, 130


def exit_status(error: dict[str, Any]) -> int:
    """The exit status for an error, given as the `error` member of a status document."""
    if error["code"] == JobCancelled.code:
        return EXIT_CANCELLED
    # image.download is blamed on the request, but the disk may have been wiped by then: it is a failed deployment.
    is_usage = error["blame"] == Blame.REQUEST and error["code"] != ImageDownload.code
    return EXIT_USAGE if is_usage else EXIT_FAILED


def print_stdout(text: str) -> None:
    """Print one text and a line break on stdout, and flush it.

    Raises:
        OutputLost: stdout does not take it.
    """
    write_out(f"{text}\n")


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; characters that are not printable become JSON's escapes.

    Raises:
        OutputLost: stdout does not take it.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False)
    print_stdout(re.sub(r"[^\n -~]", lambda found: _escaped(found[0]), text))


def end_with_json(status: int, document: Any) -> int:
    """Print the final document on stdout, and return the exit status of the command.

    That is `status`; where stdout does not take the document and `status` is 0, EXIT_OUTPUT.
    """
    try:
        print_json(document)
    except OutputLost as lost:
        print_output_lost(lost)
        return status or EXIT_OUTPUT
    return status


def print_output_lost(lost: OutputLost) -> None:
    """Print on stderr that stdout did not take the output."""
    print_stderr(f"error: {lost}")


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def print_error(error: DeployError, *, as_json: bool = False) -> int:
    """Print an error on stderr, and as a status document on stdout too where `as_json`; returns the exit status.

    For errors that a command raises: no disk has been opened for writing then.
    """
    if isinstance(error, JobInvalid):
        print_faults(error.message, error.faults, error.hint)
    else:
        print_failure(error.document())
    status = exit_status(error.document())
    if as_json:
        # The four members of the OVH API's status come first, as in every status document.
        status_members = {"servername": None, "status": "error", "message": error.message, "checksum": None}
        failure = error.document() | {"diskState": DiskState.UNTOUCHED}
        return end_with_json(status, status_members | {"error": failure})
    return status


def print_faults(message: str, faults: tuple[Fault, ...], hint: str) -> None:
    """Print the faults of a job on stderr, each with its path, and the hint if there is one."""
    if len(faults) > 1:
        print_stderr("error: the job has faults:")
        for fault in faults:
            print_stderr(f"  {fault}")
    else:
        path = faults[0].path if faults and message == faults[0].message else ""
        print_stderr(f"error: {message} ({path})" if path else f"error: {message}")
    if hint:
        print_stderr(f"hint: {hint}")


def print_failure(error: dict[str, Any]) -> None:
    """Print the error of a status document on stderr: message, detail and hint."""
    for line in failure_lines(error):
        print_stderr(line)


def failure_lines(error: dict[str, Any]) -> tuple[str, ...]:
    """The error of a status document as printable lines: message, detail and hint."""
    lines = [f"error: {error['message']}"]
    if error.get("detail"):
        lines.append(f"  {error['detail']}")
    if error.get("hint"):
        lines.append(f"hint: {error['hint']}")
    return tuple(printable(line) for text in lines for line in text.splitlines())


def print_stderr(text: str) -> None:
    """Print lines on stderr, each made printable. A stderr that is closed or full is no fault of the command."""
    with contextlib.suppress(OSError, ValueError):
        for line in text.splitlines():
            print(printable(line), file=sys.stderr)
