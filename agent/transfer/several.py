"""A sink over several: what is written goes to all of them, side by side, and the slowest sets the pace.

One download, one digest and one decoding serve them all. Every call returns when it has ended on each of them, also
where one has failed: a buffer may be filled again after it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from agent.tracebacks import raise_first
from agent.transfer.sink import Sink

# So many calls may be under way on each sink: the threads that inflate clusters write by themselves.
_CALLS_PER_SINK = 4


class SeveralSinks:
    """A sink as large as the smallest of several."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        """`sinks`: two or more; the first one is read where something is read."""
        self._first, *self._others = sinks
        self.size = min(sink.size for sink in sinks)
        self._threads = ThreadPoolExecutor(_CALLS_PER_SINK * len(self._others), "byoi-disk")
        self._lock = threading.Lock()
        self._lags = [0.0] * len(sinks)

    @property
    def slowest(self) -> int | None:
        """The number of the sink for which the others have waited longest; None as long as none has."""
        longest = max(self._lags)
        return self._lags.index(longest) if longest > 0 else None

    def close(self) -> None:
        """End the threads, which have nothing to do any more."""
        self._threads.shutdown(wait=False)

    def write(self, offset: int, data: memoryview) -> None:
        """See `Sink.write`."""
        self._each(lambda sink: sink.write(offset, data))

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        """See `Sink.start`."""
        self._each(lambda sink: sink.start(writes))

    def finish(self) -> None:
        """See `Sink.finish`."""
        self._each(lambda sink: sink.finish())

    def zero(self, offset: int, length: int) -> None:
        """See `Sink.zero`."""
        self._each(lambda sink: sink.zero(offset, length))

    def read(self, offset: int, length: int) -> bytes:
        """What the first sink has; see `Sink.read`."""
        return self._first.read(offset, length)

    def _each(self, act: Callable[[Sink], None]) -> None:
        """Have all of them do it; raises the first failure in their order once all have ended."""
        ends = [0.0] * len(self._lags)
        failed: dict[int, BaseException] = {}

        def run(number: int, sink: Sink) -> None:
            try:
                act(sink)
            except Exception as error:  # noqa: BLE001 - raised below, where all have ended
                failed[number] = error
            ends[number] = time.monotonic()

        others = [self._threads.submit(run, number, sink) for number, sink in enumerate(self._others, 1)]
        run(0, self._first)
        wait(others)
        self._count_lag(ends)
        failures = [failed[number] for number in sorted(failed)]
        failed.clear()  # see agent.tracebacks
        raise_first(failures)

    def _count_lag(self, ends: list[float]) -> None:
        """The last one kept the others waiting since the one before it was done."""
        before, last = sorted(ends)[-2:]
        with self._lock:
            self._lags[ends.index(last)] += last - before
