"""The file source: an image on a local path, behind the same protocol as one behind a URL.

For the copy loop, through the `Source` protocol. Reads go through `run_blocking` into the caller's buffer. A
file that changes while it is read fails the transfer; nothing is ever retried, and the descriptor is closed
by `close` alone.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import struct
from urllib.parse import quote

from agent.aio import run_blocking
from agent.errors import Blame, ImageChanged, ImageDownload
from agent.transfer.source import SourceInfo
from agent.units import MiB

READ_AT_LIMIT = 16 * MiB
"""The longest range that `read_at` gives."""

_BLKGETSIZE64 = 0x80081272  # linux/fs.h


class FileSource:
    """An image in a regular file or on a block device.

    Args:
        path: absolute; symbolic links are followed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._shown_url = "file://" + quote(path, errors="replace")
        self._fd: int | None = None
        self._state: tuple[int, ...] = ()
        self._size = 0
        self._position = 0
        # The descriptor's number is free for others once it is closed, so close waits for the read that still
        # uses it.
        self._lock = asyncio.Lock()

    async def open(self) -> SourceInfo:
        """Open the file and learn its size; see `Source.open`."""
        async with self._lock:
            await run_blocking(self._open)
        opened = f"/proc/self/fd/{self._fd}"
        return SourceInfo(url=self._shown_url, size=self._size, seekable=True, opened=opened)

    async def fill(self, buffer: memoryview) -> int:
        """Fill the buffer from the current position; see `Source.fill`."""
        async with self._lock:
            count = await run_blocking(self._read, buffer, self._position)
            self._position += count
        return count

    async def read_at(self, offset: int, length: int) -> bytes | None:
        """Read a range; see `Source.read_at`. Fewer bytes only where the file ends before.

        Raises:
            ValueError: a negative offset, or a length that is negative or above `READ_AT_LIMIT`.
        """
        if offset < 0 or not 0 <= length <= READ_AT_LIMIT:
            raise ValueError(
                f"cannot read {length} bytes at {offset}: at most {READ_AT_LIMIT} bytes are read at once"
            )
        data = bytearray(max(0, min(length, self._size - offset)))
        async with self._lock:
            await run_blocking(self._read, memoryview(data), offset)
        return bytes(data)

    @property
    def connections(self) -> int:
        """None at all; see `Source.connections`."""
        return 0

    async def close(self) -> None:
        """Close the file; see `Source.close`."""
        async with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                await run_blocking(os.close, fd)

    # -- blocking --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            # To open a device is to use it (a watchdog begins to count): only what was looked at is opened.
            looked_at = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
            try:
                status = os.fstat(looked_at)
                self._refuse_other_kinds(status.st_mode)
                fd = os.open(f"/proc/self/fd/{looked_at}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            finally:
                os.close(looked_at)
            self._fd = fd
            self._size = _size_of(fd, status)
        except OSError as error:
            raise self._failed(error, "opened") from error
        self._state = _identity(status)
        with contextlib.suppress(OSError):  # advice only
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def _refuse_other_kinds(self, mode: int) -> None:
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise ImageDownload(
                url=self._shown_url,
                detail=f"{self._path} is {_kind(mode)}",
                hint="Name a regular file or a block device.",
                blame=Blame.REQUEST,
                retryable=False,
            )

    def _read(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from the offset on, and see that the file is still the same."""
        fd = self._fd
        if fd is None:
            raise RuntimeError(f"{self._path} is not open")
        wanted = min(len(buffer), self._size - offset)
        done = 0
        try:
            while done < wanted:
                count = os.preadv(fd, [buffer[done:wanted]], offset + done)
                if count == 0:
                    break
                done += count
            status = os.fstat(fd)
        except OSError as error:
            raise self._failed(error, f"read at byte {offset + done} of {self._size}") from error
        if done < wanted or _identity(status) != self._state:
            raise ImageChanged(url=self._shown_url, detail=self._difference(status, offset + done))
        with contextlib.suppress(OSError):  # advice only: the bytes are not needed twice, their memory is
            os.posix_fadvise(fd, offset, done, os.POSIX_FADV_DONTNEED)
        return done

    def _failed(self, error: OSError, what: str) -> ImageDownload:
        return ImageDownload(
            url=self._shown_url,
            detail=f"{self._path} cannot be {what}: {error.strerror}",
            hint="Check the path, its permissions and the disk that it is on.",
            # A path that leads nowhere is the job's to mend; what fails later is hardware.
            blame=Blame.DISK if error.errno == errno.EIO else Blame.REQUEST,
            retryable=False,
        )

    def _difference(self, status: os.stat_result, offset: int) -> str:
        if stat.S_ISREG(status.st_mode) and status.st_size != self._size:
            return f"{self._path} had {self._size} bytes at first and has {status.st_size} now"
        return f"{self._path} was modified while it was read up to byte {offset} of {self._size}"


def _size_of(fd: int, status: os.stat_result) -> int:
    """Bytes of a regular file or a block device, by an open descriptor."""
    if not stat.S_ISBLK(status.st_mode):
        return status.st_size
    size: int = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    return size


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What stays the same as long as nobody changes the file; a device's times say nothing."""
    if stat.S_ISBLK(status.st_mode):
        return (status.st_dev, status.st_ino)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _kind(mode: int) -> str:
    """What a file that is neither regular nor a block device is."""
    names = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a character device"}
    return names.get(stat.S_IFMT(mode), "no regular file")
