"""A thread that writes the log to stderr, so that whoever logs never waits for the reader of stderr.

stderr is a pipe, a file, or the socket of systemd's journal. Where its reader stops reading, the thread waits in
write(2), up to MAX_HELD_BYTES of lines are kept, and lines beyond that are dropped and counted. It is a daemon thread:
the end of the process does not wait for it. Used by `agent.logs` only.
"""

import os
import select
import threading
from queue import SimpleQueue

from agent.units import MiB

MAX_HELD_BYTES = MiB
"""Of lines that wait to be written."""


class LineWriter:
    """Writes lines to one descriptor, in order. All methods may be called from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        # Reentrant: garbage collection can start while it is held, and what it finalizes may log.
        self._lock = threading.RLock()
        self._held = 0
        self._unreported = 0
        self.dropped = 0
        """Lines that were dropped or could not be written, since the start."""
        threading.Thread(target=self._work, name="byoi-log", daemon=True).start()

    def write(self, line: str) -> None:
        """Put one line into the queue, or drop it where it would pass MAX_HELD_BYTES. Never blocks."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._lock:
            if self._held + len(data) > MAX_HELD_BYTES:
                self._drop()
                return
            self._held += len(data)
            self._queue.put(data)

    def newly_dropped(self) -> int:
        """How many lines were dropped since the last call; 0 while more than half of MAX_HELD_BYTES waits."""
        with self._lock:
            if self._held > MAX_HELD_BYTES // 2:
                return 0
            count, self._unreported = self._unreported, 0
            return count

    def flush(self, seconds: float) -> bool:
        """Wait until all lines queued so far are written, or lost; False if that takes longer than `seconds`."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(seconds)

    def _drop(self) -> None:
        self.dropped += 1
        self._unreported += 1

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            is_written = self._write_out(item)
            with self._lock:
                self._held -= len(item)
                if not is_written:
                    self._drop()

    def _write_out(self, data: bytes) -> bool:
        """Write a line to its last byte; False where that cannot be done: the reader is gone, or a disk is full."""
        try:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # another process that shares the pipe has made it non-blocking
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
        except OSError:
            return False
        return True
