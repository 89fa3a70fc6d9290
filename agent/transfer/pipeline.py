"""The copy loop: source -> (digest | decoder -> sink), over one pool of buffers.

Three coroutines share each buffer: the receiver fills it, then the hasher and the writer work on it in
threads of their own while the next one fills. The order matters and stands here once: the digest sees the
bytes exactly as they were downloaded, before any decoder; the meter counts beside both; the decoder runs in
the writer's thread, because what it yields must be on its way to the sink before the buffer may be filled
again.

The pool is the only queue bound: when the disk or the hash is slow, the receiver finds no free buffer and
the socket fills. What the decoder comes to hold is taken from the pool.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator

from agent.aio import run_blocking, run_together
from agent.formats.extent import Decoder, Extent
from agent.transfer.apply import Applier
from agent.transfer.digest import Digest
from agent.transfer.meter import CPU, DISK, Meter
from agent.transfer.pool import Buffer, BufferPool
from agent.transfer.sink import Sink
from agent.transfer.source import Source

# A thread takes what has piled up, so a hop between threads is paid once for several buffers when there is a
# backlog.
BATCH = 2

_Lane = asyncio.Queue[Buffer | None]


async def copy(
    source: Source,
    pool: BufferPool,
    digest: Digest,
    decoder: Decoder,
    sink: Sink,
    meter: Meter,
    head: deque[Buffer] | None = None,
) -> None:
    """Copy the source's remaining bytes, after those already read into `head`, until its end.

    `head` is emptied, so that nothing but the pool keeps its buffers.

    On return every byte has been hashed, decoded and handed to the sink (not flushed), and the decoder has
    agreed that the image is whole. On any exception the threads have stopped; the pool has to be reclaimed
    by the caller.

    Raises:
        TransferRestart: start again from byte 0, with digest, decoder and sink reset.
        DeployError: the download failed, or the decoder refused the image.
        SinkFailed: the sink refused bytes.
        ImageTooLarge: it is larger than the sink.
    """
    applier = Applier(sink)
    lanes: tuple[_Lane, _Lane] = (asyncio.Queue(), asyncio.Queue())
    to_hash, to_write = lanes
    try:
        await run_together(
            _receive(source, pool, meter, head or deque(), to_hash, to_write),
            _hash_lane(to_hash, digest),
            _write_lane(to_write, pool, decoder, applier, source, meter),
        )
    finally:
        await run_blocking(applier.close)


async def _receive(
    source: Source, pool: BufferPool, meter: Meter, head: deque[Buffer], to_hash: _Lane, to_write: _Lane
) -> None:
    def hand_on(buffer: Buffer) -> None:
        buffer.hold(2)
        to_hash.put_nowait(buffer)
        to_write.put_nowait(buffer)

    while head:
        hand_on(head.popleft())
    while True:
        buffer = pool.take() or await _acquire_late(pool, meter, to_hash, to_write)
        began = time.monotonic()
        buffer.length = await source.fill(buffer.view)
        meter.received(buffer.length, time.monotonic() - began)
        at_end = buffer.length < len(buffer.view)
        if buffer.length:
            hand_on(buffer)
        else:
            buffer.release()
        if at_end:
            break
    to_hash.put_nowait(None)
    to_write.put_nowait(None)


async def _acquire_late(pool: BufferPool, meter: Meter, to_hash: _Lane, to_write: _Lane) -> Buffer:
    """All buffers are in use: wait, and charge the wait to the lane that lags."""
    side = DISK if to_write.qsize() >= to_hash.qsize() else CPU
    began = time.monotonic()
    buffer = await pool.acquire()
    meter.waited(side, time.monotonic() - began)
    return buffer


async def _hash_lane(lane: _Lane, digest: Digest) -> None:
    async for batch in _batches(lane):
        await run_blocking(_hash, digest, [buffer.data for buffer in batch])


async def _write_lane(
    lane: _Lane, pool: BufferPool, decoder: Decoder, applier: Applier, source: Source, meter: Meter
) -> None:
    async for batch in _batches(lane):
        await apply_feeds(applier, (decoder.feed(buffer.data) for buffer in batch), source)
        meter.wrote(sum(buffer.length for buffer in batch))
        pool.make_room(decoder.held)
    await apply_feeds(applier, iter((decoder.finish(),)), source)


async def apply_feeds(applier: Applier, feeds: Iterator[Iterator[Extent]], source: Source) -> None:
    """Apply extents in a thread; what the decoder asks for out of order is fetched here, between two runs of it."""
    applier.begin(feeds)
    while (fetch := await run_blocking(applier.run)) is not None:
        fetch.data = await source.read_at(fetch.offset, fetch.length)


async def _batches(lane: _Lane) -> AsyncIterator[list[Buffer]]:
    """What has piled up on the lane, in order, until its end; given back when the next batch is asked for."""
    more = True
    while more:
        batch, more = await _next_batch(lane)
        if batch:
            yield batch
        for buffer in batch:
            buffer.release()


async def _next_batch(lane: _Lane) -> tuple[list[Buffer], bool]:
    batch: list[Buffer] = []
    item = await lane.get()
    while item is not None:
        batch.append(item)
        if lane.empty() or len(batch) == BATCH:
            return batch, True
        item = lane.get_nowait()
    return batch, False


def _hash(digest: Digest, pieces: list[memoryview]) -> None:
    for data in pieces:
        digest.update(data)
