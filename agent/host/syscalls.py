"""The system calls that Python's os module lacks: ioctls of block devices, fallocate, sync_file_range, renameat2, and
asynchronous writes (io_submit).

Each function raises OSError with the kernel's errno. A call that a signal interrupts is repeated, as in Python's os
module (PEP 475); `fcntl.ioctl` and ctypes do not do that.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Callable

# linux/fs.h
BLKRRPART = 0x125F
BLKFLSBUF = 0x1261
BLKSSZGET = 0x1268
BLKDISCARD = 0x1277
BLKPBSZGET = 0x127B
BLKSECDISCARD = 0x127D
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

# asm/unistd.h: io_setup, io_destroy, io_getevents, io_submit, which the C library does not have
_IO_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
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
    """Logical sector size of a block device in bytes: the unit of its addresses."""
    return _int_ioctl(fd, BLKSSZGET)


def physical_sector_size(fd: int) -> int:
    """Physical sector size of a block device in bytes: the smallest unit that it writes without reading first."""
    return _int_ioctl(fd, BLKPBSZGET)


def disk_sequence(fd: int) -> int:
    """Disk sequence number (BLKGETDISKSEQ, Linux 5.15): unique among all disks and media since the system started."""
    number: int = struct.unpack("Q", _ioctl(fd, BLKGETDISKSEQ, bytes(8)))[0]
    return number


def flush_buffers(fd: int) -> None:
    """BLKFLSBUF: write back and drop the block device's page cache, so that the next read comes from the device."""
    _ioctl(fd, BLKFLSBUF, b"")


def reread_partitions(fd: int) -> None:
    """BLKRRPART: have the kernel read the partition table again."""
    _ioctl(fd, BLKRRPART, b"")


def zero_out(fd: int, offset: int, length: int) -> None:
    """BLKZEROOUT: zeros are written, by the device itself if it has a command for it. Aligned to logical sectors."""
    _ioctl(fd, BLKZEROOUT, struct.pack("QQ", offset, length))


def discard(fd: int, offset: int, length: int) -> None:
    """BLKDISCARD: the device may forget the range; what is read from it afterwards is not defined."""
    _ioctl(fd, BLKDISCARD, struct.pack("QQ", offset, length))


def secure_discard(fd: int, offset: int, length: int) -> None:
    """BLKSECDISCARD: the device forgets the range and all copies of it. Few devices have it (eMMC)."""
    _ioctl(fd, BLKSECDISCARD, struct.pack("QQ", offset, length))


def zero_range(fd: int, offset: int, length: int) -> None:
    """fallocate(ZERO_RANGE): the range reads as zeros and stays allocated; the file's size is kept."""
    call(_fallocate, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(PUNCH_HOLE): in a regular file, the range reads as zeros and takes no space; the size is kept."""
    call(_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Start the writeback of the range's dirty pages, without waiting for it."""
    call(_sync_file_range, fd, offset, length, SYNC_FILE_RANGE_WRITE)


def finish_writeback(fd: int, offset: int, length: int) -> None:
    """Write back the range's dirty pages and wait for that. Neither metadata nor the disk's cache are flushed."""
    flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER
    call(_sync_file_range, fd, offset, length, flags)


def exchange_files(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> None:
    """Exchange the names of two files atomically: renameat2(RENAME_EXCHANGE).

    Raises:
        OSError: EINVAL where the filesystem cannot do it, ENOSYS where the C library cannot.
    """
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(one))
    call(_renameat2, AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)


def io_setup(depth: int) -> int:
    """Make a context for up to `depth` asynchronous operations at a time; see `man 2 io_setup`.

    Raises:
        OSError: ENOSYS where the kernel has none or this is an unknown architecture, EAGAIN where all are taken
            (/proc/sys/fs/aio-max-nr).
    """
    context = ctypes.c_ulong(0)
    _io_call(0, ctypes.c_uint(depth), ctypes.byref(context))
    return context.value


def io_destroy(context: int) -> None:
    """Wait for all operations of a context, and free it."""
    _io_call(1, ctypes.c_ulong(context))


def io_getevents(context: int, count: int, events: int) -> int:
    """Wait for an operation and store up to `count` results of 32 bytes at the address `events`; gives their number."""
    while True:
        with contextlib.suppress(InterruptedError):
            return _io_call(
                2,
                ctypes.c_ulong(context),
                ctypes.c_long(1),
                ctypes.c_long(count),
                ctypes.c_void_p(events),
                None,
            )


def io_submit(context: int, count: int, pointers: int) -> int:
    """Begin operations; `pointers` is the address of `count` addresses of theirs. Gives how many have begun."""
    return _io_call(3, ctypes.c_ulong(context), ctypes.c_long(count), ctypes.c_void_p(pointers))


def _io_call(which: int, *arguments: object) -> int:
    calls = _IO_CALLS.get(os.uname().machine)
    if calls is None or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result: int = _syscall(ctypes.c_long(calls[which]), *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def return_large_blocks(threshold: int) -> None:
    """Have glibc return memory blocks of at least `threshold` bytes to the system when they are freed.

    By default glibc raises its threshold whenever such a block is freed (mallopt(3), M_MMAP_THRESHOLD), so that a few
    copies of a large config drive would stay resident for good. Nothing is done with other C libraries.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, threshold)
        # Setting one of the two stops the adjustment of the other, whose default of 128 KiB would make the heap
        # shrink and grow all the time.
        _libc.mallopt(M_TRIM_THRESHOLD, 2 * threshold)
        # One heap for all threads. Of several each keeps gaps of its own, as many as chance will have it.
        _libc.mallopt(M_ARENA_MAX, 1)


def return_free_memory() -> None:
    """Return free heap memory to the system: malloc_trim(3), where the C library has it."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def address(view: memoryview) -> int:
    """The memory address of a writable view, to check the alignment that O_DIRECT needs."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def call(function: Callable[..., int], *arguments: int | bytes) -> None:
    """Call a function of the C library that returns 0, or another number and sets errno; repeat it after EINTR.

    Raises:
        OSError: it failed.
    """
    while function(*arguments) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
