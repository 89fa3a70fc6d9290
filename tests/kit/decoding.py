"""What a decoder makes of an image's bytes, by the code that a deployment uses, onto a disk in memory."""

import random
from collections.abc import Iterable

from agent.errors import DeployError
from agent.formats.extent import Decoder, ImageTooLarge
from agent.transfer.apply import Applier
from agent.units import MiB
from tests.kit.sinks import OneByOne

DISK = 2 * MiB
REFUSALS = (DeployError, ImageTooLarge)
"""How decoders refuse."""


class Disk(OneByOne):
    """A sink in memory. Dirty, so that what is not given is seen."""

    size = DISK

    def __init__(self) -> None:
        self.content = bytearray(b"\xa5" * DISK)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert 0 <= offset <= offset + len(data) <= DISK, f"{len(data)} bytes at {offset}"
        self.content[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= DISK, f"{length} bytes at {offset}"
        self.content[offset : offset + length] = bytes(length)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])


def deploy(decoder: Decoder, pieces: Iterable[bytes | memoryview]) -> bytearray:
    """The guest disk that the transfer writes, of a file that comes in these pieces."""
    disk = Disk()
    applier = Applier(disk)
    try:
        for piece in pieces:
            applier.begin(iter([decoder.feed(memoryview(piece))]))
            assert applier.run() is None
        applier.begin(iter([decoder.finish()]))
        assert applier.run() is None
    finally:
        applier.close()
    return disk.content[: decoder.virtual_size]


def guest(size: int) -> bytes:
    """A guest disk that can be compressed, though not to nothing."""
    source = random.Random(5)
    words = [source.randbytes(source.randrange(1, 12)) for _ in range(300)]
    out = bytearray()
    while len(out) < size:
        out += source.choice(words)
    return bytes(out[:size])
