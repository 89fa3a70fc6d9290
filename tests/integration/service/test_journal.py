"""The journal's two files: whatever is killed whenever, one of them is a whole journal, and it is the right one."""

import asyncio
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import StateUnusable
from agent.service.jobs.entry import JobEntry, Phase
from agent.service.jobs.journal import Journal, JournalState
from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.kit.disks import fill_up

ROOT = Path(__file__).parents[3]
JOB = {"URL": "https://a.example/x", "type": "raw", "configdrive": {"userData": "canary" * 3000}}
ENTRY = JobEntry(id="1", origin="api", job=JOB, accepted_at=1.0)
STATUS = {"status": "done", "notes": ["x" * 1000]}

STORES = """
import asyncio, itertools, sys
from dataclasses import replace
from agent.service.jobs.journal import JournalState
from tests.integration.service.test_journal import ENTRY, STATUS, Journal, Phase

async def main():
    journal = Journal(sys.argv[1], "ns1")
    state, note = await journal.open()
    assert note is None, note
    print("open", flush=True)
    for number in itertools.count(state.revision + 1):
        over = number % 2 == 0
        entry = replace(ENTRY, phase=Phase.DONE, status=STATUS, job={}) if over else ENTRY
        await journal.store(JournalState(entry=entry, revision=number), room=None if over else 65536)
        print(number, flush=True)

asyncio.run(main())
"""


async def reopened(directory):
    journal = Journal(directory, "ns1")
    try:
        return await journal.open()
    finally:
        journal.close()


def test_an_agent_that_is_killed_at_any_instant_leaves_what_it_has_stored_last(tmp_path):
    generator = random.Random(1)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", STORES, str(tmp_path / "state")], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(generator.uniform(0.05, 0.3))
        process.kill()
        told = process.communicate()[0].split()
        last = int(told[-1]) if told else 0
        state, note = asyncio.run(reopened(tmp_path / "state"))
        assert note is None
        # It may have been killed between the change of the names and its word of it.
        assert state.revision in (last, last + 1) or not told
        assert state.entry is not None
        assert state.entry.is_over == (state.revision % 2 == 0)


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request, tmp_path):
    """A filesystem of a few MiB."""
    (where := tmp_path / "mounted").mkdir()
    if request.param == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where)
    else:
        (backing := tmp_path / "backing.img").write_bytes(bytes(8 * MiB))
        run("mkfs.ext4", "-q", "-O", "^has_journal", backing)
        run("mount", "-o", "loop", backing, where)
    yield where
    run("umount", "--lazy", where)


def free_bytes(where):
    """What is left on a filesystem."""
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


async def test_reserved_room_is_there_however_often_the_names_change(small):
    journal = Journal(small / "state", "ns1")
    await journal.open()
    try:
        state = JournalState(entry=ENTRY)
        await journal.store(state, room=64 * KiB)
        fill_up(small / "ballast")
        for percent in range(10):
            await journal.store(JournalState(entry=replace(ENTRY, percent=float(percent))))
        large = replace(ENTRY, phase=Phase.DONE, status={"status": "done", "notes": ["x" * 60 * KiB]})
        with pytest.raises(StateUnusable, match="No space left"):
            await journal.store(JournalState(entry=replace(ENTRY, job=JOB | {"description": "x" * 5 * MiB})))
        await journal.store(JournalState(entry=large))
        await journal.store(JournalState(entry=replace(large, outcome_seen=True, acknowledged=True)))
    finally:
        journal.close()
    state, note = await reopened(small / "state")
    assert (state.entry, note) == (replace(large, outcome_seen=True, acknowledged=True), None)


async def test_a_job_without_room_for_its_outcome_leaves_the_journal_and_the_room_as_they_were(small):
    journal = Journal(small / "state", "ns1")
    await journal.open()
    try:
        before = JournalState(boot_id="before")
        await journal.store(before)
        free = free_bytes(small)
        with pytest.raises(StateUnusable, match="No space left") as caught:
            await journal.store(JournalState(entry=ENTRY), room=free * 3 // 5)  # for one of the two files
        assert caught.value.hint == f"Make room on the filesystem of {small / 'state'}."
        assert free_bytes(small) == free
    finally:
        journal.close()
    assert await reopened(small / "state") == (before, None)
