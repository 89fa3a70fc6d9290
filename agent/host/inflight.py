"""Short writes that are on their way to a disk together: neighbours as one, the rest side by side (Linux AIO).

A disk takes dozens of writes of 4 KiB in the time of a few that follow one another, and each that Python waits for
costs a system call and two turns of the interpreter's lock. The kernel takes all of them in one call, io_submit(2).
With O_DIRECT that returns at once; without, it lasts until all is written, which is no worse than one after the other.

Used by `agent.host.disk`, which decides what may be written so, and what to do about one that failed. Memory: 64 bytes
a write, `DEPTH` of them; what they write stays where it is until `finish`.
"""

import struct
from array import array
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from agent.host import syscalls

# Writes in flight at a time. Most disks are as fast with a hundred of them as they ever become.
DEPTH = 256
# Fewer than these are written as soon one by one: the kernel takes up to 30 ms to take its room back (io_destroy).
SEVERAL = 4
# The most pieces of memory in one write: UIO_MAXIOV in linux/uio.h.
_MAX_PIECES = 1024

# struct iocb and struct io_event in linux/aio_abi.h, and its opcodes
_IOCB = struct.Struct("=QIIHhIQQqQII")
_EVENT_WORDS = 4
_PWRITE, _PWRITEV = 1, 8


class Request(NamedTuple):
    """A write of `length` bytes at `offset`, and where they are: an address and a length for each piece of memory."""

    offset: int
    length: int
    pieces: list[int]

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.length


def join_neighbours(writes: Iterable[tuple[int, memoryview]], alignment: int) -> list[Request] | None:
    """Requests for these writes by offset, neighbours as one.

    Returns:
        None where they cannot be in flight together: two of them overlap, so that their order matters, or one of them
        is not in writable memory, or offset, length or address is no multiple of `alignment`, as O_DIRECT needs.
    """
    requests: list[Request] = []
    start = end = 0
    pieces: list[int] = []
    for offset, data in sorted(writes, key=itemgetter(0)):
        length = len(data)
        if not length:
            continue
        if (
            offset < end
            or data.readonly
            or (offset | length | (address := syscalls.address(data))) % alignment
        ):
            return None
        if offset > end or len(pieces) >= 2 * _MAX_PIECES:
            if pieces:
                requests.append(Request(start, end - start, pieces))
            start, pieces = offset, []
        pieces += (address, length)
        end = offset + length
    if pieces:
        requests.append(Request(start, end - start, pieces))
    return requests


class InFlight:
    """The writes of one descriptor that are on their way. Its calls belong to one thread at a time."""

    def __init__(self, fd: int) -> None:
        """Ask the kernel for the room.

        Raises:
            OSError: it has none left, or no such calls.
        """
        self._fd = fd
        self._events = array("q", bytes(DEPTH * _EVENT_WORDS * 8))
        self._requests: Sequence[Request] = ()
        self._begun = 0
        self._described: tuple[object, object] | None = None  # what the kernel reads
        self._context = syscalls.io_setup(DEPTH)

    def start(self, requests: Sequence[Request]) -> None:
        """Begin writes, at most `DEPTH`, once `finish` was called. Their memory must not change until it is again."""
        self._requests, self._begun = requests, 0
        self._described = blocks, _ = _describe(self._fd, requests)
        address = syscalls.address(memoryview(blocks))
        pointers = array("Q", range(address, address + len(blocks), _IOCB.size))
        first, _ = pointers.buffer_info()
        try:
            while self._begun < len(requests):
                left = len(requests) - self._begun
                self._begun += syscalls.io_submit(
                    self._context, left, first + self._begun * pointers.itemsize
                )
        except OSError:
            pass  # the rest has not begun, and `finish` says so

    def finish(self) -> list[Request]:
        """Wait for what was started; gives what is not written in full: it failed, was cut short, or never began."""
        requests, self._requests = self._requests, ()
        missing = dict(enumerate(requests))
        while self._begun:
            address, _ = self._events.buffer_info()
            ended = syscalls.io_getevents(self._context, self._begun, address)
            self._begun -= ended
            words = self._events[: ended * _EVENT_WORDS]
            for number, written in zip(words[::_EVENT_WORDS], words[2::_EVENT_WORDS], strict=True):
                if written == requests[number].length:
                    del missing[number]
        self._described = None
        return list(missing.values())

    def close(self) -> None:
        """Give the room back; waits for what is still on its way."""
        syscalls.io_destroy(self._context)
        self._begun = 0


def _describe(fd: int, requests: Sequence[Request]) -> tuple[bytearray, "array[int]"]:
    """What the kernel is given: a block for each request, and the pieces of those that have several."""
    vectors = array("Q")
    for request in requests:
        if len(request.pieces) > 2:
            vectors.extend(request.pieces)
    at, _ = vectors.buffer_info()
    blocks = bytearray(len(requests) * _IOCB.size)
    for number, (offset, length, pieces) in enumerate(requests):
        code, where, count = _PWRITE, pieces[0], length
        if len(pieces) > 2:
            code, where, count = _PWRITEV, at, len(pieces) // 2
            at += len(pieces) * vectors.itemsize
        _IOCB.pack_into(blocks, number * _IOCB.size, number, 0, 0, code, 0, fd, where, count, offset, 0, 0, 0)
    return blocks, vectors
