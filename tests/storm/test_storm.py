"""A short storm of each suite. Long ones: docs/proof.md."""

import random
import sys

import pytest

from tests.kit.commands import attempt
from tests.storm.frame import SUITES

RUNS = {"network": 25, "images": 150}


@pytest.mark.parametrize("suite", RUNS)
def test_a_short_storm(suite: str):
    seed = random.getrandbits(
        20
    )  # repeated by the seed that pytest-randomly shows, or by the command in the output
    done = attempt(sys.executable, "-m", "tests.storm", suite, "--runs", RUNS[suite], "--seed", seed)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_suite_has_one():
    assert set(RUNS) == set(SUITES)
