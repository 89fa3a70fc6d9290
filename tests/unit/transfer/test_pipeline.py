import asyncio
import hashlib
import threading
import time

import pytest

from agent.errors import ImageDownload
from agent.formats.raw import RawDecoder
from agent.transfer.digest import Digest
from agent.transfer.meter import Meter
from agent.transfer.pipeline import copy
from agent.transfer.pool import BufferPool
from agent.transfer.sink import SinkFailed, SinkTooSmall
from agent.transfer.source import TransferRestart

PAGE = 4096


class MemorySource:
    """Gives `data`; raises `fault` once `fault_at` bytes are out; waits `pause` seconds a buffer."""

    def __init__(self, data, fault=None, fault_at=0, pause=0.0):
        self.data, self.fault, self.fault_at, self.pause, self.position = data, fault, fault_at, pause, 0

    async def fill(self, buffer):
        await asyncio.sleep(self.pause)
        if self.fault is not None and self.position >= self.fault_at:
            raise self.fault
        piece = self.data[self.position : self.position + len(buffer)]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)


class SlowSink:
    def __init__(self, size, fault=None, fault_at=0, pause=0.0):
        self.size, self.fault, self.fault_at, self.pause = size, fault, fault_at, pause
        self.content = bytearray(size)
        self.busy = threading.Lock()

    def write(self, offset, data):
        assert self.busy.acquire(blocking=False), "two threads write at once"
        try:
            time.sleep(self.pause)
            if self.fault is not None and offset >= self.fault_at:
                raise self.fault
            self.content[offset : offset + len(data)] = data
        finally:
            self.busy.release()

    def zero(self, offset, length):
        self.write(offset, bytes(length))


def pattern(length):
    return hashlib.shake_256(b"image").digest(length)


async def run_copy(source, sink, pool=None, head=(), meter=None):
    pool = pool or BufferPool(count=4, size=PAGE)
    digest = Digest("sha256")
    meter = meter or Meter(len(source.data))
    try:
        await copy(source, pool, digest, RawDecoder(None), sink, meter, head)
        assert pool.in_use == 0
    finally:
        pool.reclaim()
        pool.close()
    return digest, meter


@pytest.mark.parametrize("length", [0, 1, PAGE - 1, PAGE, PAGE + 1, 9 * PAGE, 40 * PAGE + 17])
async def test_every_byte_is_hashed_and_written_once_in_order(length):
    data = pattern(length)
    sink = SlowSink(length)
    digest, meter = await run_copy(MemorySource(data), sink)
    assert sink.content == data
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    assert (digest.length, meter.downloaded, meter.written) == (length, length, length)


async def test_buffers_read_before_come_first():
    data = pattern(3 * PAGE + 5)
    pool = BufferPool(count=4, size=PAGE)
    source = MemorySource(data)
    head = []
    for _ in range(2):
        buffer = await pool.acquire()
        buffer.length = await source.fill(buffer.view)
        head.append(buffer)
    sink = SlowSink(len(data))
    digest, _ = await run_copy(source, sink, pool, head)
    assert sink.content == data
    assert digest.length == len(data)


async def test_a_slow_sink_is_what_the_meter_blames():
    data = pattern(32 * PAGE)
    _, meter = await run_copy(MemorySource(data), SlowSink(len(data), pause=0.005))
    assert meter.waits["disk"] > meter.waits["network"] + meter.waits["cpu"]
    assert meter.progress().waiting_on == "disk"


async def test_a_slow_source_is_what_the_meter_blames():
    data = pattern(16 * PAGE)
    _, meter = await run_copy(MemorySource(data, pause=0.005), SlowSink(len(data)))
    assert meter.progress().waiting_on == "network"


async def test_a_write_fault_comes_out_as_the_sinks_with_its_offset():
    data = pattern(16 * PAGE)
    sink = SlowSink(len(data), fault=OSError(5, "Input/output error", "/dev/x"), fault_at=3 * PAGE)
    with pytest.raises(SinkFailed, match=f"at byte {3 * PAGE}: Input/output error") as caught:
        await run_copy(MemorySource(data), sink)
    assert caught.value.error.filename == "/dev/x"


@pytest.mark.parametrize("fault", [ImageDownload(url="http://h/"), TransferRestart()])
async def test_a_read_fault_comes_out_as_itself(fault):
    data = pattern(16 * PAGE)
    with pytest.raises(type(fault)):
        await run_copy(MemorySource(data, fault=fault, fault_at=5 * PAGE), SlowSink(len(data)))


async def test_an_image_larger_than_the_sink_is_refused_at_its_end():
    data = pattern(4 * PAGE)
    sink = SlowSink(3 * PAGE)
    with pytest.raises(SinkTooSmall) as caught:
        await run_copy(MemorySource(data), sink)
    assert caught.value.end == 4 * PAGE
    assert sink.content == data[: 3 * PAGE]


async def test_a_cancelled_copy_has_no_thread_left_at_work():
    data = pattern(64 * PAGE)
    sink = SlowSink(len(data), pause=0.02)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run_copy(MemorySource(data), sink))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not sink.busy.locked()
    written = bytes(sink.content)
    await asyncio.sleep(0.05)
    assert bytes(sink.content) == written, "something still writes after the cancellation"


async def test_a_pool_gives_a_buffer_back_only_after_its_last_holder():
    pool = BufferPool(count=1, size=PAGE)
    buffer = await pool.acquire()
    buffer.hold(2)
    buffer.release()
    assert pool.take() is None
    buffer.release()
    assert pool.take() is buffer
    buffer.release()
    with pytest.raises(RuntimeError, match="more often"):
        buffer.release()
    pool.close()


async def test_a_cancelled_wait_for_a_buffer_takes_none():
    pool = BufferPool(count=1, size=PAGE)
    buffer = await pool.acquire()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pool.acquire()
    buffer.release()
    async with asyncio.timeout(1):
        assert await pool.acquire() is buffer
    pool.reclaim()
    pool.close()
