"""What the commands print: errors on stderr with their hint, documents on stdout."""

import json
import sys
from typing import Any

from agent.errors import Blame, DeployError, JobCancelled, JobInvalid

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_CANCELLED = 0, 1, 2, 130


def exit_status(error: dict[str, Any]) -> int:
    """The exit status that stands for the error of a status document."""
    if error["code"] == JobCancelled.code:
        return EXIT_CANCELLED
    return EXIT_USAGE if error["blame"] == Blame.REQUEST else EXIT_FAILED


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_error(error: DeployError, *, as_json: bool = False) -> None:
    """Tell an error on stderr; as JSON also on stdout."""
    if isinstance(error, JobInvalid) and len(error.faults) > 1:
        print("error: the job has faults:", file=sys.stderr)
        for fault in error.faults:
            print(f"  {fault}", file=sys.stderr)
    elif isinstance(error, JobInvalid):
        where = (
            f" ({error.faults[0].path})"
            if error.message == error.faults[0].message and error.faults[0].path
            else ""
        )
        print(f"error: {error.message}{where}", file=sys.stderr)
    else:
        print_failure(error.document())
    if as_json:
        # The members that every status document begins with, for those who read only these.
        seed = {"servername": None, "status": "error", "message": error.message, "checksum": None}
        print_json(seed | {"error": error.document()})


def print_failure(error: dict[str, Any]) -> None:
    """The error of a status document: message, detail and hint."""
    print(f"error: {error['message']}", file=sys.stderr)
    if error.get("detail"):
        print(f"  {error['detail']}", file=sys.stderr)
    if error.get("hint"):
        print(f"hint: {error['hint']}", file=sys.stderr)
