"""The copy loop: source -> (observers | decoder -> sink), over one pool of buffers.

The event loop receives and supervises. It hands each buffer to two lanes, whose threads hash it and write it while the
next one fills. The order matters and stands here once: the digest sees the bytes exactly as they were downloaded,
before any decoder; the decoder runs in the writer's thread, because what it yields must be on its way to the sink
before the buffer may be filled again.

The pool is the only queue bound: when the disk or the hash is slow, the receiver finds no free buffer and
the socket fills. What the decoder comes to hold is taken from the pool.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

from agent.aio import run_blocking, run_lasting, run_together
from agent.formats.extent import Decoder, Extent, Fetch
from agent.transfer.apply import Applier
from agent.transfer.digest import Observer
from agent.transfer.lane import Lane
from agent.transfer.meter import CPU, DISK, Meter
from agent.transfer.pool import Buffer, BufferPool
from agent.transfer.sink import Sink
from agent.transfer.source import Source


async def copy(
    source: Source,
    pool: BufferPool,
    observers: Sequence[Observer],
    decoder: Decoder,
    sink: Sink,
    meter: Meter,
    head: deque[Buffer] | None = None,
) -> None:
    """Copy the source's remaining bytes, after those already read into `head`, until its end.

    `head` is emptied, so that nothing but the pool keeps its buffers.

    On return every byte has been observed, decoded and handed to the sink (not flushed), and the decoder has
    agreed that the image is whole. On any exception the threads have stopped; the pool has to be reclaimed
    by the caller.

    Raises:
        TransferRestart: start again from byte 0, with observers, decoder and sink reset.
        DeployError: the download failed, or the decoder refused the image.
        SinkFailed: the sink refused bytes.
        ImageTooLarge: it is larger than the sink.
    """
    applier = Applier(sink)
    to_hash, to_write = Lane(), Lane()
    try:
        await run_together(
            _receive(source, pool, meter, head or deque(), to_hash, to_write),
            _hash(to_hash, observers),
            _write(to_write, pool, decoder, applier, source, meter),
        )
    finally:
        await run_blocking(applier.close)


async def _receive(
    source: Source, pool: BufferPool, meter: Meter, head: deque[Buffer], to_hash: Lane, to_write: Lane
) -> None:
    def hand_on(buffer: Buffer) -> None:
        buffer.hold(2)
        to_hash.put(buffer)
        to_write.put(buffer)

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
    to_hash.put(None)
    to_write.put(None)


async def _acquire_late(pool: BufferPool, meter: Meter, to_hash: Lane, to_write: Lane) -> Buffer:
    """All buffers are in use: wait, and charge the wait to the lane that lags."""
    side = DISK if to_write.waiting >= to_hash.waiting else CPU
    began = time.monotonic()
    buffer = await pool.acquire()
    meter.waited(side, time.monotonic() - began)
    return buffer


async def _hash(lane: Lane, observers: Sequence[Observer]) -> None:
    def work() -> None:
        for buffer in lane:
            for observer in observers:
                observer.update(buffer.data)
            lane.on_loop(buffer.release)

    def stop() -> None:
        lane.stop()
        for observer in observers:
            observer.stop()

    await run_lasting(work, stop, "byoi-hash")


async def _write(
    lane: Lane, pool: BufferPool, decoder: Decoder, applier: Applier, source: Source, meter: Meter
) -> None:
    def wrote(buffer: Buffer, held: int) -> None:
        meter.wrote(buffer.length)
        pool.make_room(held)
        buffer.release()

    def feeds() -> Iterator[Iterator[Extent]]:
        for buffer in lane:
            yield decoder.feed(buffer.data)
            # The applier is done with a feed when it asks for the next one.
            lane.on_loop(wrote, buffer, decoder.held)
        yield decoder.finish()

    async def run(work: Callable[[], Fetch | None]) -> Fetch | None:
        return await run_lasting(work, lane.stop, "byoi-write")

    await apply_feeds(applier, feeds(), source, run)


async def apply_feeds(
    applier: Applier,
    feeds: Iterator[Iterator[Extent]],
    source: Source,
    run: Callable[[Callable[[], Fetch | None]], Awaitable[Fetch | None]] = run_blocking,
) -> None:
    """Apply extents in a thread; what the decoder asks for out of order is fetched here, between two runs of it."""
    applier.begin(feeds)
    while (fetch := await run(applier.run)) is not None:
        fetch.data = await source.read_at(fetch.offset, fetch.length)
