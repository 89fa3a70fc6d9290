"""`byoi-agent`: the daemon's command. This version has no daemon yet: it says so and names the way."""

import argparse
import sys
from collections.abc import Sequence

from agent import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer --version and --help; refuse to pretend to serve."""
    parser = argparse.ArgumentParser(
        prog="byoi-agent", description="The byoi-agent daemon (not part of this version)."
    )
    parser.add_argument("--version", action="version", version=f"byoi-agent {__version__}")
    parser.parse_args(arguments)
    print(
        "byoi-agent: this version has no daemon; deploy with `byoi write` (see `byoi write --help`)",
        file=sys.stderr,
    )
    return 2
