"""Where an image comes from: a web server that knows ranges, and does one thing wrong."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.units import MiB
from tests.kit.server import Request

PAUSE_SECONDS = 300
STRIDE = 4 * MiB


@dataclass
class Origin:
    """Answers for one image; `answer` is for tests.kit.server.

    Attributes:
        break_at: the offset at which the first connection breaks.
        pause_at: the offset at which the first connection falls silent until `resume` is set.
        missing: there is no image any more.
        began: when it was first asked for (time.monotonic).
        sent: bytes of it.
    """

    path: Path
    break_at: int | None = None
    pause_at: int | None = None
    missing: bool = False
    began: float | None = None
    sent: int = 0
    paused: threading.Event = field(default_factory=threading.Event)
    resume: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: Request) -> None:
        size = self.path.stat().st_size
        if request.method == "HEAD":
            request.head(200, Content_Length=size, Accept_Ranges="bytes", ETag='"v1"')
            return
        first, self.began = self.began is None, self.began or time.monotonic()
        if self.missing:
            request.reply(404, b"nothing here\n")
            return
        # Its head only: what it sends is counted on the way.
        request.file(self.path, upto=0)
        start, stop = request.span or (0, size)
        self._send(request, start, self.break_at if first and self.break_at else stop or size, first=first)

    def _send(self, request: Request, start: int, stop: int, *, first: bool) -> None:
        for at in range(start, stop, STRIDE):
            if first and self.pause_at is not None and at >= self.pause_at and not self.paused.is_set():
                self.paused.set()
                self.resume.wait(PAUSE_SECONDS)
            end = min(at + STRIDE, stop)
            request.stretch(self.path, at, end)
            self.sent += end - at
