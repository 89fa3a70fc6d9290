"""Claim: the right disk, taken whole, and unbootable from the first flush on."""

import pytest

from agent.errors import DiskBusy, DiskIo, ToolMissing
from agent.stages.claim import claim
from agent.stages.context import HEAD_BYTES, TAIL_BYTES
from agent.units import MiB
from tests.unit.stages.memory import DISK_BYTES, OLD_DISK, SECTOR, MemoryDisk, Stages


def test_the_first_sector_is_gone_for_good_before_any_other_is_touched():
    stages = Stages()
    claim(stages.ctx)
    assert stages.disk.calls[:2] == [("zero", 0, SECTOR), ("flush", 0, 0)]
    assert not stages.disk.is_bootable


def signatures_are_gone(disk: MemoryDisk) -> bool:
    """Whether nothing is left where the old partitions begin and end."""
    return not any(any(disk.read(at, SECTOR)) for at in (MiB, 2 * MiB - SECTOR, 2 * MiB, 4 * MiB - SECTOR))


def test_both_ends_are_zero_and_flushed_before_the_old_partitions_lose_their_signatures():
    stages = Stages()
    claim(stages.ctx)
    ends = [
        ("zero", SECTOR, HEAD_BYTES - SECTOR),
        ("zero", DISK_BYTES - TAIL_BYTES, TAIL_BYTES),
        ("flush", 0, 0),
    ]
    assert stages.disk.calls[2:5] == ends
    signatures = stages.disk.calls[5:-1]
    assert {name for name, _, _ in signatures} == {"zero"}
    assert signatures_are_gone(stages.disk)
    assert stages.disk.calls[-1] == ("flush", 0, 0)


def test_a_disk_without_a_sound_table_loses_its_ends_and_nothing_else():
    stages = Stages(disk=MemoryDisk(b"x" * DISK_BYTES))
    claim(stages.ctx)
    content = stages.disk.content
    assert not any(content[:HEAD_BYTES])
    assert not any(content[-TAIL_BYTES:])
    assert content[HEAD_BYTES:-TAIL_BYTES] == b"x" * (DISK_BYTES - HEAD_BYTES - TAIL_BYTES)


def test_the_old_partitions_are_known_by_the_backup_where_the_primary_is_damaged():
    damaged = bytearray(OLD_DISK)
    damaged[2 * SECTOR] ^= 1
    stages = Stages(disk=MemoryDisk(damaged))
    claim(stages.ctx)
    assert signatures_are_gone(stages.disk)


def test_stacks_are_stopped_and_told():
    stages = Stages()
    stages.machine.stopped = ("mdadm --stop /dev/md0",)
    claim(stages.ctx)
    assert stages.notes == ["stopped: mdadm --stop /dev/md0"]


def test_the_kernel_looks_at_the_disk_again_and_is_waited_for():
    stages = Stages()
    stages.disk.kernel_reads_tables = True
    claim(stages.ctx)
    assert stages.machine.settled == 1


# -- refusals ------------------------------------------------------------------------------------------------


def assert_untouched(stages: Stages) -> None:
    assert stages.target.disk is None, "a disk that is not ours must not be wiped later"
    assert stages.disk.calls == []
    assert stages.disk.content == OLD_DISK


def test_another_disk_under_the_name_is_refused_before_its_stacks_are_stopped():
    stages = Stages()
    stages.machine.identity = (8, 2)
    with pytest.raises(DiskIo, match="another disk"):
        claim(stages.ctx)
    assert not stages.machine.asked_to_stop
    assert_untouched(stages)


def test_a_disk_that_was_replaced_right_before_it_was_opened_is_given_back():
    stages = Stages(disk=MemoryDisk(identity=(8, 2)))
    stages.machine.identity = stages.target.found.identity
    with pytest.raises(DiskIo, match="another disk"):
        claim(stages.ctx)
    assert stages.disk.closed
    assert_untouched(stages)


def test_a_disk_that_changed_its_size_is_given_back():
    stages = Stages()
    stages.disk.size -= SECTOR
    with pytest.raises(DiskIo, match=f"from {DISK_BYTES} to {DISK_BYTES - SECTOR} bytes"):
        claim(stages.ctx)
    assert stages.disk.closed
    assert_untouched(stages)


def test_what_holds_the_disk_is_named():
    stages = Stages()
    stages.machine.busy = "mounted at /srv"
    with pytest.raises(DiskBusy, match="mounted at /srv"):
        claim(stages.ctx)
    assert_untouched(stages)


def test_a_disk_that_fails_in_the_claim_stays_ours_to_be_wiped():
    whole = Stages()
    claim(whole.ctx)
    for number in range(len(whole.disk.calls)):
        stages = Stages()
        stages.disk.fails_at = number
        with pytest.raises(DiskIo, match="Input/output error"):
            claim(stages.ctx)
        assert stages.target.disk is stages.disk
        assert stages.disk.is_bootable == (number == 0)


def test_a_rescue_system_without_udev_is_told():
    stages = Stages()
    stages.disk.kernel_reads_tables = True
    stages.machine.settle_fault = ToolMissing(tool="udevadm")
    with pytest.raises(ToolMissing):
        claim(stages.ctx)
    assert not stages.disk.is_bootable
