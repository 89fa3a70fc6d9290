"""What decoders give: extents of the guest disk, in bytes.

A decoder is sans-I/O: bytes of the image file go in, in order, and extents of the virtual disk come out. It
never reads, never sleeps, never logs, and holds a bounded amount of memory that its constructor states.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for the guest disk at `offset`. The view is only valid until the next call of the decoder."""

    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Zero:
    """A guest range of `length` bytes at `offset` that must read back as zeros."""

    offset: int
    length: int


Extent = Write | Zero


class Decoder(Protocol):
    """One image format, fed with the file's bytes in order, in pieces of any length."""

    @property
    def virtual_size(self) -> int | None:
        """Size of the guest disk in bytes, or None as long as it is not known."""

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes of the file and give the extents that they complete.

        The iterator must be exhausted before the next call.

        Raises:
            DeployError: the image is damaged or refused.
        """

    def finish(self) -> Iterator[Extent]:
        """Give what is left after the file's last byte.

        Raises:
            DeployError: the image is not whole.
        """
