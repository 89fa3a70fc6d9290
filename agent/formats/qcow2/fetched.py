"""Fetches ranges of the file ahead of the stream, and compares them when the stream brings the same bytes.

Used by `agent.formats.qcow2.forward`. Only the stream is hashed and checked against the job's checksum; a fetched table
that differs from it raises ImageChanged.
"""

import hashlib
from array import array
from collections.abc import Generator
from dataclasses import dataclass

from agent.errors import ImageChanged
from agent.formats.extent import Extent, Fetch
from agent.formats.qcow2.header import Qcow2Limits, damaged
from agent.formats.qcow2.queue import Chunk
from agent.units import MiB

# The most bytes of one `Fetch`.
FETCH_BYTES = 1 * MiB
_DIGEST_BYTES = 16


@dataclass(slots=True)
class Capabilities:
    """What the caller can do for the decoder. `can_fetch` becomes false with the first fetch that fails."""

    can_fetch: bool
    can_recall: bool
    limits: Qcow2Limits


def fetch_range(
    start: int, end: int, capabilities: Capabilities
) -> Generator[Extent, None, bytearray | None]:
    """The file range [start, end) by `Fetch` requests, or None if the source cannot do it.

    Raises:
        ImageDamaged: the file ends before `end`.
    """
    data = bytearray()
    while capabilities.can_fetch and start + len(data) < end:
        fetch = Fetch(start + len(data), min(end - start - len(data), FETCH_BYTES))
        yield fetch
        if fetch.data is None:
            capabilities.can_fetch = False
            break
        if len(fetch.data) != fetch.length:
            raise damaged(f"it ends at byte {fetch.offset + len(fetch.data)}, before byte {end}")
        data += fetch.data
    return data if capabilities.can_fetch else None


class FetchedRanges:
    """Digests of file ranges ahead of the stream, in file order and disjoint; 32 bytes of memory each."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        self._digests = bytearray()
        self._index = 0
        self._hash = _hash()

    def add(self, start: int, data: bytes | bytearray | memoryview) -> None:
        """Note the digest of `data` at file offset `start`, which is not below the end of the range before."""
        if data:
            self._starts.append(start)
            self._ends.append(start + len(data))
            self._digests += _hash(data).digest()

    def compare(self, chunk: Chunk) -> None:
        """Hash the noted ranges in the next chunk of the stream, and compare each that is complete.

        Raises:
            ImageChanged: a range differs from what was fetched.
        """
        while self._index < len(self._starts) and self._starts[self._index] < chunk.end:
            end = self._ends[self._index]
            self._hash.update(chunk.cut(self._starts[self._index], end))
            if end > chunk.end:
                return
            expected = self._digests[self._index * _DIGEST_BYTES : (self._index + 1) * _DIGEST_BYTES]
            if self._hash.digest() != expected:
                raise ImageChanged(
                    url="the image",
                    detail=f"bytes {self._starts[self._index]} to {end - 1} differ when read twice",
                )
            self._hash = _hash()
            self._index += 1

    def pending(self) -> int | None:
        """End offset of the first range that the stream has not passed, or None."""
        return self._ends[self._index] if self._index < len(self._ends) else None


def _hash(data: bytes | bytearray | memoryview = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES)
