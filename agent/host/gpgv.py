"""gpgv: checks OpenPGP signatures over bytes that flow by.

It is a child process that reads the bytes from a pipe, so nothing is staged, and is given keys and signatures in memory
(memfd_create(2)): no file is made, and no keyring of the system's is looked at. Why it and not sqv is in
docs/provenance.md. Blocks.
"""

import os

from agent.host.process import ChildLimits, FedProcess, require_tool
from agent.units import MiB

TOOL = "gpgv"
_STALL_SECONDS = 60.0
"""How long it may take no bytes: it hashes hundreds of MiB a second."""
_END_SECONDS = 60.0
_LIMITS = ChildLimits(memory=64 * MiB, cpu=None, file=0)
_WEAK = ("SHA1", "RIPEMD160")
"""Digests that it refuses besides MD5, which it always does."""


def require_gpgv() -> None:
    """Make sure that it is there.

    Raises:
        ToolMissing: it is not.
    """
    require_tool(TOOL)


class Gpgv:
    """One run of gpgv. Used by one thread at a time; `stop` may come from another."""

    def __init__(self, keyring: bytes, signatures: bytes) -> None:
        """Nothing is started before the first bytes.

        Args:
            keyring: certificates as packets.
            signatures: as packets.
        """
        self._keyring = keyring
        self._signatures = signatures
        self._child: FedProcess | None = None

    def feed(self, data: memoryview) -> None:
        """Have it read the next of the signed bytes.

        Raises:
            ToolMissing: it is not there.
            OSError: it ended or hangs (`ProcessFailed`), or could not be started.
        """
        self._started().feed(data, _STALL_SECONDS)

    def finish(self) -> bytes:
        """Its status lines, once it has read everything.

        Raises:
            ToolMissing: it is not there.
            OSError: it hangs, was killed, or could not be started.
        """
        try:
            # 1 and 2 are what it ends with where a signature is bad, or cannot be checked: its lines say which.
            return self._started().finish(_END_SECONDS, ok=(0, 1, 2)).stdout
        finally:
            self.close()

    def stop(self) -> None:
        """Have a `feed` that waits end soon."""
        if self._child is not None:
            self._child.stop()

    def close(self) -> None:
        """Kill it if it runs; the next bytes are the first of another run."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _started(self) -> FedProcess:
        if self._child is None:
            self._child = _start(self._keyring, self._signatures)
        return self._child


def _start(keyring: bytes, signatures: bytes) -> FedProcess:
    files = list[int]()
    try:
        for name, data in (("keyring", keyring), ("signatures", signatures)):
            files.append(os.memfd_create(f"byoi-{name}", 0))
            with open(files[-1], "wb", closefd=False) as file:
                file.write(data)
        weak = [word for name in _WEAK for word in ("--weak-digest", name)]
        paths = [f"/proc/self/fd/{number}" for number in files]
        return FedProcess(
            [TOOL, "--status-fd", "1", *weak, "--keyring", *paths, "-"],
            files=files,
            env_extra={"GNUPGHOME": "/nonexistent"},
            limits=_LIMITS,
        )
    finally:
        for number in files:
            os.close(number)
