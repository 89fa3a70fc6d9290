"""What the commands print: errors on stderr with their hint, documents on stdout.

Texts of documents are not ours: a model name, a URL or a message may hold what a terminal would obey. Nothing but
printable characters leaves by these functions.
"""

import json
import re
import sys
from typing import Any

from agent.errors import Blame, DeployError, Fault, JobCancelled, JobInvalid
from agent.model.disks import printable

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_CANCELLED = 0, 1, 2, 130


def exit_status(error: dict[str, Any]) -> int:
    """The exit status that stands for the error of a status document."""
    if error["code"] == JobCancelled.code:
        return EXIT_CANCELLED
    return EXIT_USAGE if error["blame"] == Blame.REQUEST else EXIT_FAILED


def print_json(document: Any) -> None:
    """One JSON document on stdout, with everything escaped that is not printable."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    print(re.sub(r"[^\n -~]", lambda found: _escaped(found[0]), text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def print_error(error: DeployError, *, as_json: bool = False) -> None:
    """Tell an error on stderr; as JSON also on stdout."""
    if isinstance(error, JobInvalid):
        print_faults(error.message, error.faults, error.hint)
    else:
        print_failure(error.document())
    if as_json:
        # The members that every status document begins with, for those who read only these.
        seed = {"servername": None, "status": "error", "message": error.message, "checksum": None}
        print_json(seed | {"error": error.document()})


def print_faults(message: str, faults: tuple[Fault, ...], hint: str) -> None:
    """The faults of a job, each with its path, and the hint if there is one."""
    if len(faults) > 1:
        _tell("error: the job has faults:")
        for fault in faults:
            _tell(f"  {fault}")
    else:
        path = faults[0].path if faults and message == faults[0].message else ""
        _tell(f"error: {message} ({path})" if path else f"error: {message}")
    if hint:
        _tell(f"hint: {hint}")


def print_failure(error: dict[str, Any]) -> None:
    """The error of a status document: message, detail and hint."""
    for line in failure_lines(error):
        _tell(line)


def failure_lines(error: dict[str, Any]) -> tuple[str, ...]:
    """The error of a status document as printable lines: message, detail and hint."""
    lines = [f"error: {error['message']}"]
    if error.get("detail"):
        lines.append(f"  {error['detail']}")
    if error.get("hint"):
        lines.append(f"hint: {error['hint']}")
    return tuple(printable(line) for text in lines for line in text.splitlines())


def _tell(text: str) -> None:
    for line in text.splitlines():
        print(printable(line), file=sys.stderr)
