"""The target disk, opened for writing: a block device, or a regular file in its place.

Owns the file descriptors, the exclusive claim, O_DIRECT and its alignment, short writes, zeroing and flushing. Used by
the stages, in threads. Every method blocks; errors are OSError with the path in it. After an error the disk stays
claimed until `close`.
"""

import errno
import mmap
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.errors import WriteFault
from agent.host import syscalls
from agent.host.descriptor import (
    FILE_ALIGNMENT,
    UNSUPPORTED,
    open_direct,
    open_exclusive,
    path_in_errors,
    read_past_cache,
)
from agent.host.inflight import DEPTH, SEVERAL, InFlight, join_neighbours
from agent.units import MiB, align_down, align_up

# Ranges are zeroed in steps of this length: one large WRITE SAME exceeds the command timeout of some SCSI disks.
ZERO_STEP = 128 * MiB
# Long buffered writes are written back and dropped from the page cache in windows of this length.
WINDOW = 32 * MiB
# Length of the aligned buffer through which unaligned memory is written with O_DIRECT.
_BOUNCE = MiB
MAX_READ_BACK = MiB

_ZeroMethod = Callable[[int, int, int], None]


class TargetDisk:
    """An exclusively opened disk. Offsets and lengths are in bytes.

    `write` and `read` may be called by several threads at once, `start` and `finish` by one.

    Attributes:
        path: as it was given.
        size: in bytes.
        sector_size: logical sector size in bytes; None for a regular file, which is taken to have the image's.
        is_device: whether it is a block device and not a regular file.
        identity: see `identity_of`.
        operations: the number of reads, writes and zeroing steps that have ended. While it does not rise, the disk
            hangs.
    """

    def __init__(self, path: str) -> None:
        """Open and claim the disk; nothing is written.

        Raises:
            OSError: EBUSY if something else holds it; ENOTBLK if it is neither a block device nor a regular file.
        """
        self.path = path
        self.operations = 0
        with path_in_errors(path):
            self._fd = open_exclusive(path)
        self._direct_fd: int | None = None
        self._direct_works = True
        self._lock = threading.RLock()
        self._bounce = memoryview(b"")
        self._back: memoryview | None = None
        self._in_flight: InFlight | None = None
        self._no_queue = False
        self._started: Sequence[tuple[int, memoryview]] = ()
        try:
            with path_in_errors(path):
                self._inspect()
        except BaseException:
            self.close()
            raise

    def _inspect(self) -> None:
        mode = os.fstat(self._fd).st_mode
        self.is_device = stat.S_ISBLK(mode)
        self.identity = identity_of(self._fd)
        self.size = syscalls.device_size(self._fd) if self.is_device else os.fstat(self._fd).st_size
        self.sector_size = syscalls.logical_sector_size(self._fd) if self.is_device else None
        self._alignment = self.sector_size or FILE_ALIGNMENT
        # Devices: the kernel or the device writes zeros; never a discard, after which any content may be read.
        # Files: a hole reads as zeros and keeps the file sparse.
        self._zero_methods: list[_ZeroMethod] = (
            [syscalls.zero_range, syscalls.zero_out]
            if self.is_device
            else [syscalls.punch_hole, syscalls.zero_range]
        )
        self._bounce = memoryview(mmap.mmap(-1, _BOUNCE))
        self._window_start = self._window_end = 0
        self._direct_fd = open_direct(self._fd, os.O_RDWR)

    @property
    def direct(self) -> bool:
        """Whether O_DIRECT is in use; after the first EINVAL it is not used any more."""
        return self._direct_works and self._direct_fd is not None

    def close(self) -> None:
        """Close and thereby release the disk, once nothing is written any more; may be called twice."""
        if self._in_flight is not None:
            self._in_flight.close()
        self._in_flight, self._started = None, ()
        for fd in (self._direct_fd, self._fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._direct_fd, self._fd = None, -1
        self._bounce.release()  # see agent.tracebacks

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data`: the sector-aligned part with O_DIRECT if it works, the rest through the page cache."""
        view = memoryview(data)
        with path_in_errors(self.path):
            self._check_range(offset, len(view))
            start, end = self._direct_part(offset, offset + len(view))
            if start < end:
                self._write_buffered(offset, view[: start - offset])
                self._write_direct(start, view[start - offset : end - offset])
                self._write_buffered(end, view[end - offset :])
            else:
                self._write_buffered(offset, view)

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        """Begin short writes, side by side where that can be; of two that overlap the later one wins.

        They follow those that were begun before. Their memory must not change until `finish`.

        Raises:
            WriteFault: one of these failed, or one of those before.
        """
        for at in range(0, len(writes), DEPTH):
            self.finish()
            some = writes[at : at + DEPTH]
            requests = (
                join_neighbours(some, self._alignment) if self.direct and len(some) >= SEVERAL else None
            )
            queue = self._queue() if requests and requests[-1].end <= self.size else None
            if queue is not None and requests is not None:
                self._started = some
                queue.start(requests)
            else:
                for offset, data in some:
                    self._write_alone(offset, data)

    def _queue(self) -> InFlight | None:
        """What keeps writes in flight; made when it is first needed, for few disks ever need it."""
        if self._in_flight is None and self._direct_fd is not None and not self._no_queue:
            try:
                self._in_flight = InFlight(self._direct_fd)
            except OSError:
                self._no_queue = True  # the kernel has none to give: one write follows the other
        return self._in_flight

    def finish(self) -> None:
        """Wait until everything that was begun is written.

        Raises:
            WriteFault: one of those writes failed.
        """
        if self._in_flight is None or not self._started:
            return
        writes, self._started = self._started, ()
        failed = self._in_flight.finish()
        self.operations += 1
        for request in failed:
            # One by one: `write` knows what to do about a short one, and its failure tells exactly which it is.
            for offset, data in writes:
                if request.offset <= offset < request.end:
                    self._write_alone(offset, data)

    def _write_alone(self, offset: int, data: memoryview) -> None:
        try:
            self.write(offset, data)
        except OSError as error:
            raise WriteFault(offset, error) from error

    def _direct_part(self, start: int, end: int) -> tuple[int, int]:
        if not self.direct:
            return start, start
        return align_up(start, self._alignment), align_down(end, self._alignment)

    def _write_direct(self, offset: int, view: memoryview) -> None:
        if view.readonly or syscalls.address(view) % self._alignment:
            with self._lock:
                for done in range(0, len(view), _BOUNCE):
                    piece = view[done : done + _BOUNCE]
                    self._bounce[: len(piece)] = piece
                    self._write_direct(offset + done, self._bounce[: len(piece)])
            return
        done = 0
        while done < len(view) and self._direct_works and self._direct_fd is not None:
            try:
                done += self._pwrite(self._direct_fd, view[done:], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct_works = False
            self.operations += 1
            if done % self._alignment:
                break
        self._write_buffered(offset + done, view[done:])

    @staticmethod
    def _pwrite(fd: int, view: memoryview, offset: int) -> int:
        written = os.pwrite(fd, view, offset)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def _write_buffered(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._pwrite(self._fd, view[done:], offset + done)
            self.operations += 1
        if len(view) >= _BOUNCE:
            with self._lock:
                self._drop_behind(offset, offset + len(view))

    def _drop_behind(self, start: int, end: int) -> None:
        """Keep a long buffered write from filling the page cache.

        Writeback of a window begins when it is full; it is waited for and dropped when the next one is full.
        """
        if start != self._window_end:
            self._window_start = start
        self._window_end = end
        if end - self._window_start < WINDOW:
            return
        length = end - self._window_start
        syscalls.start_writeback(self._fd, self._window_start, length)
        before = max(self._window_start - WINDOW, 0)
        syscalls.finish_writeback(self._fd, before, self._window_start - before)
        os.posix_fadvise(self._fd, before, self._window_start - before, os.POSIX_FADV_DONTNEED)
        self._window_start = end

    def zero(self, offset: int, length: int) -> None:
        """Make the range read back as zeros, by the cheapest operation that guarantees it."""
        with path_in_errors(self.path):
            self._check_range(offset, length)
            start, end = align_up(offset, self._alignment), align_down(offset + length, self._alignment)
            if start >= end:
                self._write_zeros(offset, length)
                return
            self._write_zeros(offset, start - offset)
            for begin in range(start, end, ZERO_STEP):
                self._zero_step(begin, min(ZERO_STEP, end - begin))
            self._write_zeros(end, offset + length - end)

    def _zero_step(self, offset: int, length: int) -> None:
        while self._zero_methods:
            try:
                self._zero_methods[0](self._fd, offset, length)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                del self._zero_methods[0]
            else:
                self.operations += 1
                return
        self._write_zeros(offset, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        zeros = memoryview(bytes(min(length, _BOUNCE)))
        for done in range(0, length, _BOUNCE):
            piece = zeros[: min(_BOUNCE, length - done)]
            self._write_buffered(offset + done, piece)

    @property
    def zeroed_by(self) -> str:
        """The operation that makes ranges zero; known once a range was."""
        names: dict[_ZeroMethod, str] = {
            syscalls.zero_range: "fallocate ZERO_RANGE",
            syscalls.zero_out: "BLKZEROOUT",
            syscalls.punch_hole: "fallocate PUNCH_HOLE",
        }
        return names[self._zero_methods[0]] if self._zero_methods else "written zeros"

    def discard(self, offset: int, length: int, *, secure: bool = False) -> None:
        """Have the device forget a range; what is read from it afterwards is not defined.

        Raises:
            OSError: EOPNOTSUPP if the device cannot.
        """
        with path_in_errors(self.path):
            self._check_range(offset, length)
            if not self.is_device:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            (syscalls.secure_discard if secure else syscalls.discard)(self._fd, offset, length)
            self.operations += 1

    def flush(self) -> None:
        """Make everything written durable, including the disk's own cache."""
        with path_in_errors(self.path):
            os.fsync(self._fd)

    def drop_cache(self) -> None:
        """Flush, then drop cached pages: the next read comes from the device."""
        self.flush()
        with path_in_errors(self.path):
            if self.is_device:
                syscalls.flush_buffers(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            OSError: EIO if the disk ends before, or cannot be read.
        """
        with path_in_errors(self.path):
            pieces: list[bytes] = []
            while length > 0:
                piece = os.pread(self._fd, length, offset)
                if not piece:
                    raise OSError(errno.EIO, f"the disk ends at byte {offset}")
                pieces.append(piece)
                self.operations += 1
                offset += len(piece)
                length -= len(piece)
            return b"".join(pieces)

    def read_back(self, offset: int, length: int) -> memoryview:
        """Read exactly `length` bytes, at most `MAX_READ_BACK`, past the page cache; by one thread at a time.

        Returns:
            The bytes, as long as nothing else is read back.

        Raises:
            OSError: EIO if the disk ends before, or cannot be read.
        """
        if self._back is None:
            self._back = memoryview(mmap.mmap(-1, MAX_READ_BACK + 2 * FILE_ALIGNMENT))
        with path_in_errors(self.path):
            self._check_range(offset, length)
            start = align_down(offset, self._alignment)
            window = self._back[: align_up(offset + length, self._alignment) - start]
            done = 0
            while start + done < offset + length:
                count = read_past_cache(self._direct_fd, self._fd, window[done:], start + done)
                if count == 0:
                    raise OSError(errno.EIO, f"the disk ends at byte {start + done}")
                done += count
                self.operations += 1
            return window[offset - start : offset - start + length]

    def reread_partitions(self) -> bool:
        """Have the kernel read the partition table; False if it cannot: a file, a loop device without partitions."""
        if not self.is_device:
            return False
        try:
            syscalls.reread_partitions(self._fd)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY, errno.EBUSY, errno.EOPNOTSUPP):
                return False
            raise
        return True

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OSError(
                errno.EINVAL, f"bytes {offset} to {offset + length} are not within its {self.size} bytes"
            )


def identity_of(fd: int) -> tuple[int, ...]:
    """The identity of an open disk, which differs if the same path leads to another disk later.

    Returns:
        For a block device its device number and its disk sequence number (BLKGETDISKSEQ; 0 before Linux 5.15), for a
        file the numbers of its filesystem and inode. `agent.host.inventory` fills `Disk.identity` with the same from
        sysfs.

    Raises:
        OSError: the descriptor cannot be examined.
    """
    info = os.fstat(fd)
    if not stat.S_ISBLK(info.st_mode):
        return info.st_dev, info.st_ino
    try:
        return info.st_rdev, syscalls.disk_sequence(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return info.st_rdev, 0


def read_identity(path: str) -> tuple[int, ...]:
    """`identity_of` the disk at a path. It is opened for that, but not claimed and not waited for.

    Raises:
        OSError: with the path in it.
    """
    with path_in_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return identity_of(fd)
        finally:
            os.close(fd)


def make_sparse(path: str, size: int) -> None:
    """Create a sparse file of `size` bytes, or accept an existing file of exactly that size.

    Raises:
        FileExistsError: there is a file of another size, which is not changed.
        OSError: with the path in it.
    """
    with path_in_errors(path):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            info = Path(path).stat()
            if stat.S_ISREG(info.st_mode) and info.st_size == size:
                return
            raise
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
