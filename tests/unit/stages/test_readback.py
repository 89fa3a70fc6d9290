"""Read-back: what the disk does not give back is found before anything boots from it, named by its range."""

import errno

import pytest

from agent.errors import DiskIo, DiskReadback
from agent.stages.context import HEAD_BYTES
from agent.stages.finish import finish
from agent.stages.readback import ReadingBack, Stopped, read_back
from agent.stages.verify import verify
from agent.units import MiB
from tests.unit.stages.memory import (
    DISK_BYTES,
    IMAGE,
    IMAGE_BYTES,
    MemoryDisk,
    MemorySource,
    Stages,
    empty_qcow2,
    sha256,
)


async def written(**options) -> Stages:
    stages = Stages(reads_back=True, **options)
    await stages.written()
    return stages


def compare(stages: Stages) -> int:
    """Read everything back; gives how many bytes that were."""
    ctx, read = stages.ctx, 0

    def passed(length: int) -> None:
        nonlocal read
        read += length

    read_back(ctx.recorded(), stages.disk, ctx.targets[0].sink, passed)
    return read


async def test_a_disk_that_keeps_what_it_was_given_passes_and_only_that_is_read():
    stages = await written()
    assert compare(stages) == IMAGE_BYTES == stages.ctx.recorded().total()
    read = [call for call in stages.disk.calls if call[0] == "read back"]
    assert min(offset for _, offset, _ in read) == HEAD_BYTES
    assert max(offset + length for _, offset, length in read) == IMAGE_BYTES


@pytest.mark.parametrize("at", [HEAD_BYTES, 3 * MiB + 17, IMAGE_BYTES - 1])
async def test_a_byte_that_changes_after_the_writing_is_found(at):
    stages = await written()
    stages.disk.content[at] ^= 1
    with pytest.raises(DiskReadback) as caught:
        compare(stages)
    start = at // MiB * MiB
    assert caught.value.message == (
        f"/dev/memory does not give back what was written to it, in bytes {start} to {start + MiB}."
    )
    assert (caught.value.code, caught.value.blame) == ("disk.readback", "disk")
    assert not stages.disk.is_bootable


async def test_a_write_that_the_disk_takes_and_loses_is_found():
    disk = MemoryDisk()
    stages = Stages(disk=disk, reads_back=True)
    await stages.claimed()
    disk.loses_writes_at = range(HEAD_BYTES, 5 * MiB)
    await stages.write()
    with pytest.raises(DiskReadback):
        compare(stages)


async def test_zeros_that_were_not_zeroed_are_found():
    """A disk that takes the command, and does nothing."""
    disk = MemoryDisk(b"\xa5" * DISK_BYTES)
    stages = Stages(MemorySource(empty_qcow2(6 * MiB)), disk, reads_back=True, type="qcow2")
    await stages.claimed()
    disk.loses_writes_at = range(HEAD_BYTES, DISK_BYTES)
    await stages.write()
    with pytest.raises(DiskReadback):
        compare(stages)


async def test_what_lies_outside_of_the_image_does_not_matter():
    stages = await written()
    stages.disk.content[IMAGE_BYTES : IMAGE_BYTES + 10] = b"something!"
    assert compare(stages) == IMAGE_BYTES


async def test_an_image_that_reaches_into_the_held_end_is_compared_with_it():
    disk = MemoryDisk(bytes(IMAGE_BYTES))
    stages = await written(disk=disk)
    assert compare(stages) == IMAGE_BYTES
    stages.ctx.targets[0].sink.tail[5] ^= 1
    with pytest.raises(DiskReadback):
        compare(stages)


async def test_a_transfer_that_began_again_is_compared_with_its_last_beginning():
    source = MemorySource()
    source.restarts_at = [5 * MiB]
    stages = await written(source=source)
    assert stages.restarts == 1
    assert compare(stages) == len(IMAGE)


async def test_a_disk_that_cannot_be_read_is_told_as_that():
    stages = await written()
    stages.disk.fails_at = len(stages.disk.calls) + 3
    with pytest.raises(DiskIo) as caught:
        compare(stages)
    assert caught.value.__cause__.errno == errno.EIO


async def test_it_ends_soon_when_it_is_told_to_and_tells_how_far_it_is():
    stages = await written()
    reading = ReadingBack(stages.ctx.recorded().total())
    assert reading.share() == 0
    count, seen = reading.passed("/dev/memory"), []

    def passed(length: int) -> None:
        count(length)
        seen.append(reading.share())
        if len(seen) == 3:
            reading.stop()

    with pytest.raises(Stopped):
        read_back(stages.ctx.recorded(), stages.disk, stages.ctx.targets[0].sink, passed)
    assert seen == [1 / 8, 2 / 8, 3 / 8]


async def test_without_it_no_record_is_made():
    stages = Stages()
    await stages.written()
    assert stages.ctx.record is None


async def test_what_finish_adds_is_recorded_by_itself_and_what_it_loses_is_found():
    disk = MemoryDisk(b"\xa5" * DISK_BYTES)
    stages = Stages(disk=disk, reads_back=True, **sha256(IMAGE))
    await stages.written()
    verify(stages.ctx)
    [target] = stages.ctx.targets
    record = target.begin_record()
    finish(stages.ctx)
    ranges = [found for number in range(len(record)) for found in record.ranges(number)]
    assert ranges  # the image's own backup table lies in the middle of the larger disk, and is zeroed
    assert all(start >= HEAD_BYTES and end <= target.sink.tail_offset for start, end in ranges)
    read_back(record, disk, target.sink, lambda _: None)
    disk.content[ranges[-1][0]] ^= 1
    with pytest.raises(DiskReadback):
        read_back(record, disk, target.sink, lambda _: None)
