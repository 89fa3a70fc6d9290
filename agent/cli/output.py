"""What the commands print: errors on stderr with their hint, documents on stdout.

Texts of documents are not ours: a model name, a URL or a message may hold what a terminal would obey. Nothing but
printable characters leaves by these functions.
"""

import contextlib
import errno
import json
import re
import sys
from typing import Any

from agent.errors import Blame, DeployError, Fault, ImageDownload, JobCancelled, JobInvalid
from agent.model.disk_state import DiskState
from agent.text import printable

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_OUTPUT, EXIT_CANCELLED = 0, 1, 2, 3, 130


class OutputLost(Exception):
    """Stdout is closed or full: what was printed has not arrived, or not all of it."""


def exit_status(error: dict[str, Any]) -> int:
    """The exit status that stands for the error of a status document."""
    if error["code"] == JobCancelled.code:
        return EXIT_CANCELLED
    # A download that fails is a deployment that fails, whoever has to mend it: the disk may have been wiped by then.
    is_usage = error["blame"] == Blame.REQUEST and error["code"] != ImageDownload.code
    return EXIT_USAGE if is_usage else EXIT_FAILED


def say(text: str) -> None:
    """One text on stdout, to its last byte.

    Raises:
        OutputLost: stdout does not take it.
    """
    try:
        if sys.stdout is None:  # whoever started us has closed it
            raise OSError(errno.EBADF, "it is closed")
        print(text, flush=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise OutputLost(reason or str(error)) from None


def print_json(document: Any) -> None:
    """One JSON document on stdout, with everything escaped that is not printable.

    Raises:
        OutputLost: stdout does not take it.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False)
    say(re.sub(r"[^\n -~]", lambda found: _escaped(found[0]), text))


def end_with_json(status: int, document: Any) -> int:
    """Print the last document; returns the exit status. A lost document makes a failure of success, of nothing else."""
    try:
        print_json(document)
    except OutputLost as lost:
        print_lost(lost)
        return status or EXIT_OUTPUT
    return status


def print_lost(lost: OutputLost) -> None:
    """Tell that the output was lost."""
    tell(f"error: the output could not be written to stdout: {lost}")


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def print_error(error: DeployError, *, as_json: bool = False) -> int:
    """Tell an error on stderr, as JSON also on stdout; returns the exit status."""
    if isinstance(error, JobInvalid):
        print_faults(error.message, error.faults, error.hint)
    else:
        print_failure(error.document())
    status = exit_status(error.document())
    if as_json:
        # The members that every status document begins with, for those who read only these.
        body = {"servername": None, "status": "error", "message": error.message, "checksum": None}
        # What is raised to a command came before any disk was opened for writing.
        return end_with_json(status, body | {"error": error.document() | {"diskState": DiskState.UNTOUCHED}})
    return status


def print_faults(message: str, faults: tuple[Fault, ...], hint: str) -> None:
    """The faults of a job, each with its path, and the hint if there is one."""
    if len(faults) > 1:
        tell("error: the job has faults:")
        for fault in faults:
            tell(f"  {fault}")
    else:
        path = faults[0].path if faults and message == faults[0].message else ""
        tell(f"error: {message} ({path})" if path else f"error: {message}")
    if hint:
        tell(f"hint: {hint}")


def print_failure(error: dict[str, Any]) -> None:
    """The error of a status document: message, detail and hint."""
    for line in failure_lines(error):
        tell(line)


def failure_lines(error: dict[str, Any]) -> tuple[str, ...]:
    """The error of a status document as printable lines: message, detail and hint."""
    lines = [f"error: {error['message']}"]
    if error.get("detail"):
        lines.append(f"  {error['detail']}")
    if error.get("hint"):
        lines.append(f"hint: {error['hint']}")
    return tuple(printable(line) for text in lines for line in text.splitlines())


def tell(text: str) -> None:
    """Lines on stderr. One that is closed or full has nobody who reads it, and changes nothing."""
    with contextlib.suppress(OSError, ValueError):
        for line in text.splitlines():
            print(printable(line), file=sys.stderr)
