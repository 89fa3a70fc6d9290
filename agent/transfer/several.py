"""A sink over several: what is written goes to all of them, side by side, and the slowest sets the pace.

One download, one digest and one decoding serve them all. Every call returns when it has ended on each of them, also
where one has failed: a buffer may be filled again after it. Whether the others go on without that one is decided
elsewhere.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from agent.tracebacks import raise_first
from agent.transfer.sink import Sink

# So many calls may be under way on each sink: the threads that inflate clusters write by themselves.
_CALLS_PER_SINK = 4


class SeveralSinks:
    """A sink as large as the smallest of several."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        is_out: Callable[[int], bool] = lambda _: False,
        goes_on_without: Callable[[int, OSError], bool] = lambda *_: False,
    ) -> None:
        """Args:
        sinks: two or more; the first one is read where something is read.
        is_out: whether the sink of this number is not used any more; never of all of them.
        goes_on_without: is told that one has failed, by any thread, and answers whether it is out from now on. If not,
            the failure is raised.
        """
        self._sinks = tuple(sinks)
        self._is_out = is_out
        self._goes_on_without = goes_on_without
        self.size = min(sink.size for sink in sinks)
        self._threads = ThreadPoolExecutor(_CALLS_PER_SINK * (len(sinks) - 1), "byoi-disk")
        self._lock = threading.Lock()
        self._lags = [0.0] * len(sinks)

    @property
    def slowest(self) -> int | None:
        """The number of the sink for which the others have waited longest; None as long as none has."""
        slowest = max(self._in_use(), key=lambda number: self._lags[number])
        return slowest if self._lags[slowest] > 0 else None

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
        """What the first sink has that is in use; see `Sink.read`."""
        while True:
            first = self._in_use()[0]
            try:
                return self._sinks[first].read(offset, length)
            except OSError as error:
                if not self._goes_on_without(first, error):
                    raise

    def _in_use(self) -> list[int]:
        """The numbers of the sinks that are used: one at least."""
        return [number for number in range(len(self._sinks)) if not self._is_out(number)]

    def _each(self, act: Callable[[Sink], None]) -> None:
        """Have all of them do it that are in use; raises the first failure in their order once all have ended."""
        ends: dict[int, float] = {}
        failed: dict[int, BaseException] = {}

        def run(number: int) -> None:
            try:
                act(self._sinks[number])
            except Exception as error:  # noqa: BLE001 - raised below, where all have ended
                failed[number] = error
            ends[number] = time.monotonic()

        first, *others = self._in_use()
        submitted = [self._threads.submit(run, number) for number in others]
        run(first)
        wait(submitted)
        self._count_lag(ends)
        failures = [failed[number] for number in sorted(failed) if self._is_fatal(number, failed[number])]
        failed.clear()  # see agent.tracebacks
        raise_first(failures)

    def _is_fatal(self, number: int, failure: BaseException) -> bool:
        return not (isinstance(failure, OSError) and self._goes_on_without(number, failure))

    def _count_lag(self, ends: Mapping[int, float]) -> None:
        """The last one kept the others waiting since the one before it was done."""
        last = max(ends, key=lambda number: ends[number])
        before = max((end for number, end in ends.items() if number != last), default=ends[last])
        with self._lock:
            self._lags[last] += ends[last] - before
