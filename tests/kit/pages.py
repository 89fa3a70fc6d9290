"""A web server of pages that a test publishes, with the statuses, types and redirects of each."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.server import Request, Server, serving

PAUSE_SECONDS = 60


@dataclass
class Page:
    """What is answered; with `pause_at` the answer falls silent at that offset until `Web.resume` is set."""

    content: bytes | Path
    status: int = 200
    content_type: str = "application/octet-stream"
    pause_at: int | None = None
    location: str | None = None


class Web:
    """Pages by name. They have no ranges."""

    server: Server

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.resume = threading.Event()
        self.paused = threading.Event()

    @property
    def requests(self) -> list[Request]:
        return self.server.requests

    def publish(self, content: bytes | Path, name: str = "image.raw", **options: Any) -> str:
        """Publish a page under a name, in place of one that was there: gives its URL."""
        self.pages["/" + name] = Page(content, **options)
        return f"{self.server.origin}/{name}"

    def answer(self, request: Request) -> None:
        page = self.pages.get(request.target.partition("?")[0], Page(b"nothing here\n", 404, "text/plain"))
        headers: dict[str, object] = {"Content_Type": page.content_type}
        headers |= {} if page.location is None else {"Location": page.location}
        if request.method == "HEAD":
            size = len(page.content) if isinstance(page.content, bytes) else page.content.stat().st_size
            request.head(page.status, **headers, Content_Length=size)
            return
        if isinstance(page.content, bytes):
            request.reply(page.status, page.content, **headers)
            return
        size = page.content.stat().st_size
        request.head(page.status, **headers, Content_Length=size)
        begin = page.pause_at or 0
        request.stretch(page.content, 0, begin)
        if page.pause_at is not None:
            self.paused.set()
            self.resume.wait(PAUSE_SECONDS)
        request.stretch(page.content, begin, size)


@contextmanager
def publishing(address: str = "127.0.0.1") -> Iterator[Web]:
    """A server of pages that runs while the block does."""
    web = Web()
    with serving(web.answer, address=address) as web.server:
        try:
            yield web
        finally:
            web.resume.set()
