"""The lab's own judgement: it has to tell a whole system from half of one, and what is right from what was not run."""

import asyncio
import json
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.aio import run_blocking
from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.lab import deploy, power, rescue, results
from tests.lab.checks import DRIVE, assert_probe, boot_probe, target
from tests.lab.disks import DIRT, make_dirty
from tests.lab.matrix import CASES, Case, cases
from tests.lab.rescue import Rescue
from tests.lab.serial import KernelPanic, Serial

CASE = Case(firmware="bios", form="raw", bus="virtio")
STAGES = {"preflight": 2.0, "claim": 0.5, "write": 10.0, "verify": 0.1, "finish": 0.2, "commit": 1.0}


OOPS = """\
[   12.3] Oops: general protection fault: 0000 [#1] PREEMPT SMP NOPTI
[   12.3] RIP: 0010:enqueue_task+0x24/0x130
[   12.4] Kernel panic - not syncing: Fatal exception in interrupt
"""


@asynccontextmanager
async def console() -> AsyncIterator[tuple[Serial, socket.socket]]:
    """A console, and the machine's end of it."""
    ours, machine = socket.socketpair(socket.AF_UNIX)
    _, serial = await asyncio.get_running_loop().create_unix_connection(Serial, sock=ours)
    with machine:
        yield serial, machine
        serial.close()


async def wait_for_ever(serial: Serial) -> None:
    async with serial.watched():
        await asyncio.Event().wait()


async def test_nothing_is_waited_for_once_the_kernel_has_died() -> None:
    pieces = ("a system starts\r\n", OOPS[:-40], OOPS[-40:], "[   12.5] ---[ end")
    async with console() as (serial, machine):
        for number, piece in enumerate(pieces, start=1):
            asyncio.get_running_loop().call_later(number * 0.01, machine.send, piece.encode())
        with pytest.raises(KernelPanic) as death:
            await wait_for_ever(serial)
    assert death.value.args[0].splitlines()[1:] == [
        "a system starts",
        *OOPS.splitlines(),
        "[   12.5] ---[ end",
    ]


INIT = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n"
SPEAKS = "14:34:01 waiting for a deployment (lab1)\n"


@asynccontextmanager
async def switched_on(said: str) -> AsyncIterator[Rescue]:
    """A machine of which there is nothing but what its console says."""
    async with console() as (serial, machine), serial.watched():
        machine.send(said.encode())
        yield Rescue(SimpleNamespace(serial=serial), None, None)


@pytest.mark.parametrize(
    ("consoles", "starts", "survives"),
    [
        ((SPEAKS,), 1, True),
        ((OOPS, SPEAKS), 2, True),
        ((OOPS, OOPS), 2, False),
        ((INIT,), 1, False),
    ],
    ids=["at once", "at the second start", "at neither", "of its init"],
)
async def test_a_machine_whose_kernel_dies_before_it_speaks_is_started_once_more(
    consoles, starts: int, survives: bool
) -> None:
    left = list(consoles)
    with nullcontext() if survives else pytest.raises(KernelPanic):
        async with rescue.awake(lambda: switched_on(left.pop(0))) as machine:
            assert "waiting" in machine.server.serial.text
    assert len(consoles) - len(left) == starts
    assert len(rescue.second_starts) == starts - 1
    rescue.second_starts.clear()  # it was no machine that anybody wants to be told of


async def test_a_machine_whose_kernel_dies_later_is_not_started_again() -> None:
    left = [SPEAKS + OOPS]
    with pytest.raises(KernelPanic):
        async with rescue.awake(lambda: switched_on(left.pop())) as machine:
            await machine.server.serial.wait_for("never said", 60)
    assert rescue.second_starts == []


async def test_a_wait_that_is_over_is_no_panic() -> None:
    async with console() as (serial, machine):
        machine.send(b"hello")
        with pytest.raises(TimeoutError, match="did not say 'login'"):
            async with serial.watched():
                await serial.wait_for("login", 0.1)


def lose_a_write(disk: Path) -> None:
    """Put the old content of the disk back into one sector of a file that nothing needs to start."""
    table = json.loads(run("sfdisk", "--json", disk))["partitiontable"]
    root = max(table["partitions"], key=lambda partition: partition["size"])["start"] * 512
    blocks = run("debugfs", "-R", "blocks /noise", f"{disk}?offset={root}").split()
    with disk.open("r+b") as file:
        file.seek(root + int(blocks[len(blocks) // 2]) * 4 * KiB)
        file.write(DIRT[:512])


async def test_one_lost_sector_is_noticed(job_for, disk_file: Path) -> None:
    job = await run_blocking(job_for, CASE, DRIVE)
    await run_blocking(make_dirty, disk_file, CASE.size)
    assert (await deploy.on_host(CASE, job, disk_file)).error_code == ""
    await run_blocking(lose_a_write, disk_file)
    report = await boot_probe(CASE, target(CASE, disk_file))
    assert "./noise: FAILED" in report.decoded("files")
    with pytest.raises(AssertionError, match="not the image's files"):
        assert_probe(report, CASE)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        ((), "old"),
        (((0, MiB), (-MiB, MiB)), "blank"),
        (((0, 512),), "headless"),
        (((512, 512),), "system"),
    ],
    ids=["nothing", "both-ends", "first-sector", "half"],
)
def test_what_a_cut_left_is_told_from_the_bytes(tmp_path: Path, write, expected: str) -> None:
    old = make_dirty(tmp_path / "old", 16 * MiB)
    left = tmp_path / "left"
    left.write_bytes(old.read_bytes())
    with left.open("r+b") as file:
        for offset, length in write:
            file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
            file.write(bytes(length))
    assert power.what_is_left(left, old) == expected


def test_the_last_third_of_the_cuts_falls_around_the_commit() -> None:
    instants = power.choose_instants(30, STAGES, random.Random(1))
    assert len(instants) == 30
    assert {instant.stage for instant in instants[20:]} <= {"verify", "finish", "commit"}
    assert "write" in {instant.stage for instant in instants[:20]}
    assert all(0 <= instant.seconds <= STAGES[instant.stage] for instant in instants)
    assert instants == power.choose_instants(30, STAGES, random.Random(1))


def test_cases_have_names_of_their_own_and_ci_runs_some() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert 0 < len(cases(everything=False)) < len(cases(everything=True)) == len(CASES)


def test_a_case_without_a_result_is_not_reported_as_passed() -> None:
    passed = {"case": CASES[0].name, "outcome": "passed", "seconds": {"deploy": 12.3}, "notes": {}}
    summary, *lines = results.matrix([passed])
    assert summary.startswith(f"1 of {len(CASES)} cases passed")
    assert sum("not run" in line for line in lines) == len(CASES) - 1


def test_a_case_whose_machine_was_started_twice_is_told_of() -> None:
    twice = {"case": CASES[0].name, "outcome": "passed", "seconds": {}, "notes": {"panics": [OOPS]}}
    assert "| passed at a second start |" in results.matrix([twice])[4]


def test_power_cuts_are_listed_by_the_stage_that_was_reached_and_not_by_the_one_that_was_planned() -> None:
    notes = {"cut": 0, "seed": "7", "planned": "write + 1.000 s", "reached": "commit", "left": "system"}
    fell = {"cut": 1, "seed": "7", "planned": "write + 2.000 s"}
    lines = results.power_cuts(
        [
            {"case": "", "outcome": "passed", "seconds": {}, "notes": notes},
            {"case": "", "outcome": "failed", "seconds": {}, "notes": fell},
        ]
    )
    assert lines[0].startswith("1 of 2 power cuts passed")
    assert lines[-2:] == ["| commit | system | 1 |", "| not told | **its test failed** | 1 |"]


def test_the_rest_of_the_document_stays() -> None:
    document = results.DOCUMENT.read_text()
    changed = results.replace_section(document, "power-cuts", ["a new line"])
    assert "a new line" in changed
    before, after = document.split("<!-- power-cuts: written by the lab -->")
    assert changed.startswith(before)
    assert changed.endswith(after.split("<!-- power-cuts: end -->")[1])
    with pytest.raises(ValueError, match="no marks"):
        results.replace_section(document, "nothing", [])
