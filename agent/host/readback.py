"""A disk as it is now, read past the page cache and without taking it from anybody.

For the question whether an interrupted commit was complete: by then something may hold the disk (a mount, md, LVM, a
rescue shell), so nothing is claimed and nothing is opened for writing. Blocks; raises OSError with the path in it.
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
from agent.host.disk import named
from agent.units import MiB, align_down, align_up

_STEP = MiB
_FILE_ALIGNMENT = 4096
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP)


class ReadBack:
    """An open disk. Offsets and lengths are bytes. A context manager.

    Attributes:
        path: as it was given.
        size: bytes.
    """

    def __init__(self, path: str) -> None:
        """Open the disk, and have the kernel and the device write out what they still hold back.

        Raises:
            OSError: ENOTBLK when it is neither a block device nor a file.
        """
        self.path = path
        with named(path):
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
            self.size, self._alignment = info.st_size, _FILE_ALIGNMENT
        else:
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK))
        os.fsync(self._fd)
        try:
            self._direct_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; safe to call twice."""
        for fd in (self._direct_fd, self._fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._direct_fd, self._fd = None, -1

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            OSError: EIO when the disk ends before.
        """
        return b"".join(self._pieces(offset, length))

    def sha256(self, offset: int, length: int) -> str:
        """SHA-256 of a range, in hexadecimal digits; a piece of it is in memory at a time."""
        digest = hashlib.sha256()
        for piece in self._pieces(offset, length):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, offset: int, length: int) -> Iterator[bytes]:
        view = memoryview(mmap.mmap(-1, _STEP + 2 * _FILE_ALIGNMENT))
        with named(self.path):
            for at in range(offset, offset + length, _STEP):
                end = min(at + _STEP, offset + length)
                start = align_down(at, self._alignment)
                window = view[: align_up(end, self._alignment) - start]
                if start + self._fill(window, start) < end:
                    raise OSError(errno.EIO, f"the disk ends before byte {end}")
                yield bytes(window[at - start : end - start])

    def _fill(self, window: memoryview, offset: int) -> int:
        if self._direct_fd is not None:
            try:
                return os.preadv(self._direct_fd, [window], offset)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
        # A filesystem without O_DIRECT: what has been written out can be dropped, and comes from below again.
        os.posix_fadvise(self._fd, offset, len(window), os.POSIX_FADV_DONTNEED)
        return os.preadv(self._fd, [window], offset)
