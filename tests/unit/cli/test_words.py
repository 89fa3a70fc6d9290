"""A deployment in words. Whatever a document holds, a terminal gets nothing to obey."""

import dataclasses
import json

import pytest

from agent.cli.console import footer_lines
from agent.cli.output import failure_lines, print_json
from agent.cli.report import Reboot, Report
from agent.cli.surroundings import Contact, Surroundings
from agent.cli.words import REPORT, amounts, describe, reboot_line, summary
from agent.errors import ChecksumMismatch
from agent.model.disk_state import DiskState, with_disk_state
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
    progress=Progress(
        512 * MiB, GiB, 512 * MiB, rate=100 * MiB, eta=5.12, waiting_on="network", connections=4
    ),
    started_at=1000.0,
    updated_at=1010.0,
    stages=(StageTime("preflight", 1000.0, 0.5), StageTime("write", 1000.5, None)),
    disks=({"path": "/dev/sda", "model": "SSD 860 ", "serial": "S3Z9", "size": 20 * GiB},),
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
        "image:    https://images.example.net/a.qcow2 (qcow2)",
        "disk:     /dev/sda (SSD 860, serial S3Z9, 20.0 GiB)",
        "progress: 41.3 %, 512.0 MiB of 1.0 GiB, 100.0 MiB/s, 5.1 s left, waiting on network, 4 connections, attempt 2",
        "started:  1970-01-01 00:16:40 UTC, 20.5 s ago",
        "stage:    preflight  0.5 s",
        "          write      20.0 s so far",
        "note:     resumed at byte 5",
    ]


def test_what_status_shows_in_the_end():
    lines = describe(report(FAILED), now=9999)
    assert "started:  1970-01-01 00:16:40 UTC, took 12.5 s" in lines
    assert lines[-4:] == [
        "error: Bad sha256 for downloaded file, got: 1 while expecting 2.",
        "  of 3 bytes",
        "hint: Check that checkSum belongs to the file behind the URL.",
        REPORT,
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
    Reboot("waiting", waiting_for="client"): (
        "rebooting to disk as soon as somebody has asked the API for the outcome"
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
    image = "image: https://images.example.net/a.qcow2 (qcow2)"
    disk = "disk: /dev/sda (SSD 860, serial S3Z9, 20.0 GiB)"
    assert footer_lines(report(RUNNING), 0) == (image, disk)
    assert footer_lines(report(FAILED), 0) == (
        "error: Bad sha256 for downloaded file, got: 1 while expecting 2.",
        "  of 3 bytes",
        "hint: Check that checkSum belongs to the file behind the URL.",
        REPORT,
        image,
    )
    assert footer_lines(report(DONE, Reboot("due")), 0) == ("rebooting to disk now",)
    assert footer_lines(report(DONE), 0) == (summary(DONE),)
    lost = dataclasses.replace(DONE, disks=(*DONE.disks, {"path": "/dev/sdb", "failed": "it is worn"}))
    assert footer_lines(report(lost, Reboot("due")), 0) == (
        "rebooting to disk now",
        f"{disk} and /dev/sdb (failed, kept out)",
    )


def test_a_console_tells_of_the_control_plane_before_the_faults_which_may_not_all_fit():
    around = Surroundings(
        version="0.2.0",
        control_plane=Contact("https://c", "failing", reason="Connection refused"),
        in_force=False,
        fault_count=22,
        faults=tuple(f"surprise_{number}: is an unknown option" for number in range(22)),
    )
    place, plane, fault, *_ = footer_lines(report(None, surroundings=around), 0)
    assert place.startswith("byoi-agent 0.2.0 on ns1.example.net")
    assert plane == "control plane: https://c fails: Connection refused"
    assert fault.startswith("error: the agent does nothing: its configuration has 22 faults.")


STATES = {
    DiskState.UNTOUCHED: "Nothing was written: the disk holds what it held before. Deploy again, or reboot into",
    DiskState.EMPTY: "The disk is empty and cannot boot: deploy again",
    DiskState.COMMITTED: "The disk holds the deployed system and can boot. Reboot into it.",
    DiskState.UNKNOWN: "What is on the disk is not known",
}


@pytest.mark.parametrize("state", STATES)
def test_an_error_tells_what_it_leaves_of_which_disk_and_what_to_do(state):
    failed = dataclasses.replace(FAILED, error=with_disk_state(FAILED.error, state))
    for lines in (footer_lines(report(failed), 0), describe(report(failed), 0)):
        at = lines.index("hint: Check that checkSum belongs to the file behind the URL.")
        assert lines[at + 1] == "disk: /dev/sda (SSD 860, serial S3Z9, 20.0 GiB)"
        assert lines[at + 2].startswith(f"  {STATES[state]}")
    before = dataclasses.replace(failed, disks=())  # no disk was chosen yet
    assert any(line.startswith(f"disk: {STATES[state]}") for line in footer_lines(report(before), 0))


AROUND = Surroundings(
    version="0.1.0",
    addresses=("192.0.2.7", "2001:db8::7"),
    listening=("/run/byoi-agent/api.sock", "https://0.0.0.0:9443"),
    control_plane=Contact("https://control.example.net/byoi", "answering", 1000.0),
)
FAILING = Contact(
    "https://control.example.net/byoi",
    "failing",
    1000.0,
    "it cannot be reached: Connection refused",
    1188.0,
)


def test_an_idle_agent_tells_where_it_is_and_what_it_waits_for():
    idle = report(None, surroundings=AROUND)
    waits = (
        "for a job, by the API on /run/byoi-agent/api.sock or https://0.0.0.0:9443, "
        "or from the control plane https://control.example.net/byoi"
    )
    assert footer_lines(idle, 0) == (
        f"waiting for a deployment (ns1.example.net): {waits}",
        "byoi-agent 0.1.0 on ns1.example.net; address: 192.0.2.7, 2001:db8::7",
    )
    assert describe(idle, 0) == [
        "server:   ns1.example.net",
        "agent:    byoi-agent 0.1.0",
        "address:  192.0.2.7, 2001:db8::7",
        "status:   no deployment",
        f"waiting:  {waits}",
        "control:  https://control.example.net/byoi answers",
    ]
    nowhere = dataclasses.replace(AROUND, addresses=())
    assert "address:  this machine has none yet" in describe(report(None, surroundings=nowhere), 0)


@pytest.mark.parametrize("status", [None, RUNNING, FAILED, DONE])
def test_a_control_plane_that_fails_is_told_with_reason_since_when_and_next_try(status):
    whole = report(status, surroundings=dataclasses.replace(AROUND, control_plane=FAILING))
    said = "https://control.example.net/byoi fails: it cannot be reached: Connection refused"
    assert f"control plane: {said} (for 3 min 05 s, next try in 3 s)" in footer_lines(whole, 1185.0)
    assert f"control:  {said} (for 3 min 10 s, next try now)" in describe(whole, 1190.0)


def test_faults_of_the_configuration_are_listed():
    faulty = dataclasses.replace(
        AROUND, in_force=False, control_plane=None, fault_count=3, faults=("a.b: is wrong", "c: too")
    )
    shown = footer_lines(report(None, surroundings=faulty), 0)
    assert shown[0].startswith("byoi-agent 0.1.0 on ns1.example.net; address: 192.0.2.7")
    assert shown[1].startswith("error: the agent does nothing: its configuration has 3 faults. Mend")
    assert shown[2:] == ("- a.b: is wrong", "- c: too", "- and 1 more")
    lines = describe(report(None, surroundings=faulty), 0)
    assert lines[-4].startswith("fault:    the agent does nothing")
    assert lines[-1] == "          - and 1 more"
    assert not any(line.startswith("waiting") for line in lines)
    refused = dataclasses.replace(faulty, in_force=True, fault_count=1)
    assert footer_lines(report(RUNNING, surroundings=refused), 0)[3].startswith(
        "error: the new configuration is not in force: its configuration has 1 fault."
    )


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_status_fits_the_terminal(width):
    around = dataclasses.replace(AROUND, control_plane=FAILING, fault_count=1, faults=("x" * 300,))
    for status in (None, RUNNING, FAILED, DONE):
        lines = describe(report(status, Reboot("due"), surroundings=around), 0, width)
        assert max(map(len, lines)) <= width
        whole = "".join(describe(report(status, Reboot("due"), surroundings=around), 0))
        assert "".join("".join(lines).split()) == "".join(whole.split())


EVIL = "a\x1b]0;owned\x07\x9b31m\u202e\x7f\r\nb"


def test_nothing_that_a_terminal_obeys_gets_out(capsys):
    error = {"code": "a", "blame": "disk", "message": EVIL, "detail": EVIL, "hint": EVIL}
    evil = dataclasses.replace(
        FAILED,
        message=EVIL,
        checksum=EVIL,
        error=error,
        disks=({"path": EVIL, "model": EVIL, "serial": EVIL},),
        job={"URL": EVIL, "type": EVIL},
        notes=(EVIL,),
        stages=(StageTime(EVIL, 0.0, 1.0),),
        progress=Progress(waiting_on=EVIL),
    )
    plane = Contact(EVIL, "failing", None, EVIL, None)
    around = Surroundings(EVIL, (EVIL,), (EVIL,), plane, faults=(EVIL,), warnings=(EVIL,), fault_count=1)
    whole = Report(1, EVIL, EVIL, evil, Reboot(EVIL, None, EVIL), {}, (EVIL,), around)
    lines = [
        *describe(whole, 0),
        *describe(dataclasses.replace(whole, status=None), 0),
        *footer_lines(dataclasses.replace(whole, status=None), 0),
        *footer_lines(whole, 0),
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
