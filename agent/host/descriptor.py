"""What the ways to open a disk share: O_DIRECT beside the page cache, and errors that name the path.

Used by `agent.host.disk` (writing) and `agent.host.readback` (reading).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def path_in_errors(path: str) -> Iterator[None]:
    """Add the path to every OSError that has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, path) from error
        raise
