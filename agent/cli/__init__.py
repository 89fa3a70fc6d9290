"""`byoi`: the command for people."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 130 where it is interrupted, also while it still loads."""
    try:
        from agent.cli.main import main as run  # noqa: PLC0415 - loading takes long enough to be interrupted

        return run(arguments)
    except KeyboardInterrupt:
        return 130
