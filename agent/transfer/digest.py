"""The digest over the bytes as downloaded: an observer, it never changes or holds them."""

import hashlib

# What is computed where the job names no checksum, so that the status can still say what was deployed.
DEFAULT_ALGORITHM = "sha256"


class Digest:
    """A running digest; `update` is blocking work for a thread (the hash lets go of the GIL on large
    pieces).
    """

    def __init__(self, algorithm: str = DEFAULT_ALGORITHM) -> None:
        self.algorithm = algorithm
        self.reset()

    def reset(self) -> None:
        """Start again from no bytes."""
        self._hash = hashlib.new(self.algorithm, usedforsecurity=False)
        self.length = 0

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        self._hash.update(data)
        self.length += len(data)

    def hexdigest(self) -> str:
        """The digest so far, in lower case."""
        return self._hash.hexdigest()
