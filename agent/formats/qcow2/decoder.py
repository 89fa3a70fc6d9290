"""The qcow2 decoder: takes the file once, in order, and yields the extents of the guest disk as they become known.

L1 and L2 tables are inverted as they pass, from guest -> host to host -> guest (`tables`). Each chunk of data is cut
along the inverted runs (`queue`). Data that comes before its table waits in memory (`early`). When more than a bound
would wait, the tables are fetched out of order; where the source cannot do that, the waiting data moves to free space
at the end of the disk; where that is full too, the image is refused. A cluster that was written and is named again by a
later table is copied from the guest disk (`placed`). `forward` connects these parts.

Called by the transfer pipeline, like every decoder. After an exception the decoder must not be used again, and the
extents that it has yielded do not form a valid guest disk.
"""

from collections.abc import Iterator, Sequence

from agent.formats.extent import Extent, ImageTooLarge
from agent.formats.qcow2.early import Scratch
from agent.formats.qcow2.fetched import Capabilities
from agent.formats.qcow2.forward import ForwardPass
from agent.formats.qcow2.header import DEFAULT_LIMITS, HEADER_BYTES, Qcow2Limits, damaged, read_header
from agent.formats.qcow2.queue import Chunk
from agent.units import MiB, align_up

__all__ = ["Qcow2Decoder", "Qcow2Limits"]

# The end of the disk that is never used as scratch: the caller may hold it in memory until the commit.
_TAIL_BYTES = 1 * MiB


class Qcow2Decoder:
    """Decodes a qcow2 image of version 2 or 3.

    Upper bounds of the memory, by purpose:

    * runs that have not arrived yet: `limits.runs` * 16 bytes (32 MiB);
    * data that waits for its table: `limits.early_bytes` (16 MiB), and 1 MiB of uncertain sectors;
    * offsets of the L2 tables: `limits.l2_tables` * 12 bytes (6 MiB, twice that while they are sorted), and the L1
      table itself while it is read (at most 32 MiB);
    * digests of fetched tables: `limits.l2_tables` * 32 bytes (16 MiB);
    * one compressed cluster: 4 MiB;
    * ranges that were written and may be named again: `limits.places` * 48 bytes (6 MiB, 9 MiB during a merge);
    * an L2 table while it is read: 14 times its length (28 MiB for 2 MiB, 0.9 MiB for 64 KiB);
    * the search for bytes of a chunk without an owner: 18 MiB, only for an image that was built to cause it.

    Every byte that it yields has come in the stream and was hashed there. Only tables are fetched, only from ahead of
    the stream, and the stream has to bring the same bytes later.

    Args:
        file_size: length of the image file in bytes, or None. If known, offsets beyond it are refused at once.
        disk_size: length of the target disk in bytes. Scratch data may be written between the guest's end and the
            disk's last MiB.
        can_fetch: whether the caller tries to answer `Fetch`.
        can_recall: whether the caller answers `Recall`. Without it, tables and compressed clusters that were moved to
            scratch cannot be read back.
        limits: the memory bounds.
    """

    notes: Sequence[str] = ()

    def __init__(
        self,
        file_size: int | None,
        disk_size: int,
        *,
        can_fetch: bool,
        can_recall: bool = False,
        limits: Qcow2Limits = DEFAULT_LIMITS,
    ) -> None:
        self._file_size = file_size
        self._disk_size = disk_size
        self._capabilities = Capabilities(can_fetch, can_recall, limits)
        self._head = bytearray()
        self._position = HEADER_BYTES
        self._pass: ForwardPass | None = None

    @property
    def virtual_size(self) -> int | None:
        """Size of the guest disk in bytes; None until the header has been read."""
        return None if self._pass is None else self._pass.header.virtual_size

    @property
    def held(self) -> int:
        """Bytes of memory that waiting data and runs take now."""
        return 0 if self._pass is None else self._pass.held

    @property
    def used_scratch(self) -> tuple[int, int] | None:
        """The disk range (offset, length) beyond the guest's end that was written as scratch; None if unused."""
        scratch = None if self._pass is None else self._pass.scratch
        if scratch is None or scratch.position == scratch.start:
            return None
        return scratch.start, scratch.position - scratch.start

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes of the file and yield the extents that they complete.

        Raises:
            ImageDamaged: the image contradicts itself.
            ImageUnsafe: a check of the header refused it, before any extent was yielded.
            ImageTooLarge: the guest disk does not fit, before any extent was yielded.
            ImageMemory: data came before its table and can neither be kept nor moved, or a bound is exceeded.
            ImageChanged: a table that was fetched differs from the bytes in the stream.
        """
        forward = self._pass
        if forward is None:
            taken = data[: HEADER_BYTES - len(self._head)]
            self._head += taken
            data = data[len(taken) :]
            if len(self._head) < HEADER_BYTES:
                return
            forward = self._begin()
        if data:
            chunk = Chunk(self._position, self._position + len(data), data)
            self._position = chunk.end
            yield from forward.feed(chunk)

    def _begin(self) -> ForwardPass:
        header = read_header(bytes(self._head), self._file_size, self._capabilities.limits)
        scratch = Scratch.between(align_up(header.virtual_size, MiB), self._disk_size - _TAIL_BYTES)
        forward = self._pass = ForwardPass(header, self._file_size, scratch, self._capabilities)
        if header.virtual_size > self._disk_size:
            raise ImageTooLarge(header.virtual_size)
        return forward

    def finish(self) -> Iterator[Extent]:
        """Yield the last extents; the file has ended.

        Raises:
            ImageDamaged: a table or a cluster is missing, or the file is shorter than `file_size`.
        """
        if self._pass is None:
            raise damaged(f"it ends at byte {len(self._head)}, inside of its header")
        if self._file_size is not None and self._position < self._file_size:
            raise damaged(f"it ends at byte {self._position} of {self._file_size}")
        yield from self._pass.finish(self._position)
