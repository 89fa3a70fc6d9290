"""The ways to open a disk: claimed, with O_DIRECT beside the page cache; and errors that name the path.

Used by `agent.host.disk` (writing) and `agent.host.readback` (reading).
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The alignment that O_DIRECT gets on a regular file: the largest logical sector size of a disk below it.
FILE_ALIGNMENT = 4096
# How the kernel says that a device or filesystem does not have an operation.
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})


def open_direct(fd: int, access: int) -> int | None:
    """Open the file or device of a descriptor once more with O_DIRECT; None where that is refused.

    Args:
        fd: an open descriptor.
        access: `os.O_RDONLY` or `os.O_RDWR`.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", access | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        # Some filesystems refuse O_DIRECT at open time (older tmpfs).
        if error.errno not in UNSUPPORTED:
            raise
        return None


def open_exclusive(path: str) -> int:
    """Open a block device or a regular file to write it, and claim it.

    Raises:
        OSError: EBUSY if something else holds it; ENOTBLK if it is neither of the two.
    """
    # On a block device O_EXCL is an exclusive claim in the kernel: it fails with EBUSY while a mount, md, dm or another
    # O_EXCL opener has the device, and makes those fail afterwards (open(2)).
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if Path(path).is_block_device() else 0))
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif not stat.S_ISBLK(mode):
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK))
    except BlockingIOError:
        os.close(fd)
        raise OSError(errno.EBUSY, "another process writes to this file") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def path_in_errors(path: str) -> Iterator[None]:
    """Add the path to every OSError that has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, path) from error
        raise


def read_past_cache(direct_fd: int | None, fd: int, window: memoryview, offset: int) -> int:
    """Fill an aligned window from the device, and not from the page cache; gives how many bytes came.

    Args:
        direct_fd: the disk opened with O_DIRECT; None where that does not work.
        fd: the same disk without. Its cached pages were flushed.
        window: what to fill, aligned as O_DIRECT wants it.
        offset: where on the disk, aligned as well.

    Raises:
        OSError: the disk cannot be read.
    """
    if direct_fd is not None:
        try:
            return os.preadv(direct_fd, [window], offset)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    # Without O_DIRECT: drop the cached pages, so that they are read from the device again.
    os.posix_fadvise(fd, offset, len(window), os.POSIX_FADV_DONTNEED)
    return os.preadv(fd, [window], offset)
