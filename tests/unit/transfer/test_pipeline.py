import asyncio
import gc
import hashlib
import os
import random
import select
import threading
import time
import weakref
from collections import deque
from contextlib import suppress

import pytest

from agent.errors import ImageDamaged, ImageDownload
from agent.formats.extent import ImageTooLarge
from agent.formats.raw import RawDecoder
from agent.transfer.digest import Digest
from agent.transfer.meter import Meter
from agent.transfer.pipeline import copy
from agent.transfer.pool import BUFFER_COUNT, BUFFER_SIZE, SHARED_BYTES, SMALL_COUNT, SMALL_SIZE, BufferPool
from agent.transfer.sink import SinkFailed
from agent.transfer.source import TransferRestart
from agent.units import MiB
from tests.kit.sinks import OneByOne

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


class SlowSink(OneByOne):
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
        await copy(source, pool, [digest], RawDecoder(None), sink, meter, deque(head))
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


async def test_a_copy_that_failed_leaves_its_task_as_it_was():
    """Before Python 3.13 a TaskGroup leaves a request to cancel behind, and the next time-out is taken for one."""
    source = MemorySource(pattern(16 * PAGE), fault=TransferRestart(), fault_at=5 * PAGE)
    with pytest.raises(TransferRestart):
        await run_copy(source, SlowSink(16 * PAGE))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_a_cancellation_in_the_moment_of_a_restart_is_not_lost():
    class Cancelling(MemorySource):
        async def fill(self, buffer):
            if self.position:
                copying.cancel()
                raise TransferRestart
            return await super().fill(buffer)

    source = Cancelling(pattern(16 * PAGE))
    async with asyncio.TaskGroup() as tasks:
        copying = tasks.create_task(run_copy(source, SlowSink(16 * PAGE)))
        with pytest.raises(asyncio.CancelledError):
            await copying


async def test_an_image_larger_than_the_sink_is_refused_at_its_end():
    data = pattern(4 * PAGE)
    sink = SlowSink(3 * PAGE)
    with pytest.raises(ImageTooLarge) as caught:
        await run_copy(MemorySource(data), sink)
    assert caught.value.size == 4 * PAGE
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


def lanes_at_work():
    return [thread.name for thread in threading.enumerate() if thread.name in ("byoi-hash", "byoi-write")]


async def comes_true(condition):
    """A thread tells the event loop that it is done, and is gone a moment later."""
    for _ in range(5000):
        if condition():
            return True
        await asyncio.sleep(0.001)
    return False


@pytest.mark.parametrize("given", [0, 3 * PAGE])
async def test_a_cancelled_copy_ends_its_threads_while_they_have_nothing_to_do(given):
    class Silent(MemorySource):
        async def fill(self, buffer):
            if self.position == given:
                await asyncio.Event().wait()
            return await super().fill(buffer)

    sink = SlowSink(4 * PAGE)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run_copy(Silent(pattern(4 * PAGE)), sink))
        assert await comes_true(lambda: len(lanes_at_work()) == 2)
        assert await comes_true(lambda: sink.content.startswith(pattern(4 * PAGE)[:given]))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await comes_true(lambda: not lanes_at_work())


async def test_a_copy_cancelled_before_it_began_has_begun_nothing():
    task = asyncio.get_running_loop().create_task(run_copy(MemorySource(pattern(PAGE)), SlowSink(PAGE)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lanes_at_work()


async def test_hash_and_writer_do_not_wait_for_an_event_loop_that_is_busy():
    """The loop stands still in `fill` until all that came before is on the disk."""
    seen, tell = os.pipe()

    class Told(SlowSink):
        def write(self, offset, data):
            super().write(offset, data)
            os.write(tell, bytes(1))

    class Busy(MemorySource):
        async def fill(self, buffer):
            if self.position == 3 * PAGE:
                for _ in range(3):
                    assert select.select([seen], [], [], 10)[0], "the writer waits for the event loop"
                    os.readv(seen, [bytearray(1)])
            return await super().fill(buffer)

    try:
        sink = Told(4 * PAGE)
        await run_copy(Busy(pattern(4 * PAGE)), sink)
        assert sink.content == pattern(4 * PAGE)
    finally:
        os.close(seen)
        os.close(tell)


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


# -- the pool and what a decoder holds


def taken(pool):
    """The lengths of all buffers that the pool has to give."""
    buffers = []
    while (buffer := pool.take()) is not None:
        buffers.append(buffer)
    lengths = [len(buffer.view) for buffer in buffers]
    for buffer in buffers:
        buffer.release()
    return lengths


def test_a_decoder_that_holds_little_takes_nothing_from_the_pool():
    pool = BufferPool()
    pool.make_room(16 * MiB)
    assert taken(pool) == [BUFFER_SIZE] * BUFFER_COUNT


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    ("held", "left"),
    [(50, [4 * MiB] * 5), (54, [4 * MiB] * 4), (55, [SMALL_SIZE] * 4), (1000, [SMALL_SIZE] * 4)],
)
def test_what_a_decoder_holds_is_taken_from_the_pool_for_good(used, held, left):
    pool = BufferPool()
    if used:
        taken(pool)
    pool.make_room(held * MiB)
    pool.make_room(0)
    assert taken(pool) == left


async def test_buffers_in_use_go_when_they_are_given_back_and_make_way_for_smaller_ones():
    pool = BufferPool()
    buffers = [await pool.acquire() for _ in range(BUFFER_COUNT)]
    pool.make_room(SHARED_BYTES)
    assert pool.take() is None
    for given, buffer in enumerate(buffers, 1):
        buffer.release()
        assert pool.in_use == BUFFER_COUNT - given
        small = pool.take()
        assert (small is not None) == (given > BUFFER_COUNT - SMALL_COUNT)
        if small is not None:
            assert len(small.view) == SMALL_SIZE
            small.release()
    assert taken(pool) == [SMALL_SIZE] * SMALL_COUNT


async def test_a_reclaimed_pool_keeps_what_still_fits():
    pool = BufferPool()
    held = [await pool.acquire() for _ in range(3)]
    pool.make_room(SHARED_BYTES)
    pool.reclaim()
    assert pool.in_use == 0
    assert taken(pool) == [SMALL_SIZE] * SMALL_COUNT
    assert len(held[0].view) == BUFFER_SIZE, "whoever still has one may look at it"


async def test_the_copy_goes_on_with_fewer_buffers_when_the_decoder_comes_to_hold_more():
    class Greedy(RawDecoder):
        """Stands for a decompressor that meets a frame with a long window in the middle of the file."""

        held = 0

        def feed(self, data):
            self.held += 8 * MiB
            return super().feed(data)

    data = random.Random(1).randbytes(60 * MiB)
    pool, sink = BufferPool(), SlowSink(len(data))
    await copy(MemorySource(data), pool, [Digest()], Greedy(None), sink, Meter())
    assert sink.content == data
    assert taken(pool) == [SMALL_SIZE] * SMALL_COUNT


@pytest.mark.parametrize("at_fault", ["source", "sink", "decoder"])
async def test_a_copy_that_failed_keeps_nothing_alive(at_fault):
    """The next attempt has a decoder of its own: a long window must not wait beside it for the garbage collector."""

    class Window(RawDecoder):
        def feed(self, data):
            yield from super().feed(data)
            if at_fault == "decoder":
                raise ImageDamaged(format="raw", reason="for the test")

    data = pattern(16 * PAGE)
    source = MemorySource(data, TransferRestart() if at_fault == "source" else None, fault_at=5 * PAGE)
    sink = SlowSink(len(data), OSError(5, "Input/output error") if at_fault == "sink" else None)
    pool, decoder = BufferPool(count=4, size=PAGE), Window(None)
    gone = weakref.ref(decoder)
    gc.collect()
    gc.disable()
    try:
        with suppress(TransferRestart, SinkFailed, ImageDamaged):
            await copy(source, pool, [Digest("sha256")], decoder, sink, Meter(len(data)))
        del source.fault, sink.fault, decoder
        for _ in range(200):  # the thread that raised may still be on its way out
            if gone() is None:
                break
            await asyncio.sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()
        pool.reclaim()
        pool.close()
