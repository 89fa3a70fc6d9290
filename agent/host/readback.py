"""Reads a disk past the page cache, without claiming it.

Used to find out whether an interrupted commit was complete. By then something may hold the disk (a mount, md, LVM, a
shell in the rescue system), so nothing is claimed and nothing is opened for writing. Every method blocks; errors are
OSError with the path in it.
"""

import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from agent.host import syscalls
from agent.host.descriptor import FILE_ALIGNMENT, open_direct, path_in_errors, read_past_cache
from agent.units import MiB, align_down, align_up

_STEP = MiB


class ReadBack:
    """A disk or regular file, open for reading; a context manager. Offsets and lengths are in bytes.

    Attributes:
        path: as it was given.
        size: in bytes.
    """

    def __init__(self, path: str) -> None:
        """Open the disk and flush what the kernel and the device have cached for it (fsync).

        Raises:
            OSError: ENOTBLK if it is neither a block device nor a regular file; or it cannot be opened.
        """
        self.path = path
        with path_in_errors(path):
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._direct_fd: int | None = None
            try:
                self._inspect()
            except BaseException:
                self.close()
                raise

    def _inspect(self) -> None:
        info = os.fstat(self._fd)
        if stat.S_ISBLK(info.st_mode):
            self.size = syscalls.device_size(self._fd)
            self._alignment = syscalls.logical_sector_size(self._fd)
        elif stat.S_ISREG(info.st_mode):
            self.size, self._alignment = info.st_size, FILE_ALIGNMENT
        else:
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK))
        os.fsync(self._fd)
        self._direct_fd = open_direct(self._fd, os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the disk; may be called twice."""
        for fd in (self._direct_fd, self._fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._direct_fd, self._fd = None, -1

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            OSError: EIO if the disk ends before, or cannot be read.
        """
        return b"".join(self._pieces(offset, length))

    def sha256(self, offset: int, length: int) -> str:
        """SHA-256 of a range in hexadecimal; at most 1 MiB of it is in memory at a time."""
        digest = hashlib.sha256()
        for piece in self._pieces(offset, length):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, offset: int, length: int) -> Iterator[bytes]:
        view = memoryview(mmap.mmap(-1, _STEP + 2 * FILE_ALIGNMENT))
        with path_in_errors(self.path):
            for begin in range(offset, offset + length, _STEP):
                end = min(begin + _STEP, offset + length)
                start = align_down(begin, self._alignment)
                window = view[: align_up(end, self._alignment) - start]
                if start + read_past_cache(self._direct_fd, self._fd, window, start) < end:
                    raise OSError(errno.EIO, f"the disk ends before byte {end}")
                yield bytes(window[begin - start : end - start])
