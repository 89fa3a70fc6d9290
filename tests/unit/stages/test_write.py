"""Write: all of the image but the ends of the disk, hashed as it comes; nothing after a failure or a cancellation."""

import asyncio
import gzip
import hashlib

import pytest

from agent.errors import ImageChanged, ImageDownload, ImageSize, ImageWrite
from agent.stages.context import HEAD_BYTES, TAIL_BYTES
from agent.stages.write import _clean_scratch
from agent.units import KiB, MiB
from tests.unit.stages.memory import (
    DISK_BYTES,
    IMAGE,
    IMAGE_BYTES,
    MemorySource,
    Stages,
    empty_qcow2,
    gpt_disk,
    sha256,
)


async def test_the_image_is_on_the_disk_but_for_its_ends_which_wait_in_memory():
    stages = Stages()
    await stages.written()
    content = stages.disk.content
    assert content[HEAD_BYTES : IMAGE_BYTES - TAIL_BYTES] == IMAGE[HEAD_BYTES : IMAGE_BYTES - TAIL_BYTES]
    assert not any(content[:HEAD_BYTES])
    assert not any(content[-TAIL_BYTES:])
    assert stages.target.sink.head == IMAGE[:HEAD_BYTES]
    assert stages.ctx.guest_size == IMAGE_BYTES


async def test_a_disk_as_large_as_the_image_gets_neither_table_nor_backup():
    image = gpt_disk(DISK_BYTES)
    stages = Stages(MemorySource(image))
    await stages.written()
    assert not any(stages.disk.content[:HEAD_BYTES])
    assert not any(stages.disk.content[-TAIL_BYTES:])
    assert stages.target.sink.tail == image[-TAIL_BYTES:]


async def test_the_first_sector_is_zero_after_every_single_call():
    stages = Stages()
    await stages.claimed()
    seen = []
    stages.disk.after_call = lambda: seen.append(stages.disk.is_bootable)
    await stages.write()
    assert seen
    assert not any(seen)


async def test_every_byte_is_downloaded_once_and_hashed_as_it_came():
    packed = gzip.compress(IMAGE, 1)
    stages = Stages(MemorySource(packed))
    await stages.written()
    assert stages.source.given == len(packed)
    assert stages.ctx.digest.hexdigest() == hashlib.sha256(packed).hexdigest()
    assert (stages.ctx.meter.downloaded, stages.ctx.meter.written) == (len(packed), len(packed))


async def test_the_last_call_is_a_flush():
    stages = Stages()
    await stages.written()
    assert stages.disk.calls[-1] == ("flush", 0, 0)


async def test_the_buffers_are_gone_when_it_is_over():
    stages = Stages()
    await stages.written()
    assert stages.ctx.pool.in_use == 0
    assert stages.ctx.head_buffers == []


# -- a transfer that begins again ----------------------------------------------------------------------------


async def test_a_transfer_that_begins_again_leaves_no_trace_of_the_first_one():
    source = MemorySource(gpt_disk(DISK_BYTES))
    stages = Stages(source)
    await stages.claimed()
    source.restarts_at = [source.position, 12 * MiB]
    await stages.write()
    assert stages.restarts == 2
    assert stages.ctx.digest.hexdigest() == hashlib.sha256(source.data).hexdigest()
    assert stages.ctx.meter.downloaded == stages.ctx.meter.written == DISK_BYTES
    assert stages.target.sink.head == source.data[:HEAD_BYTES]
    assert stages.disk.content[HEAD_BYTES:-TAIL_BYTES] == source.data[HEAD_BYTES:-TAIL_BYTES]


async def test_the_ends_of_a_first_transfer_are_forgotten():
    stages = Stages()
    await stages.claimed()
    stages.target.sink.write(DISK_BYTES - TAIL_BYTES, memoryview(b"of the first transfer"))
    await stages.write()
    assert not any(stages.target.sink.tail)


async def test_another_file_after_a_restart_is_seen_for_what_it_is():
    stages = Stages(type="qcow2")
    stages.source.data = gzip.compress(empty_qcow2(DISK_BYTES))
    stages.source.size = None
    await stages.claimed()
    assert stages.ctx.image.container == "qcow2"
    stages.source.data = gzip.compress(IMAGE, 1)
    stages.source.restarts_at = [0]
    await stages.write()
    assert stages.ctx.container == "raw"


# -- failures ------------------------------------------------------------------------------------------------


async def test_a_disk_that_fails_is_the_disks_fault_and_no_downloads():
    whole = Stages()
    await whole.claimed()
    begins = len(whole.disk.calls)
    await whole.write()
    for number in range(begins, len(whole.disk.calls)):
        stages = Stages()
        await stages.claimed()
        stages.disk.fails_at = number
        with pytest.raises(ImageWrite, match="Input/output error") as caught:
            await stages.write()
        assert caught.value.blame == "disk"
        assert not stages.disk.is_bootable


async def test_a_flush_that_fails_belongs_to_the_write():
    whole = Stages()
    await whole.written()
    stages = Stages()
    stages.disk.fails_at = len(whole.disk.calls) - 1
    with pytest.raises(ImageWrite, match="while flushing"):
        await stages.written()


async def test_an_image_that_turns_out_larger_than_the_disk_tells_both_numbers():
    stages = Stages()
    await stages.claimed()
    stages.source.data = IMAGE + b"x" * DISK_BYTES
    with pytest.raises(ImageSize, match=str(DISK_BYTES)):
        await stages.write()
    assert not stages.disk.is_bootable


async def test_a_compressed_image_without_end_is_stopped_by_the_size_of_the_disk():
    stages = Stages(MemorySource(gzip.compress(IMAGE + bytes(DISK_BYTES), 1)))
    with pytest.raises(ImageSize):
        await stages.written()


@pytest.mark.parametrize(
    "fault",
    [ImageDownload(url="http://a.example/", detail="refused"), ImageChanged(url="memory:", detail="changed")],
)
async def test_a_download_that_fails_stays_a_download(fault):
    stages = Stages()
    await stages.claimed()

    def fail():
        raise fault

    stages.source.before_fill = fail
    with pytest.raises(type(fault)) as caught:
        await stages.write()
    assert caught.value.detail == fault.detail
    assert not stages.disk.is_bootable


async def test_what_waited_at_the_end_of_the_disk_is_zeroed():
    class Scratching:
        """A decoder of nothing, part of which waited on the disk."""

        used_scratch = (DISK_BYTES // 2, 64 * KiB)

    stages = Stages()
    await stages.claimed()
    offset, length = Scratching.used_scratch
    stages.disk.content[offset : offset + length] = b"x" * length
    _clean_scratch(Scratching(), stages.target.sink)
    assert not any(stages.disk.content[offset : offset + length])


async def test_nothing_is_written_once_a_cancelled_write_has_ended():
    reached = asyncio.Event()
    stages = Stages(MemorySource(gpt_disk(DISK_BYTES)), **sha256(b""))
    await stages.claimed()
    loop = asyncio.get_running_loop()
    stages.disk.after_call = lambda: loop.call_soon_threadsafe(reached.set)
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(stages.write())
        await reached.wait()
        writing.cancel()
    calls = len(stages.disk.calls)
    await asyncio.sleep(0)
    assert writing.cancelled()
    assert len(stages.disk.calls) == calls
    assert not stages.disk.is_bootable
