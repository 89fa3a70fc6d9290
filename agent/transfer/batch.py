"""Collects short writes and hands them to the sink many at a time; while these are on their way the next ones come.

Used by `agent.transfer.apply`. A long write is a batch of its own. The batches follow one another, so that of two
writes to one place the later one wins.
"""

from agent.errors import WriteFault
from agent.transfer.sink import Sink, SinkFailed
from agent.units import KiB, MiB

# A batch is full with so many writes, or so many bytes. What the decoder holds itself (data that came before its table)
# stays in memory until it is written: one batch that is on its way, and one that fills.
BATCH_WRITES = 256
BATCH_BYTES = 2 * MiB
# It gains nothing from company, and may be memory of the decoder's.
LONG_WRITE = 256 * KiB


class WriteBatches:
    """Writes on their way to a sink. All of it raises SinkFailed, with the offset of the write that failed."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._batch: list[tuple[int, memoryview]] = []
        self._bytes = 0

    def add(self, offset: int, data: memoryview) -> None:
        """Write `data` before the end of the next `finish`; the view has to stay valid until then."""
        is_long = len(data) >= LONG_WRITE
        if is_long:
            self._start()
        self._batch.append((offset, data))
        self._bytes += len(data)
        if is_long or len(self._batch) >= BATCH_WRITES or self._bytes >= BATCH_BYTES:
            self._start()

    def finish(self) -> None:
        """Write all that was added."""
        self._start()
        try:
            self._sink.finish()
        except WriteFault as fault:
            raise SinkFailed(fault.offset, fault) from fault

    def _start(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if not batch:
            return
        try:
            self._sink.start(batch)
        except WriteFault as fault:
            raise SinkFailed(fault.offset, fault) from fault
