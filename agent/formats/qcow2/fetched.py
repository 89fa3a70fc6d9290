"""What was fetched ahead of the stream is compared with what the stream brings.

Owned by the forward pass of `agent.formats.qcow2.forward`. A difference raises ImageChanged: the tables came
from another file than the data.
"""

import hashlib
from array import array

from agent.errors import ImageChanged
from agent.formats.qcow2.queue import Chunk

_DIGEST_BYTES = 16


class FetchedRanges:
    """Ranges ahead of the stream, in the order of the file and apart from each other; 32 bytes of memory each."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        self._digests = bytearray()
        self._at = 0
        self._hash = _hash()

    def remember(self, start: int, data: bytes | bytearray | memoryview) -> None:
        """Compare `data` once the stream has passed `start`, which is not below the end of the range before."""
        if data:
            self._starts.append(start)
            self._ends.append(start + len(data))
            self._digests += _hash(data).digest()

    def compare(self, chunk: Chunk) -> None:
        """Look at the next bytes of the file.

        Raises:
            ImageChanged: a range is not what was fetched.
        """
        while self._at < len(self._starts) and self._starts[self._at] < chunk.end:
            end = self._ends[self._at]
            self._hash.update(chunk.cut(self._starts[self._at], end))
            if end > chunk.end:
                return
            expected = self._digests[self._at * _DIGEST_BYTES : (self._at + 1) * _DIGEST_BYTES]
            if self._hash.digest() != expected:
                raise ImageChanged(
                    url="the image",
                    detail=f"bytes {self._starts[self._at]} to {end - 1} differ when read twice",
                )
            self._hash = _hash()
            self._at += 1

    def pending(self) -> int | None:
        """End of a range that the stream has not passed, if there is one."""
        return self._ends[self._at] if self._at < len(self._ends) else None


def _hash(data: bytes | bytearray | memoryview = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES)
