"""Archives for tests, and what an unpacker gives of them."""

import struct
from collections.abc import Iterator
from typing import Protocol

from agent.formats.archives.member import Hole
from agent.units import GiB, KiB


class _Unpacker(Protocol):
    def feed(self, data: memoryview) -> Iterator[memoryview | Hole]: ...
    def finish(self) -> None: ...


def unpack(unpacker: _Unpacker, data: bytes, step: int | None = None) -> bytes:
    """The bytes that it gives for a file, fed in pieces of `step` bytes."""
    given = bytearray()
    for at in range(0, len(data), step or max(len(data), 1)):
        for piece in unpacker.feed(memoryview(data)[at : at + (step or len(data))]):
            given += bytes(piece.length) if isinstance(piece, Hole) else piece
    unpacker.finish()
    return bytes(given)


def disk_bytes(size: int = 160 * KiB, sign: bytes = b"data") -> bytes:
    """A small disk with an MBR, some data and a hole: `sniff` calls it raw."""
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\0\0", 8, size // 512 - 8)
    head = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    middle = sign * 1024
    return head + bytes(4096 - len(head)) + middle + bytes(size - 4096 - 2 * len(middle)) + middle


MOST = 64 * GiB
