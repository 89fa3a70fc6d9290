"""An HTTP(S) server on loopback that answers each request as a test says: rightly, late, in part, or not at all.

    with serving(lambda request: request.file(data, upto=1000 if request.number == 0 else None)) as server:
        ... server.url ... server.ranges ...

It writes to the socket itself, so that an answer may be anything at all. A connection carries one request, or with
`keep` as many as come, also such as are sent ahead, until an answer ends it.

`python -m tests.kit.server DIRECTORY` serves the files of a directory without ranges, from a process of its own, and
prints its port.
"""

import re
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from agent.formats.image import WINDOW_BYTES

PIECE = 256 * 1024
SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; Python has no name for it
MAX_HEAD = 1024 * 1024
STOP_SECONDS = 25


@dataclass
class Request:
    """One request, and what may be sent for an answer."""

    server: "Server"
    connection: socket.socket
    number: int
    """Of the server's requests, from 0."""
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    over: bool = False
    """Whether the connection ends with the answer, even if others are kept."""
    ahead: bool = False
    """Whether it had come before the answer to the one before it was sent."""

    def header(self, name: str) -> str | None:
        """The value of the first header of this name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def span(self) -> tuple[int, int | None] | None:
        """The range that is asked for: its first byte and the one behind its last, None where it goes to the end."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.header("Range") or "")
        return (int(found[1]), int(found[2]) + 1 if found[2] else None) if found else None

    @property
    def start(self) -> int:
        """The first byte that is asked for."""
        return self.span[0] if self.span else 0

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send these bytes, whatever they are."""
        self.connection.sendall(data)

    def head(self, status: int, **headers: object) -> None:
        """Send a status line and headers; a `_` in a name stands for `-`."""
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Whatever"
        lines = [f"HTTP/1.1 {status} {phrase}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    def reply(self, status: int, body: bytes = b"", **headers: object) -> None:
        """Send a whole answer."""
        self.head(status, **{"Content_Length": len(body)} | headers)
        self.send(body)

    def file(
        self,
        data: bytes | Path,
        *,
        upto: int | None = None,
        etag: str = '"v1"',
        ranges: bool = True,
        pause: float = 0.0,
        **headers: object,
    ) -> None:
        """Serve a file as a well-behaved server does.

        Args:
            data: the bytes of the file, or where it is.
            upto: the offset at which the connection breaks.
            etag: a range is given to whoever has no If-Range or this one.
            ranges: False: a server that knows neither ranges nor ETags.
            pause: of bytes only, see `pieces`.
            headers: more of them, or other values.
        """
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        headers = ({"ETag": etag, "Accept_Ranges": "bytes"} if ranges else {}) | headers
        status, start, stop = 200, 0, size
        if ranges and self.span is not None and self.header("If-Range") in (None, etag):
            status, start, stop = 206, self.span[0], min(self.span[1] or size, size)
            headers["Content_Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.head(status, **headers, Content_Length=stop - start)
        self.over = upto is not None and upto < stop
        stop = stop if upto is None else min(stop, upto)
        if isinstance(data, Path):
            self.stretch(data, start, stop)
        else:
            self.pieces(memoryview(data)[start:stop], pause)

    def stretch(self, path: Path, start: int, stop: int) -> None:
        """Send a part of a file from the page cache."""
        if start < stop:
            with path.open("rb") as file:
                self.connection.sendfile(file, start, stop - start)

    def pieces(self, data: bytes | memoryview, pause: float = 0.0) -> None:
        """Send, and wait `pause` seconds before every 256 KiB behind what is read before anything is written."""
        for at in range(0, len(data), PIECE):
            if pause and at >= WINDOW_BYTES and self.server.stopping.wait(pause):
                return
            self.send(data[at : at + PIECE])

    def hold(self) -> None:
        """Say nothing more until the client goes away or the server stops."""
        with suppress(OSError):
            while self.connection.recv(4096):
                pass

    def reset(self) -> None:
        """Close with a RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


Answer = Callable[[Request], None]


@dataclass
class Server:
    """Calls `answer` for each request, in a thread of its own. A test may put another answer in its place."""

    answer: Answer
    tls: ssl.SSLContext | None = None
    address: str = "127.0.0.1"
    keep: bool = False
    requests: list[Request] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _connections: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._listener = socket.create_server((self.address, 0), family=family, backlog=32)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"[{self.address}]" if family == socket.AF_INET6 else self.address
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Of the image. Whether a path means anything is for `answer` to say."""
        return self.at("/image.raw")

    def at(self, target: str) -> str:
        return self.origin + target

    @property
    def ranges(self) -> list[str | None]:
        """The Range of each request so far, None where there was none."""
        return [request.header("Range") for request in self.requests]

    def stop(self) -> None:
        """Break all connections and wait for the threads. It may be called again."""
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._acceptor.join(STOP_SECONDS)
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        self._listener.close()
        assert not any(thread.is_alive() for thread in self._threads), "an answer does not end"

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer the requests of a connection. Clients may go away at any time."""
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.add(connection)
        try:
            with suppress(OSError), connection:
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
                ahead = bytearray()
                while (request := self._read_request(connection, ahead)) is not None:
                    self.answer(request)
                    if not self.keep or request.over:
                        break
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _read_request(self, connection: socket.socket, ahead: bytearray) -> Request | None:
        """Read a request with its body; None where the client goes away before it is whole.

        `ahead` has what has come of the next one.
        """
        text = bytes(ahead) or (_waiting(connection) if self.keep else b"")
        came_ahead = bool(text)
        while b"\r\n\r\n" not in text:
            piece = connection.recv(65536)
            if not piece or len(text) > MAX_HEAD:
                return None
            text += piece
        head, _, body = text.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split()
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        with self._lock:
            request = Request(self, connection, len(self.requests), method, target, headers, ahead=came_ahead)
            self.requests.append(request)
        length = int(request.header("Content-Length") or 0)
        while len(body) < length:
            piece = connection.recv(65536)
            if not piece:
                return None
            body += piece
        request.body, ahead[:] = body[:length], body[length:]
        return request


def _waiting(connection: socket.socket) -> bytes:
    """What has come and was not read."""
    connection.settimeout(0)
    try:
        return connection.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError):
        return b""
    finally:
        connection.settimeout(None)


@contextmanager
def serving(
    answer: Answer, *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1", keep: bool = False
) -> Iterator[Server]:
    """A server that runs while the block does."""
    server = Server(answer, tls, address, keep)
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    """Serve a directory until the process is ended."""
    directory = Path(sys.argv[1])

    def answer(request: Request) -> None:
        path = directory / Path(request.target).name
        if path.is_file():
            request.file(path, ranges=False)
        else:
            request.reply(404)

    with serving(answer) as server:
        print(server.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
