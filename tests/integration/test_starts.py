"""What is forked for a test is what would have been executed: the same process to itself, the same end to others."""

import json
import os
import pty
import resource
import signal
import subprocess
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest

from tests.kit.commands import ROOT
from tests.kit.starts import Forked, Process, start_python

ENDS = {
    "return": 0,
    "exit": 7,
    "words": 1,
    "raise": 1,
    "interrupt": -signal.SIGINT,
    "kill": -signal.SIGKILL,
    "at once": 9,
    "thread": 0,
    "atexit": 0,
    "buffered": 0,
    "loop": 0,
    "descendant": 0,
}
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "LANG": "C.UTF-8",
    "PYTHONPATH": str(ROOT),
    "TZ": "Asia/Tokyo",
    "é": "\udcff",
}
MIRROR = "tests.kit.mirror"
WAITS = "tests.kit.commit_driver"
"""Reads stdin to its end."""


def end_of(directory: Path, way: str, *, fresh: bool) -> tuple[int, str, str]:
    """How the mirror ended, what it printed, and its messages without the places in tracebacks."""
    out, err, given = directory / "out", directory / "err", directory / "in"
    given.write_bytes(b"one\r\ntwo\xff")
    with given.open("rb") as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
        process = start_python(
            ["-m", MIRROR, way, "a b", ""], ENVIRONMENT,
            stdin=stdin, stdout=stdout, stderr=stderr, directory=directory, fresh=fresh,
        )  # fmt: skip
        status = process.wait(60)
        assert process.poll() == status
        process.kill()  # it has ended: nobody is hit
    messages = [line for line in err.read_text().splitlines() if not line.startswith((" ", "Traceback"))]
    return status, out.read_text(), "\n".join(messages)


@pytest.mark.parametrize("way", ENDS)
def test_a_fork_sees_what_an_executed_process_sees_and_ends_as_it_does(tmp_path, way):
    executed = end_of(tmp_path, way, fresh=True)
    assert executed[0] == ENDS[way]
    assert end_of(tmp_path, way, fresh=False) == executed


def test_a_fork_on_a_terminal_leads_a_session_as_an_executed_process_does():
    def seen(*, fresh: bool) -> dict[str, Any]:
        master, slave = pty.openpty()
        read, write = os.pipe()
        process = start_python(
            ["-m", MIRROR, "return"], ENVIRONMENT,
            stdin=slave, stdout=write, stderr=slave, directory=Path("/"), terminal=True, fresh=fresh,
        )  # fmt: skip
        os.close(slave)
        os.close(write)
        with os.fdopen(read) as printed:
            document: dict[str, Any] = json.load(printed)
        assert process.wait(60) == 0
        os.close(master)
        return document

    executed, forked = seen(fresh=True), seen(fresh=False)
    assert forked["leads_session"]
    assert forked["terminal"]
    for document in (executed, forked):
        del document["descriptors"]  # of another pipe and another terminal
    assert forked == executed


def test_limits_are_those_of_the_moment(tmp_path):
    """And not of the start of the server."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    end_of(tmp_path, "return", fresh=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12345678, before[1]))
    try:
        _, printed, _ = end_of(tmp_path, "return", fresh=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [12345678, before[1]] in json.loads(printed)["limits"]


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "executed"])
def test_signals_arrive_and_are_the_end(fresh):
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb"):
        waiting = start_python(
            ["-m", WAITS], ENVIRONMENT, stdin=stdin, stdout=DEVNULL, stderr=DEVNULL, fresh=fresh
        )
        other = start_python(
            ["-m", WAITS], ENVIRONMENT, stdin=stdin, stdout=DEVNULL, stderr=DEVNULL, fresh=fresh
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.05)
        waiting.terminate()
        assert waiting.wait(60) == -signal.SIGTERM
        assert other.poll() is None
        other.kill()
        assert other.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize(
    "variable", [{"PYTHONUTF8": "0"}, {"LANG": "C"}, {"LC_ALL": "C"}, {"LD_PRELOAD": ""}], ids=str
)
def test_what_the_interpreter_hears_at_its_start_only_is_executed(variable):
    def started(environment: dict[str, str]) -> Process:
        process = start_python(["-m", MIRROR, "return"], environment, stdout=DEVNULL, stderr=DEVNULL)
        process.wait(60)
        return process

    assert isinstance(started(ENVIRONMENT), Forked)
    assert not isinstance(started(ENVIRONMENT | variable), Forked)
