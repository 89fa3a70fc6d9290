"""Lines of the log on their way to stderr: a thread writes them, so that nobody who logs ever waits for a reader.

stderr is a pipe, or the socket of systemd's journal; who reads it may stop. Then the thread waits in the kernel, lines
are held up to a bound, and what comes after that is dropped and counted. The thread is not waited for when the process
ends. Used by `agent.logs` alone.
"""

import os
import select
import threading
from queue import SimpleQueue

from agent.units import MiB

MAX_HELD_BYTES = MiB


class LineWriter:
    """Writes lines to one descriptor. May be used from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        # Reentrant: the garbage collector may have something to log in the midst of it.
        self._lock = threading.RLock()
        self._held = 0
        self._untold = 0
        self.dropped = 0
        """Lines that were dropped, or could not be written, in all."""
        threading.Thread(target=self._work, name="byoi-log", daemon=True).start()

    def write(self, line: str) -> None:
        """Have one line written, or drop it where too much waits already. Never blocks."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._lock:
            if self._held + len(data) > MAX_HELD_BYTES:
                self._drop()
                return
            self._held += len(data)
            self._queue.put(data)

    def newly_dropped(self) -> int:
        """How many lines were dropped since this was last asked; 0 until there is room to tell of it."""
        with self._lock:
            if self._held > MAX_HELD_BYTES // 2:
                return 0
            count, self._untold = self._untold, 0
            return count

    def flush(self, seconds: float) -> bool:
        """Wait until all is written that was to be by now; False if that takes longer."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(seconds)

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1

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
        """A reader that went away, or a full disk below a file, is no fault of what is logged."""
        try:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # another process has made the pipe that it shares non-blocking
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
        except OSError:
            return False
        return True
