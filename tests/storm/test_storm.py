"""A short storm of each suite. Long ones: docs/proof.md."""

import random
import sys

import pytest

from tests.kit.commands import attempt
from tests.storm.frame import SUITES
from tests.storm.process import SPAN

RUNS = {"network": 25, "images": 150, "process": 18, "power": 200, "api": 8, "disk": 10}


def seed_for(suite: str) -> int:
    """A random one. The process storm begins with four jobs in which the daemon may die, and goes on in one life."""
    number = random.getrandbits(12)  # repeated by the seed that pytest-randomly shows
    return (2 * number + 1) * SPAN - 4 if suite == "process" else number << 12


@pytest.mark.parametrize("suite", RUNS)
def test_a_short_storm(suite: str):
    """Its output has the command that repeats a failure."""
    processes = ["--processes", 1] if suite == "process" else []
    done = attempt(
        sys.executable,
        "-m",
        "tests.storm",
        suite,
        "--runs",
        RUNS[suite],
        "--seed",
        seed_for(suite),
        *processes,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_suite_has_one():
    assert set(RUNS) == set(SUITES)
