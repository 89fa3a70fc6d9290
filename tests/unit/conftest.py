"""Unit means pure: whatever starts a process or sleeps belongs to another ring, and fails here."""

import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

PROCESSES = frozenset({"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
LONGEST_SLEEP = 0.05  # seconds: enough to give way to another thread

HERE = Path(__file__).parent

_watching = False


def _audit(event: str, _arguments: tuple[Any, ...]) -> None:
    """Hooks cannot be taken away again; this one minds the unit tests only, since the other rings start processes."""
    if _watching and event in PROCESSES:
        raise AssertionError(f"a unit test starts no process ({event}): it belongs to tests/integration")


sys.addaudithook(_audit)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Watch a test of this ring with all of its fixtures, those of its module and of the session too.

    pytest calls this hook of every conftest for the tests of all rings.
    """
    global _watching  # noqa: PLW0603 - there is one hook for the whole process
    _watching = item.path.is_relative_to(HERE)
    try:
        return (yield)
    finally:
        _watching = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Behind the last test of a process come the ends of the session's fixtures, of all rings."""
    global _watching  # noqa: PLW0603 - as above
    if nextitem is None:
        _watching = False


@pytest.fixture(autouse=True)
def _no_real_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = time.sleep

    def short(seconds: float) -> None:
        assert seconds <= LONGEST_SLEEP, f"a unit test sleeps for {seconds} s: give what it tests a clock"
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", short)
