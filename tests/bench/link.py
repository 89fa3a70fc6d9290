"""A server behind a link on which one connection is not enough: `python tests/bench/link.py DIRECTORY --rtt 50`.

It keeps connections, has ranges, and prints its port. No kernel module is needed: what a client sees of a long way is
modelled where the bytes are sent. With `--rtt` (milliseconds) the first byte of an answer comes a round trip after its
request, and before the first answer of a connection there is another one, for the handshake; each round trip brings a
window: ten packets at first, twice as many each time, `--window` bytes at most. With `--pace` (MB/s) the kernel paces
each connection, as a server does that shapes them. Requests that are sent ahead cost no round trip.
"""

import argparse
import socket
import sys
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kit.server import SO_MAX_PACING_RATE, Request, serving

FIRST_WINDOW = 14_600
PIECES = 10
"""A window is sent in so many pieces, over the round trip."""


@dataclass
class Way:
    """The way to one client connection."""

    window: int = FIRST_WINDOW
    used: float = field(default_factory=time.monotonic)


class Link:
    """Answers requests for the files of a directory."""

    def __init__(self, root: Path, rtt: float, window: int, pace: int) -> None:
        self._root, self._rtt, self._window, self._pace = root, rtt, window, pace
        self._ways: weakref.WeakKeyDictionary[socket.socket, Way] = weakref.WeakKeyDictionary()

    def answer(self, request: Request) -> None:
        path = self._root / Path(request.target).name
        if not path.is_file():
            request.reply(404)
            return
        size = path.stat().st_size
        start, stop = request.span or (0, None)
        stop = size if stop is None else min(stop, size)
        connection = request.connection
        way = self._ways.get(connection)
        if way is None:
            if self._pace:
                connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, self._pace)
            way = self._ways[connection] = Way()
            time.sleep(2 * self._rtt)
        elif not request.ahead:
            time.sleep(self._rtt)
        headers = {"ETag": '"v1"', "Accept_Ranges": "bytes", "Content_Length": stop - start}
        if request.span is None:
            request.head(200, **headers)
        else:
            request.head(206, **headers, Content_Range=f"bytes {start}-{stop - 1}/{size}")
        with path.open("rb") as file:
            if self._rtt == 0:
                connection.sendfile(file, start, stop - start)
            else:
                self._send(connection, file, way, start, stop)

    def _send(self, connection: socket.socket, file, way: Way, at: int, stop: int) -> None:
        """Window by window, in pieces, on a clock that goes on from one answer of the connection to the next."""
        due = max(way.used, time.monotonic() - self._rtt / PIECES)
        while at < stop:
            piece = min(max(way.window // PIECES, 1460), stop - at)
            connection.sendfile(file, at, piece)
            at += piece
            due += self._rtt * piece / way.window
            # A window grows by what was sent of it: to the double in a round trip.
            way.window = min(way.window + piece, self._window)
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic() - self._rtt)
        way.used = due


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--rtt", type=float, default=0.0, help="milliseconds")
    parser.add_argument("--window", type=int, default=2_750_000, help="bytes (default: %(default)s)")
    parser.add_argument("--pace", type=float, default=0.0, help="MB/s of one connection")
    options = parser.parse_args()
    link = Link(options.root, options.rtt / 1000, options.window, int(options.pace * 1e6))
    with serving(link.answer, keep=True) as server:
        print(server.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
