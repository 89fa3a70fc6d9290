"""Every system call that Python's os module lacks, in one place: ioctls of block devices, fallocate,
sync_file_range, renameat2.

Each function raises OSError with the errno of the kernel; none logs. A call that a signal interrupts is made again, as
Python's os module does it (PEP 475); `fcntl.ioctl` and what is called through ctypes do not by themselves.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable

# linux/fs.h
BLKRRPART = 0x125F
BLKFLSBUF = 0x1261
BLKSSZGET = 0x1268
BLKPBSZGET = 0x127B
BLKZEROOUT = 0x127F
BLKGETSIZE64 = 0x80081272
BLKGETDISKSEQ = 0x80081280

# linux/falloc.h
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

# linux/fs.h, for sync_file_range(2)
SYNC_FILE_RANGE_WAIT_BEFORE = 1
SYNC_FILE_RANGE_WRITE = 2
SYNC_FILE_RANGE_WAIT_AFTER = 4

# linux/fs.h and linux/fcntl.h, for renameat2(2)
RENAME_EXCHANGE = 2
AT_FDCWD = -100

# malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_renameat2 = getattr(_libc, "renameat2", None)  # since glibc 2.28


def _ioctl(fd: int, request: int, argument: bytes) -> bytes:
    while True:
        with contextlib.suppress(InterruptedError):
            return fcntl.ioctl(fd, request, argument)


def _int_ioctl(fd: int, request: int) -> int:
    value: int = struct.unpack("i", _ioctl(fd, request, bytes(4)))[0]
    return value


def device_size(fd: int) -> int:
    """Size of a block device in bytes."""
    size: int = struct.unpack("Q", _ioctl(fd, BLKGETSIZE64, bytes(8)))[0]
    return size


def logical_sector_size(fd: int) -> int:
    """Logical sector size of a block device in bytes: what its addresses count in."""
    return _int_ioctl(fd, BLKSSZGET)


def physical_sector_size(fd: int) -> int:
    """Physical sector size of a block device in bytes: what it writes at once."""
    return _int_ioctl(fd, BLKPBSZGET)


def disk_sequence(fd: int) -> int:
    """Number of the medium in a block device: no other device, and none that was there before, has it (Linux 5.15)."""
    number: int = struct.unpack("Q", _ioctl(fd, BLKGETDISKSEQ, bytes(8)))[0]
    return number


def flush_buffers(fd: int) -> None:
    """Write out and drop the block device's page cache, so that the next read comes from the device."""
    _ioctl(fd, BLKFLSBUF, b"")


def reread_partitions(fd: int) -> None:
    """Ask the kernel to read the partition table again."""
    _ioctl(fd, BLKRRPART, b"")


def zero_out(fd: int, offset: int, length: int) -> None:
    """BLKZEROOUT: the device writes the zeros, by command where it can. Aligned to logical sectors."""
    _ioctl(fd, BLKZEROOUT, struct.pack("QQ", offset, length))


def zero_range(fd: int, offset: int, length: int) -> None:
    """fallocate(ZERO_RANGE), keeping the size."""
    call(_fallocate, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(PUNCH_HOLE), keeping the size: in a regular file the range reads as zeros and takes no
    room.
    """
    call(_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Begin to write dirty pages of the range out, without waiting."""
    call(_sync_file_range, fd, offset, length, SYNC_FILE_RANGE_WRITE)


def finish_writeback(fd: int, offset: int, length: int) -> None:
    """Write dirty pages of the range out and wait for them. This is not a flush: metadata and disk caches
    stay.
    """
    flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER
    call(_sync_file_range, fd, offset, length, flags)


def exchange_files(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> None:
    """Give each of two files the other's name, at once: renameat2(RENAME_EXCHANGE).

    Not every filesystem can (EINVAL), nor every C library (ENOSYS).
    """
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(one))
    call(_renameat2, AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)


def return_large_blocks(threshold: int) -> None:
    """From now on memory blocks of `threshold` bytes or more go back to the system when they are freed.

    By itself glibc raises that limit with every such block that is freed (mallopt(3)), and a few copies of a large
    config drive stay resident for good. Other C libraries have no such call.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, threshold)
        # Fixing the one fixes the other at 128 KiB: the heap would shrink and grow with every smaller block.
        _libc.mallopt(M_TRIM_THRESHOLD, 2 * threshold)
        # A heap for each thread would keep what that thread once needed.
        _libc.mallopt(M_ARENA_MAX, 2)


def return_free_memory() -> None:
    """Give back to the system what is free in the heaps, where the C library can: malloc_trim(3)."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def address(view: memoryview) -> int:
    """Where a writable view lies in memory, for the alignment that O_DIRECT asks for."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def call(function: Callable[..., int], *arguments: int | bytes) -> None:
    """Call a function of the C library that gives 0, or another number and errno.

    Raises:
        OSError: it failed; not EINTR.
    """
    while function(*arguments) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
