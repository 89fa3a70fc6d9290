"""The linters, run as tests: one command says whether a change is fit."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{Path(command[0]).name} found faults:\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff_check_finds_nothing():
    check(str(BIN / "ruff"), "check", "--quiet", ".")


def test_ruff_format_would_change_nothing():
    check(str(BIN / "ruff"), "format", "--check", "--diff", "--quiet", ".")


@pytest.mark.timeout(300)
def test_mypy_finds_nothing():
    check(str(BIN / "mypy"))


def test_imports_go_in_one_direction():
    check(str(BIN / "lint-imports"))
