"""A server as the network storm draws it: how it answers when it is right, and in what order it does anything else."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.transfer.http.limits import HttpLimits
from agent.units import KiB
from tests.kit.server import Answer, Request, Server

LIMITS = HttpLimits(backoff_base=0.01, backoff_cap=0.05, retry_after_cap=0.1)
"""Patience that no busy machine uses up: a fault that nobody has drawn would spoil what must come."""


def hasty(patience: float = 1.0) -> HttpLimits:
    """For the faults that are about waiting; so many times as patient."""
    return HttpLimits(
        connect_seconds=2.0 * patience, head_seconds=3.0 * patience, stall_seconds=1.5 * patience,
        window_seconds=1.5 * patience, backoff_base=0.01, backoff_cap=0.05, retry_after_cap=0.1,
    )  # fmt: skip


DATE = "Mon, 05 Oct 2020 10:00:00 GMT"


@dataclass(frozen=True)
class Style:
    """How this server answers when it is right: all of it is allowed by RFC 9110 and RFC 9112."""

    chunked: bool
    ranges: bool
    etag: str | None
    dated: bool
    interim: int
    trailers: bool
    pieces: tuple[int, ...]
    """Lengths of chunks, and of what is sent at once, taken in turn."""

    @classmethod
    def drawn(cls, chance: random.Random) -> "Style":
        return cls(
            chunked=chance.random() < 0.25,
            ranges=chance.random() < 0.7,
            etag=chance.choice(('"v1"', '"v1"', '"v1"', 'W/"v1"', None)),
            dated=chance.random() < 0.5,
            interim=chance.choice((0, 0, 0, 1, 3)),
            trailers=chance.random() < 0.3,
            pieces=tuple(chance.randint(1, chance.choice((100, 9 * KiB, 300 * KiB))) for _ in range(16)),
        )

    @property
    def proves(self) -> bool:
        """Whether a transfer can be resumed without a checksum."""
        return self.ranges and not self.chunked and self.etag == '"v1"'

    def answer(self, request: Request, data: bytes, **changed: object) -> bytes:
        """The whole answer to a request for a file, as it goes over the wire; `changed` are headers."""
        size, span = len(data), request.span
        condition = request.header("If-Range")
        part = (
            self.ranges and span is not None and condition in (None, self.etag, DATE if self.dated else None)
        )
        start, stop = (span[0], min(span[1] or size, size)) if part and span else (0, size)
        headers: dict[str, object] = {"Date": DATE, "Content-Type": "application/octet-stream"}
        headers |= {"ETag": self.etag} if self.etag else {}
        headers |= {"Last-Modified": DATE} if self.dated else {}
        headers |= {"Accept-Ranges": "bytes"} if self.ranges else {}
        if part and start >= size:
            return head(416, {**headers, "Content-Range": f"bytes */{size}", "Content-Length": 0, **changed})
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        body = data[start:stop]
        if self.chunked:
            headers["Transfer-Encoding"] = "chunked"
            body = self.in_chunks(body)
        else:
            headers["Content-Length"] = len(body)
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" * self.interim
        return interim + head(206 if part else 200, {**headers, **changed}) + body

    def in_chunks(self, body: bytes) -> bytes:
        out, at, number = bytearray(), 0, 0
        while at < len(body):
            piece = body[at : at + max(self.pieces[number % 16], 512)]
            extension = b";name=value" if number % 7 == 3 else b""
            out += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
            at, number = at + len(piece), number + 1
        return bytes(out + b"0\r\n" + (b"X-Sum: 12\r\n" if self.trailers else b"") + b"\r\n")

    def send(self, request: Request, stream: bytes) -> None:
        """Send it in pieces, the first hundred of which are as short as they were drawn."""
        view, at, number = memoryview(stream), 0, 0
        while at < len(view):
            length = self.pieces[number % 16] if number < 100 else 256 * KiB
            request.send(view[at : at + length])
            at, number = at + length, number + 1


def head(status: int, headers: dict[str, object]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass
class Scene:
    """What a run has drawn: the file, how it is served, and what the server does before it serves it."""

    chance: random.Random
    data: bytes = field(repr=False)
    style: Style
    checksummed: bool
    first: list[Answer] = field(default_factory=list)
    """Answers to the first requests, in their order; then the file is served, or `always` answers."""
    always: Answer | None = None
    elsewhere: Server | None = None
    """A server of another origin, with the file."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> None:
        with self._lock:
            answer = self.first.pop(0) if self.first else self.always or self.serve
        # What is not the plain file may be cut, or go on behind its length: no request is answered after it.
        request.over = answer != self.serve
        answer(request)

    def spread(self) -> None:
        """Have the faults come to connections of any number, with some between them that are served rightly."""
        faults, self.first = self.first, []
        for answer in faults:
            self.first += [self.serve] * self.chance.randint(0, 4) + [answer]

    def serve(self, request: Request) -> None:
        """Serve the file rightly."""
        self.style.send(request, self.style.answer(request, self.data))

    def some(self, answer: Callable[[], Answer], most: int) -> None:
        """So many such answers, and then the file."""
        self.first += [answer() for _ in range(self.chance.randint(1, most))]

    @property
    def most_cuts(self) -> int:
        """One less than what is too many: the last one is left to a machine that is too busy to send."""
        goes_on = self.style.ranges and not self.style.chunked and (self.checksummed or self.style.proves)
        return LIMITS.attempts - 2 if goes_on else LIMITS.restarts - 1

    def resumable(self) -> None:
        """Have a style with which a cut transfer is resumed, as what is to come is about that."""
        proof = {"chunked": False, "ranges": True, "etag": '"v1"'}
        self.style = Style(**{**vars(self.style), **proof})

    def cut_once(self, least: int = 1) -> None:
        """The first answer is cut in its body, so that the rest is asked for."""
        at = self.chance.randrange(least, len(self.data))

        def answer(request: Request) -> None:
            stream = self.style.answer(request, self.data)
            request.send(memoryview(stream)[: len(stream) - len(self.data) + at])

        self.first.append(answer)
