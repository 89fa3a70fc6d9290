"""A port that leads to a Unix socket, as `ssh -L` makes one, and what was asked and answered through it."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The one before it may have ended with a body, and so without a line end.
REQUEST = re.compile(rb"([A-Z]+) (/\S*) HTTP/1\.1\r\n")
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Relay:
    """The port, and the bytes of each connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._talks: list[tuple[bytearray, bytearray]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def exchanges(self) -> list[tuple[str, str, int]]:
        """Method, path and status of each request that was answered, connection by connection."""
        return [
            (method.decode(), path.decode(), int(status))
            for asked, answered in self._talks
            for (method, path), status in zip(REQUEST.findall(asked), ANSWER.findall(answered), strict=False)
        ]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._path))
            asked, answered = bytearray(), bytearray()
            self._talks.append((asked, answered))
            back = threading.Thread(target=_pass_on, args=(server, client, answered))
            back.start()
            _pass_on(client, server, asked)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket, said: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            said += data
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(path: Path) -> Iterator[Relay]:
    """A relay to the Unix socket at `path`."""
    relay = Relay(path)
    try:
        yield relay
    finally:
        relay.close()
