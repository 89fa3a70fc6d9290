"""The copy loop: source -> (observers | decoder -> sink), over one pool of buffers.

The event loop receives and supervises. It hands each buffer to two lanes, whose threads hash it and write it while the
next one fills. The order matters and stands here once: the digest sees the bytes exactly as they were downloaded,
before any decoder; the decoder runs in the writer's thread, because what it yields must be on its way to the sink
before the buffer may be filled again. A compressed file is unpacked in threads of its own (`transfer/unpack.py`), and
the writer's gets what is in it.

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
from agent.transfer.unpack import Unpacking, unpacking_of


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
    lanes = _Lanes(decoder)
    applier = Applier(sink)

    def close() -> None:
        lanes.close()
        applier.close()

    try:
        await run_together(
            _receive(source, pool, meter, head or deque(), lanes),
            _hash(lanes.hash, observers),
            *(() if lanes.unpacking is None else (_unpack(lanes.decode, lanes.unpacking),)),
            _write(lanes, pool, decoder, applier, source, meter),
        )
    finally:
        await run_blocking(close)


class _Lanes:
    """What leads from the receiver to the threads that work on the bytes."""

    def __init__(self, decoder: Decoder) -> None:
        self.hash = Lane()
        self.decode = Lane()
        """To the writer, or to what unpacks in front of it."""
        self.unpacking = unpacking_of(decoder)

    def slow_side(self) -> str:
        """What lags, where there is no free buffer."""
        if self.decode.waiting < self.hash.waiting:
            return CPU
        return DISK if self.unpacking is None or self.unpacking.ahead else CPU

    def put(self, buffer: Buffer | None) -> None:
        """Hand a buffer on to both; None after the last one."""
        if buffer is not None:
            buffer.hold(2)
        self.hash.put(buffer)
        self.decode.put(buffer)

    def close(self) -> None:
        """End the threads that are not ended yet."""
        if self.unpacking is not None:
            self.unpacking.close()


async def _receive(
    source: Source, pool: BufferPool, meter: Meter, head: deque[Buffer], lanes: _Lanes
) -> None:
    while head:
        lanes.put(head.popleft())
    while True:
        buffer = pool.take() or await _acquire_late(pool, meter, lanes)
        began = time.monotonic()
        buffer.length = await source.fill(buffer.view)
        meter.received(buffer.length, time.monotonic() - began)
        at_end = buffer.length < len(buffer.view)
        if buffer.length:
            lanes.put(buffer)
        else:
            buffer.release()
        if at_end:
            break
    lanes.put(None)


async def _acquire_late(pool: BufferPool, meter: Meter, lanes: _Lanes) -> Buffer:
    """All buffers are in use: wait, and charge the wait to what lags."""
    side = lanes.slow_side()
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


async def _unpack(lane: Lane, unpacking: Unpacking) -> None:
    def stop() -> None:
        lane.stop()
        unpacking.stop()

    await run_lasting(lambda: unpacking.run(lane), stop, "byoi-unpack")


async def _write(
    lanes: _Lanes, pool: BufferPool, decoder: Decoder, applier: Applier, source: Source, meter: Meter
) -> None:
    lane, unpacking = lanes.decode, lanes.unpacking

    def wrote(length: int, held: int) -> None:
        meter.wrote(length)
        pool.make_room(held)

    def took(length: int) -> None:
        lane.on_loop(wrote, length, decoder.held)

    def feeds() -> Iterator[Iterator[Extent]]:
        for buffer in lane:
            yield decoder.feed(buffer.data)
            # The applier is done with a feed when it asks for the next one.
            took(buffer.length)
            lane.on_loop(buffer.release)
        yield decoder.finish()

    stop = lane.stop if unpacking is None else unpacking.stop

    async def run(work: Callable[[], Fetch | None]) -> Fetch | None:
        return await run_lasting(work, stop, "byoi-write")

    await apply_feeds(applier, feeds() if unpacking is None else unpacking.feeds(took), source, run)


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
