"""One part of a deployment by itself.

    alone.py receive URL | hash SIZE | write SIZE DISK | copy URL

Prints the bytes and the seconds of the part as JSON; imports and set-up are not in the seconds. It is what the
machine can do, with as little as possible around it and no code of the agent's: `recv_into` a buffer, SHA-256 over
memory on one core, `pwrite` past the page cache and a flush. `copy` is the first two side by side, a thread each.
"""

import hashlib
import json
import mmap
import os
import socket
import ssl
import sys
import threading
import time
from queue import SimpleQueue
from urllib.parse import urlsplit

PIECE = 4 << 20
PIECES = 8


def receive(url: str) -> tuple[int, float]:
    """From the first byte to the last, into one buffer that nobody looks at."""
    buffer = memoryview(mmap.mmap(-1, PIECE))
    connection, request = _asked(url)
    with connection:
        began = time.monotonic()
        connection.sendall(request)
        total = 0
        while count := connection.recv_into(buffer):
            total += count
    return total, time.monotonic() - began


def copy(url: str) -> tuple[int, float]:
    """Into buffers that another thread hashes."""
    running, free, full = hashlib.sha256(), SimpleQueue(), SimpleQueue()
    for _ in range(PIECES):
        free.put(memoryview(mmap.mmap(-1, PIECE)))

    def work() -> None:
        while (filled := full.get()) is not None:
            running.update(filled)
            free.put(memoryview(filled.obj))

    hasher = threading.Thread(target=work)
    hasher.start()
    connection, request = _asked(url)
    with connection:
        began = time.monotonic()
        connection.sendall(request)
        total, at, buffer = 0, 0, free.get()
        while count := connection.recv_into(buffer[at:]):
            total, at = total + count, at + count
            if at == PIECE:
                full.put(buffer)
                at, buffer = 0, free.get()
        full.put(buffer[:at])
        full.put(None)
        hasher.join()
    return total, time.monotonic() - began


def _asked(url: str) -> tuple[socket.socket, bytes]:
    """A connection, and what is to be sent over it."""
    parts = urlsplit(url)
    connection: socket.socket = socket.create_connection((parts.hostname, parts.port))
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ["CERTIFICATE"])
        connection = context.wrap_socket(connection, server_hostname=parts.hostname)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    return connection, request.encode()


def digest(size: int) -> tuple[int, float]:
    """SHA-256 over memory."""
    running, view = hashlib.sha256(), _random_piece()
    began = time.monotonic()
    for at in range(0, size, PIECE):
        running.update(view[: size - at])
    return size, time.monotonic() - began


def write(size: int, disk: str) -> tuple[int, float]:
    """Onto a block device, one piece after the other, flushed at the end."""
    view = _random_piece()
    descriptor = os.open(disk, os.O_WRONLY | os.O_DIRECT)
    began = time.monotonic()
    for at in range(0, size, PIECE):
        os.pwrite(descriptor, view[: size - at], at)
    os.fsync(descriptor)
    seconds = time.monotonic() - began
    os.close(descriptor)
    return size, seconds


def _random_piece() -> memoryview:
    """In memory of its own, as O_DIRECT asks for whole pages."""
    view = memoryview(mmap.mmap(-1, PIECE))
    view[:] = os.urandom(PIECE)
    return view


def main() -> None:
    match sys.argv[1:]:
        case ["receive", url]:
            total, seconds = receive(url)
        case ["hash", size]:
            total, seconds = digest(int(size))
        case ["write", size, disk]:
            total, seconds = write(int(size), disk)
        case ["copy", url]:
            total, seconds = copy(url)
        case _:
            sys.exit(__doc__)
    print(json.dumps({"bytes": total, "seconds": seconds}))


if __name__ == "__main__":
    main()
