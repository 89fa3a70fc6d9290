"""`byoi`: the command for people."""

import atexit
import gc
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 130 where Ctrl-C interrupts it, while modules are imported too."""
    # At its end the interpreter looks for garbage among everything that was imported, for 20 ms and for nothing.
    atexit.register(gc.freeze)
    try:
        from agent.cli.main import main as run  # noqa: PLC0415 - inside the try: importing takes long enough to be interrupted

        return run(arguments)
    except KeyboardInterrupt:
        return 130
