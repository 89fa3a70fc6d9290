"""Puts extents onto a sink: the blocking half of the copy loop, run in one thread at a time.

Short writes go to the sink many at a time, and are on their way while the decoder gives the next ones; long ones go
straight through. Whole blocks of zeros in a write are zeroed instead: by a command the disk takes them at once, and a
file stays sparse. Compressed extents are inflated on all cores, in groups; those of a group that lie side by side on
the guest disk become one write. What has been started is finished before `run` returns: a buffer may be filled again
after it.
"""

import mmap
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from agent.errors import ImageDamaged
from agent.formats.extent import Copy, Extent, Fetch, ImageTooLarge, Inflate, Recall, Write, Zero
from agent.tracebacks import raise_first
from agent.transfer.batch import WriteBatches
from agent.transfer.sink import Sink, SinkFailed
from agent.units import KiB, MiB

# A group inflates to so many bytes at most, unless a single cluster is longer. To hand one over costs as much as to
# inflate a cluster, and the clusters of a file need not lie side by side (`qemu-img convert -W`).
GROUP_BYTES = MiB
# The largest cluster that an image format has: qcow2 with cluster_bits 21.
MAX_CLUSTER = 2 * MiB
MAX_GROUPS_PER_THREAD = 3
# Each has a buffer, and takes the GIL a few times for each cluster: more of them would wait for it.
MAX_THREADS = 8
_COPY_BYTES = MiB
# Zeros are looked for in blocks of this length on the guest disk. Shorter ones would make many commands of one write.
ZERO_BLOCK = 256 * KiB
_ZEROS = bytes(ZERO_BLOCK)


class Applier:
    """Applies extents to a sink.

    Memory: one buffer of 2 MiB for each core and one more, but not more than 8, made when the first compressed extent
    comes.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._feeds: Iterator[Iterator[Extent]] = iter(())
        self._extents: Iterator[Extent] = iter(())
        self._inflater: _Inflater | None = None
        self._batches = WriteBatches(sink)

    def begin(self, feeds: Iterator[Iterator[Extent]]) -> None:
        """What `run` shall apply: the extents of one feed of the decoder after the other."""
        self._feeds = feeds
        self._extents = iter(())

    def run(self) -> Fetch | None:
        """Apply extents until their end (None), or until one asks for bytes of the file: call again once it has them.

        Raises:
            SinkFailed: the sink refused bytes.
            ImageTooLarge: it reaches beyond the sink's end; nothing of that extent was written.
            DeployError: from the decoder, or a compressed extent is damaged.
        """
        while True:
            if (fetch := self._run_feed()) is not None:
                return fetch
            # The decoder is fed again only here: what it gave before may live in its own memory.
            following = next(self._feeds, None)
            if following is None:
                return None
            self._extents = following

    def _run_feed(self) -> Fetch | None:
        try:
            for extent in self._extents:
                if isinstance(extent, Fetch):
                    return extent
                self._put(extent)
        finally:
            # Also on a failure: nothing may still read a buffer when the caller gives it back.
            try:
                self._batches.finish()
            finally:
                if self._inflater is not None:
                    self._inflater.finish()
        return None

    def close(self) -> None:
        """End the threads."""
        if self._inflater is not None:
            self._inflater.close()

    def _put(self, extent: Write | Zero | Inflate | Copy | Recall) -> None:
        length = len(extent.data) if isinstance(extent, Write) else extent.length
        offset = extent.source if isinstance(extent, Recall) else extent.offset
        if offset + length > self._sink.size:
            raise ImageTooLarge(offset + length)
        try:
            match extent:
                case Write():
                    self._write(extent.offset, extent.data)
                case Zero():
                    self._zero(extent.offset, extent.length)
                case Inflate():
                    self._inflate(extent)
                case Copy():
                    self._copy(extent)
                case Recall():
                    extent.data = self._read_back(extent.source, extent.length)
        except OSError as error:
            raise SinkFailed(offset, error) from error

    def _write(self, offset: int, data: memoryview) -> None:
        done = 0
        if len(data) >= ZERO_BLOCK:
            for start, end in zero_runs(offset, data):
                if done < start:
                    self._batches.add(offset + done, data[done:start])
                self._zero(offset + start, end - start)
                done = end
        if done < len(data):
            self._batches.add(offset + done, data[done:])

    def _zero(self, offset: int, length: int) -> None:
        self._batches.finish()  # they were to come before
        self._sink.zero(offset, length)

    def _copy(self, extent: Copy) -> None:
        for at in range(0, extent.length, _COPY_BYTES):
            length = min(_COPY_BYTES, extent.length - at)
            data = self._read_back(extent.source + at, length)
            self._sink.write(extent.offset + at, memoryview(data))

    def _read_back(self, offset: int, length: int) -> bytes:
        self._batches.finish()
        if self._inflater is not None:
            self._inflater.finish()  # it may be just about to write what is read
        return self._sink.read(offset, length)

    def _inflate(self, extent: Inflate) -> None:
        if extent.inflated > MAX_CLUSTER:
            raise ImageDamaged(
                format="compressed", reason=f"a cluster of {extent.inflated} bytes is beyond all bounds"
            )
        if self._inflater is None:
            self._inflater = _Inflater(self._sink)
        self._inflater.add(extent)


class _Inflater:
    """Inflates compressed extents in parallel, in groups, a bounded number of them at a time."""

    def __init__(self, sink: Sink) -> None:
        from agent.transfer.inflate import inflate  # noqa: PLC0415 - two libraries, for compressed clusters alone

        self._inflate = inflate
        # One more than there are cores: while one waits for the disk, the others keep all cores busy.
        threads = min(len(os.sched_getaffinity(0)) + 1, MAX_THREADS)
        self._sink = sink
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="byoi-inflate")
        self._local = threading.local()
        self._limit = threads * MAX_GROUPS_PER_THREAD
        self._group: list[Inflate] = []
        self._inflated = 0
        self._running: deque[Future[None]] = deque()

    def add(self, extent: Inflate) -> None:
        if self._inflated + extent.inflated > GROUP_BYTES:
            self._start()
        self._group.append(extent)
        self._inflated += extent.inflated

    def _start(self) -> None:
        if not self._group:
            return
        group, self._group, self._inflated = self._group, [], 0
        if len(self._running) == self._limit:
            raise_first(self._wait_for(1))
        self._running.append(self._threads.submit(self._work, group))

    def finish(self) -> None:
        """Wait for all that was added; raises the first failure once nothing runs any more."""
        self._start()
        raise_first(self._wait_for(len(self._running)))

    def _wait_for(self, count: int) -> list[BaseException]:
        """Wait for the groups that were started first."""
        ended = [self._running.popleft().exception() for _ in range(count)]
        return [failure for failure in ended if failure is not None]

    def close(self) -> None:
        self._group.clear()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _work(self, group: list[Inflate]) -> None:
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            # Page-aligned, so that the sink can write it without a copy.
            buffer = self._local.buffer = memoryview(mmap.mmap(-1, max(GROUP_BYTES, MAX_CLUSTER)))
        # A file that was written by several threads (`qemu-img convert -W`) has neighbours in no order.
        group.sort(key=lambda extent: extent.offset)
        begin, at, offset = 0, 0, group[0].offset
        for extent in group:
            if offset + at - begin != extent.offset:
                self._write(offset, buffer[begin:at])
                begin, offset = at, extent.offset
            self._inflate(extent, buffer[at : at + extent.inflated])
            at += extent.length
        self._write(offset, buffer[begin:at])

    def _write(self, offset: int, data: memoryview) -> None:
        try:
            self._sink.write(offset, data)
        except OSError as error:
            raise SinkFailed(offset, error) from error


def zero_runs(offset: int, data: memoryview) -> Iterator[tuple[int, int]]:
    """The ranges [start, end) of `data` that are zeros: whole blocks of the disk, where `data` begins at `offset`."""
    start = end = 0
    for at in range(-offset % ZERO_BLOCK, len(data) - ZERO_BLOCK + 1, ZERO_BLOCK):
        if _is_zero(data[at : at + ZERO_BLOCK]):
            if at > end:
                if start < end:
                    yield start, end
                start = at
            end = at + ZERO_BLOCK
    if start < end:
        yield start, end


def _is_zero(block: memoryview) -> bool:
    # Nearly all others are found out by three bytes. A view compares byte by byte, 35 times slower than its copy.
    if block[0] or block[-1] or block[len(block) // 2]:
        return False
    return block.tobytes() == _ZEROS
