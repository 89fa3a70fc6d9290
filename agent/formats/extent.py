"""What decoders give: extents of the guest disk, in bytes.

A decoder is sans-I/O: bytes of the image file go in, in order, and extents of the virtual disk come out. It
never reads, never sleeps, never logs, and holds a bounded amount of memory that its constructor states. What
it cannot do by itself it asks for, as an extent too: `Fetch` and `Copy`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Codec = Literal["deflate", "zlib", "zstd"]


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for the guest disk at `offset`. The view is only valid until the decoder is fed again."""

    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Zero:
    """A guest range of `length` bytes at `offset` that must read back as zeros."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Inflate:
    """A compressed guest range: `data` inflates to `inflated` bytes, the first `length` of which belong at `offset`.

    `length` is less only where the guest disk ends within the cluster or grain; the rest is inflated all the same, for
    the stream's end and its checksum come after it. `data` may have other bytes behind the end of the compressed
    stream. `codec` is `deflate` (raw, RFC 1951), `zlib` (RFC 1950) or `zstd` (frames, RFC 8878). The view is only valid
    until the decoder is fed again.
    """

    offset: int
    length: int
    data: memoryview
    codec: Codec
    inflated: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes that a `Write` or an `Inflate` has put on the disk at `source` before belong at `offset` as well."""

    source: int
    offset: int
    length: int


@dataclass(slots=True)
class Fetch:
    """A range of the image file that is needed out of order.

    Whoever drives the decoder puts the bytes into `data` before it takes the next extent: all `length` of
    them (fewer only at the end of the file), or None where the source cannot do it.
    """

    offset: int
    length: int
    data: bytes | None = None


@dataclass(slots=True)
class Recall:
    """Bytes that a `Write` has put on the disk at `source` before are needed by the decoder itself.

    Whoever drives the decoder puts all `length` of them into `data` before it takes the next extent. It comes
    only from a decoder that was told that its driver can read the disk.
    """

    source: int
    length: int
    data: bytes | None = None


Extent = Write | Zero | Inflate | Copy | Fetch | Recall


class ImageTooLarge(Exception):
    """The image is larger than the disk that it was to go to.

    Attributes:
        size: bytes that it is known to have by now; it may have more.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"the image has {size} bytes or more")
        self.size = size


class Decoder(Protocol):
    """One image format, fed with the file's bytes in order, in pieces of any length."""

    @property
    def virtual_size(self) -> int | None:
        """Size of the guest disk in bytes, or None as long as it is not known."""

    @property
    def notes(self) -> Sequence[str]:
        """What is not as it should be in the file and does no harm, in words for people; complete after `finish`."""

    @property
    def held(self) -> int:
        """Bytes that it holds now or will soon, by what it has seen, where that is more than a few MiB.

        May be asked at any time; whoever drives it takes less memory for buffers instead.
        """

    @property
    def used_scratch(self) -> tuple[int, int] | None:
        """The range (offset, length) of the disk behind the guest's end where bytes of the image waited, or None.

        They are still there: whoever drives it zeroes the range in the end.
        """

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
