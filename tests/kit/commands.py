"""Tools of the system, run to their end."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Of the checkout."""


def attempt(*argv: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool that may fail."""
    words = [str(word) for word in argv]
    return subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)


def run(*argv: object, stdin: str | None = None) -> str:
    """Run a tool that has to succeed: gives its output. Where it fails, its words are shown."""
    done = attempt(*argv, stdin=stdin)
    assert done.returncode == 0, f"{' '.join(done.args)}: {done.stdout}{done.stderr}"
    return done.stdout
