"""`byoi`: the command for people."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 130 where Ctrl-C interrupts it, while modules are imported too."""
    try:
        from agent.cli.main import main as run  # noqa: PLC0415 - inside the try: importing takes long enough to be interrupted

        return run(arguments)
    except KeyboardInterrupt:
        return 130
