"""Finish: the tables fit the disk and the config drive is written, while the disk still cannot boot."""

import pytest

from agent.errors import BootEsp, ConfigDriveCreate, DiskIo
from agent.formats.tables import gpt
from agent.formats.tables.read import read_table
from agent.host.drive import Drive
from agent.host.fat import FatUnsound
from agent.stages.context import HEAD_BYTES, TAIL_BYTES
from agent.stages.finish import finish
from agent.units import KiB
from tests.unit.stages.memory import DISK_BYTES, IMAGE_BYTES, SECTOR, Stages

DRIVE = Drive(b"config drive" * 4096, "iso9660")
LOADER = "/EFI/BOOT/BOOTX64.EFI"


def backup_of(stages: Stages) -> gpt.Gpt:
    return gpt.parse_backup(bytes(stages.target.sink.tail), SECTOR, DISK_BYTES)


async def test_the_backup_table_moves_to_the_end_of_the_disk_in_memory_alone():
    stages = Stages()
    await stages.written()
    finish(stages.ctx)
    table = read_table(bytes(stages.target.sink.head), SECTOR)
    assert gpt.is_mirror(table, backup_of(stages))
    assert not any(stages.disk.content[:HEAD_BYTES])
    assert not any(stages.disk.content[-TAIL_BYTES:])


async def test_the_images_own_backup_table_is_gone_from_the_middle_of_the_disk():
    stages = Stages()
    await stages.written()
    assert any(stages.disk.read(IMAGE_BYTES - SECTOR, SECTOR))
    finish(stages.ctx)
    assert not any(stages.disk.read(IMAGE_BYTES - SECTOR, SECTOR))


async def test_the_config_drive_is_on_the_disk_and_in_the_table_that_is_still_held():
    stages = Stages(drive=DRIVE)
    await stages.written()
    finish(stages.ctx)
    slot = stages.target.slot
    assert stages.disk.read(slot.start, len(DRIVE.image)) == DRIVE.image
    assert not any(stages.disk.read(slot.start + len(DRIVE.image), slot.size - len(DRIVE.image)))
    part = read_table(bytes(stages.target.sink.head), SECTOR).partitions[-1]
    assert (part.start, part.size, part.name) == (slot.start, slot.size, "config-2")
    assert not stages.disk.is_bootable


async def test_all_that_was_written_is_flushed():
    stages = Stages(drive=DRIVE)
    await stages.written()
    finish(stages.ctx)
    assert stages.disk.calls[-1] == ("flush", 0, 0)


async def test_a_backup_that_was_not_sound_is_told_and_made_anew():
    stages = Stages()
    await stages.written()
    stages.target.sink.zero(IMAGE_BYTES - SECTOR, SECTOR)
    finish(stages.ctx)
    assert any("backup GPT is not sound" in note for note in stages.notes)
    assert backup_of(stages).partitions


async def test_the_boot_loader_that_the_job_names_has_to_be_there():
    stages = Stages(efiBootloaderPath=LOADER)
    await stages.written()
    calls = len(stages.disk.calls)
    with pytest.raises(BootEsp, match="does not exist on the ESP"):
        finish(stages.ctx)
    assert len(stages.disk.calls) == calls
    stages.machine.esp_files = {LOADER}
    finish(stages.ctx)


async def test_an_esp_that_cannot_be_read_is_the_images_fault():
    stages = Stages(efiBootloaderPath=LOADER)
    await stages.written()

    def unsound(*_):
        raise FatUnsound(5, "it has no FAT")

    stages.machine.esp_has_file = unsound
    with pytest.raises(BootEsp, match="it has no FAT") as caught:
        finish(stages.ctx)
    assert caught.value.blame == "image"


async def test_a_disk_that_fails_is_told_and_cannot_boot():
    whole = Stages(drive=DRIVE)
    await whole.written()
    begins = len(whole.disk.calls)
    finish(whole.ctx)
    for number in range(begins, len(whole.disk.calls)):
        stages = Stages(drive=DRIVE)
        await stages.written()
        stages.disk.fails_at = number
        with pytest.raises(DiskIo):
            finish(stages.ctx)
        assert not stages.disk.is_bootable


async def test_what_libparted_dislikes_before_the_commit_is_the_images_doing():
    stages = Stages()
    stages.machine.libparted_refuses = "type mac"
    await stages.written()
    assert stages.ctx.image.libparted is None
    finish(stages.ctx)
    assert stages.ctx.image.libparted == "type mac"
    assert any("type mac" in note for note in stages.notes)


async def test_a_drive_that_has_become_too_large_fits_nowhere():
    stages = Stages(drive=Drive(bytes(DISK_BYTES + KiB), "iso9660"))
    await stages.written()
    with pytest.raises(ConfigDriveCreate):
        finish(stages.ctx)
