"""A deployment in words. Whatever a document holds, a terminal gets nothing to obey."""

import dataclasses
import json

import pytest

from agent.cli.output import failure_lines, print_json
from agent.cli.report import Reboot, Report
from agent.cli.words import amounts, describe, footer_lines, reboot_line, summary
from agent.errors import ChecksumMismatch
from agent.model.stage import State
from agent.model.status import Progress, StageTime, Status
from agent.units import GiB, MiB

RUNNING = Status(
    server_name="ns1.example.net",
    state=State.WRITE,
    message="Downloading the image and writing it to the disk.",
    checksum=None,
    percent=41.27,
    attempt=2,
    progress=Progress(512 * MiB, GiB, 512 * MiB, rate=100 * MiB, eta=5.12, waiting_on="network"),
    started_at=1000.0,
    updated_at=1010.0,
    stages=(StageTime("preflight", 1000.0, 0.5), StageTime("write", 1000.5, None)),
    disk={"path": "/dev/sda"},
    job={"URL": "https://images.example.net/a.qcow2", "type": "qcow2"},
    notes=("resumed at byte 5",),
)
FAILED = dataclasses.replace(
    RUNNING,
    state=State.ERROR,
    finished_at=1012.5,
    error=ChecksumMismatch(algorithm="sha256", got="1", expected="2", detail="of 3 bytes").document(),
)
DONE = dataclasses.replace(
    RUNNING, state=State.DONE, finished_at=1012.5, checksum="sha256:abc", percent=100.0
)


def report(status: Status | None, reboot: Reboot | None = None, **more: object) -> Report:
    return Report(1, "ns1.example.net", "a", status, reboot, {}, **more)


def test_what_status_shows_while_it_runs():
    assert describe(report(RUNNING), now=1020.5) == [
        "server:   ns1.example.net",
        "status:   doing: Downloading the image and writing it to the disk.",
        "image:    https://images.example.net/a.qcow2",
        "disk:     /dev/sda",
        "progress: 41.3 %, 512.0 MiB of 1.0 GiB, 100.0 MiB/s, 5.1 s left, waiting on network, attempt 2",
        "started:  1970-01-01 00:16:40 UTC, 20.5 s ago",
        "stage:    preflight  0.5 s",
        "          write      20.0 s so far",
        "note:     resumed at byte 5",
    ]


def test_what_status_shows_in_the_end():
    lines = describe(report(FAILED), now=9999)
    assert "started:  1970-01-01 00:16:40 UTC, took 12.5 s" in lines
    assert lines[-3:] == [
        "error: Bad sha256 for downloaded file, got: 1 while expecting 2.",
        "  of 3 bytes",
        "hint: Check that checkSum belongs to the file behind the URL.",
    ]
    assert "reboot:   rebooting to disk now" in describe(report(DONE, Reboot("due")), now=9999)
    idle = describe(report(None, notes=("the journal was set aside",)), now=0)
    assert idle[1:] == ["status:   no deployment", "note:     the journal was set aside"]


REBOOTS = {
    None: None,
    Reboot("waiting", 142.0): "rebooting to disk in 42 s at most, as soon as the control plane has seen it",
    Reboot("waiting", 10.0): "rebooting to disk in 0 s at most, as soon as the control plane has seen it",
    Reboot("waiting"): "rebooting to disk as soon as the control plane has seen it",
    Reboot("waiting", 7300.0, "it cannot be reached: Connection refused"): (
        "rebooting to disk in 2 h 00 min at most, as soon as the control plane has seen it "
        "(so far: it cannot be reached: Connection refused)"
    ),
    Reboot("due"): "rebooting to disk now",
    Reboot("disabled"): "rebooting is disabled here: the deployed system starts at the next boot",
    Reboot("failed", None, "exit 1"): "the reboot failed: exit 1; reboot by hand",
    Reboot("called-off"): "reboot: called-off",
}


@pytest.mark.parametrize("reboot", REBOOTS)
def test_the_reboot_in_words(reboot):
    assert reboot_line(reboot, now=100.0) == REBOOTS[reboot]


def test_what_stands_on_a_console():
    assert footer_lines(report(None), 0) == ("waiting for a deployment (ns1.example.net)",)
    assert footer_lines(report(RUNNING), 0) == ()
    assert footer_lines(report(FAILED), 0)[-1].startswith("hint: ")
    assert footer_lines(report(DONE, Reboot("due")), 0) == ("rebooting to disk now",)
    assert footer_lines(report(DONE), 0) == (summary(DONE),)


EVIL = "a\x1b]0;owned\x07\x9b31m\u202e\x7f\r\nb"


def test_nothing_that_a_terminal_obeys_gets_out(capsys):
    error = {"code": "a", "blame": "disk", "message": EVIL, "detail": EVIL, "hint": EVIL}
    evil = dataclasses.replace(
        FAILED,
        message=EVIL,
        checksum=EVIL,
        error=error,
        disk={"path": EVIL},
        job={"URL": EVIL},
        notes=(EVIL,),
        stages=(StageTime(EVIL, 0.0, 1.0),),
        progress=Progress(waiting_on=EVIL),
    )
    whole = Report(1, EVIL, EVIL, evil, Reboot(EVIL, None, EVIL), {}, (EVIL,))
    lines = [
        *describe(whole, 0),
        *describe(dataclasses.replace(whole, status=None), 0),
        *footer_lines(dataclasses.replace(whole, status=None), 0),
        *failure_lines(error),
        amounts(evil),
        summary(evil),
        *(reboot_line(Reboot(state, None, EVIL), 0) or "" for state in ("failed", "waiting", EVIL)),
    ]
    assert "a?]0;owned??31m???" in lines[0]
    assert [line for line in lines if not line.isprintable()] == []

    print_json({EVIL: [EVIL, "é\ud800"]})
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert json.loads(printed) == {EVIL: [EVIL, "é\ud800"]}
    assert "é" in printed
