"""What looks at the bytes as they were downloaded: observers, which never change or hold them. The digest is one."""

import hashlib
from typing import Protocol

# What is computed where the job names no checksum, so that the status can still say what was deployed.
DEFAULT_ALGORITHM = "sha256"


class Observer(Protocol):
    """Sees all bytes of a file, in their order. `update` is blocking work for a thread; the rest takes no time."""

    def reset(self) -> None:
        """The file begins again with its first byte."""

    def update(self, data: memoryview) -> None:
        """Take the next bytes; nothing of `data` is kept."""

    def stop(self) -> None:
        """Have an `update` that waits for something end soon. Called by another thread than it."""


class Digest:
    """A running digest (the hash lets go of the GIL on large pieces)."""

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

    def stop(self) -> None:
        """Nothing to do: it waits for nothing."""

    def digest(self) -> bytes:
        """The digest so far."""
        return self._hash.digest()

    def hexdigest(self) -> str:
        """The digest so far, in lower case."""
        return self._hash.hexdigest()
