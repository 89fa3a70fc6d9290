"""Commit: one write makes the disk bootable, the last one, and what reads back is what was meant."""

import dataclasses
import errno
import hashlib

import pytest

from agent.errors import DiskIo, ToolMissing, VerifyFailed
from agent.formats.tables.gpt import is_mirror, parse_backup
from agent.formats.tables.read import read_table
from agent.host.drive import build_drive
from agent.stages.claim import claim
from agent.stages.commit import commit, seal, settle
from agent.stages.context import HEAD_BYTES, TAIL_BYTES
from agent.stages.finish import finish
from agent.stages.libparted import examine_table
from tests.unit.stages.memory import DISK_BYTES, SECTOR, MemoryDisk, Stages

TREE = {"openstack/latest/meta_data.json": b"{}"}


@pytest.fixture
async def finished() -> Stages:
    stages = Stages()
    await stages.finished()
    stages.disk.calls.clear()
    return stages


def test_the_first_sector_comes_last_and_each_write_is_flushed_before_the_next(finished):
    commit(finished.ctx)
    assert finished.disk.calls == [
        ("write", DISK_BYTES - TAIL_BYTES, TAIL_BYTES),
        ("flush", 0, 0),
        ("write", SECTOR, HEAD_BYTES - SECTOR),
        ("flush", 0, 0),
        ("write", 0, SECTOR),
        ("flush", 0, 0),
    ]


def test_nothing_boots_before_the_last_write_and_the_whole_system_after_it(finished):
    seen = []
    finished.disk.after_call = lambda: seen.append(finished.disk.is_bootable)
    commit(finished.ctx)
    assert seen == [False] * 4 + [True] * 2
    table = read_table(bytes(finished.disk.content[:HEAD_BYTES]), SECTOR)
    assert is_mirror(table, parse_backup(bytes(finished.disk.content[-TAIL_BYTES:]), SECTOR, DISK_BYTES))


def test_a_disk_that_fails_at_any_call_is_told(finished):
    whole = bytes(finished.disk.content)
    for number in range(6):
        finished.disk.content[:] = whole
        finished.disk.calls.clear()
        finished.disk.fails_at = number
        with pytest.raises(DiskIo):
            commit(finished.ctx)
        assert finished.disk.is_bootable == (number > 4), "then the caller wipes it"


@pytest.mark.parametrize(
    ("offset", "what"),
    [(0, "the first MiB"), (SECTOR, "the first MiB"), (DISK_BYTES - TAIL_BYTES, "the last MiB")],
)
def test_a_drive_that_lost_a_write_is_found_out(finished, offset, what):
    finished.disk.loses_writes_at = range(offset, offset + 1)
    with pytest.raises(VerifyFailed, match=f"{what} differs"):
        commit(finished.ctx)


async def test_a_config_drive_that_does_not_read_back_is_found_out():
    for damaged in (False, True):
        stages = Stages(drive=build_drive(TREE, SECTOR))
        stages.ctx.drive_tree = TREE
        await stages.finished()
        if not damaged:
            commit(stages.ctx)
            continue
        at = stages.target.slot.start + stages.ctx.drive.image.index(b"CD001")
        stages.disk.content[at : at + 5] = b"wrong"
        with pytest.raises(VerifyFailed):
            commit(stages.ctx)


async def test_what_only_libparted_says_afterwards_is_the_disks_doing():
    stages = Stages()
    await stages.preflight()
    await examine_table(stages.ctx)  # it was asked before, and had nothing against the image
    assert stages.ctx.image.libparted == ""
    claim(stages.ctx)
    await stages.write()
    finish(stages.ctx)
    stages.machine.libparted_refuses = "it is cut"
    with pytest.raises(VerifyFailed, match="it is cut"):
        commit(stages.ctx)


async def test_what_libparted_disliked_before_says_nothing_about_the_disk():
    stages = Stages()
    stages.machine.libparted_refuses = "type mac"
    await stages.finished()
    commit(stages.ctx)


async def test_where_there_is_no_libparted_it_is_asked_once_and_a_note_says_so():
    stages = Stages()
    stages.machine.libparted_missing = True
    await stages.finished()
    commit(stages.ctx)
    assert stages.disk.is_bootable
    assert stages.machine.libparted_asked == 1
    assert [note for note in stages.notes if "libparted" in note] == [stages.ctx.image.libparted_note]
    assert "pyparted is not installed" in stages.ctx.image.libparted_note


async def test_that_there_is_no_libparted_may_show_in_the_plan_or_only_after_the_commit():
    early, late = Stages(), Stages()
    early.machine.libparted_missing = True
    await early.preflight()
    await examine_table(early.ctx)
    assert early.ctx.image.libparted_missing
    await late.finished()
    late.ctx.image = dataclasses.replace(late.ctx.image, libparted=None)  # as for a disk of 4096-byte sectors
    late.machine.libparted_missing = True
    commit(late.ctx)
    assert any("libparted is not asked" in note for note in late.notes)


# -- the seal, and what follows ------------------------------------------------------------------------------


def test_the_seal_tells_what_the_ends_will_hold_before_they_do(finished):
    whole = seal(finished.ctx)
    (sealed,) = whole.disks
    assert not finished.disk.is_bootable
    commit(finished.ctx)
    content = finished.disk.content
    assert sealed.head_sha256 == hashlib.sha256(content[: sealed.head_length]).hexdigest()
    assert sealed.tail_sha256 == hashlib.sha256(content[-sealed.tail_length :]).hexdigest()
    assert (sealed.path, sealed.size) == (finished.disk.path, DISK_BYTES)
    assert whole.checksum == f"sha256:{finished.ctx.digest.hexdigest()}"


@pytest.mark.parametrize("fault", [OSError(errno.EBUSY, "busy"), ToolMissing(tool="udevadm")])
def test_a_kernel_that_does_not_see_the_new_table_is_a_note(finished, fault):
    finished.disk.kernel_reads_tables = True
    finished.machine.settle_fault = fault
    commit(finished.ctx)
    settle(finished.ctx)
    assert any("new partition table" in note for note in finished.notes)


async def test_there_is_nothing_to_commit_on_a_disk_that_was_not_claimed():
    stages = Stages(disk=MemoryDisk())
    await stages.preflight()
    with pytest.raises(RuntimeError, match="before it was claimed"):
        commit(stages.ctx)
