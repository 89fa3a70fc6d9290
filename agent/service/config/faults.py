"""The faults for which the daemon did not start, left for `byoi status` and the console: a file beside the socket."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.errors import Fault
from agent.units import KiB

FAULTS_NAME = "faults"
"""In the directory of the socket, which systemd makes and names to the daemon in RUNTIME_DIRECTORY."""
MAX_FAULTS_BYTES = 4 * KiB


def leave_faults(environ: Mapping[str, str], faults: Sequence[Fault]) -> None:
    """Write the faults down, a line each; without any, remove what was left. Where that fails, nobody is shown them."""
    directory = environ.get("RUNTIME_DIRECTORY")
    if not directory:
        return
    path = Path(directory, FAULTS_NAME)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        if faults:
            path.write_text("".join(f"{fault}\n" for fault in faults)[:MAX_FAULTS_BYTES], encoding="utf-8")
            path.chmod(0o640)
