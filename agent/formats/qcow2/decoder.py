"""qcow2 in one forward pass: the file goes in once, in order; extents of the guest disk come out early.

The tables are kept as they pass and turned around (`tables`); data is cut along the runs that are known
(`queue`); what comes before its table waits (`early`); `forward` holds these together. When
too much waits, the tables are fetched out of order; where the source cannot do that, what waits moves to the
free tail of the disk; where that is full, the image is refused. What was placed and is named again by a later
table is copied from where it was placed (`placed`).

Called by the pipeline, as every decoder. After an exception the decoder is of no further use, and what it
gave until then has to be taken for nothing.
"""

from collections.abc import Iterator, Sequence

from agent.formats.extent import Extent, ImageTooLarge
from agent.formats.qcow2.early import Scratch
from agent.formats.qcow2.forward import ForwardPass, Means
from agent.formats.qcow2.header import DEFAULT_LIMITS, HEADER_BYTES, Qcow2Limits, damaged, read_header
from agent.formats.qcow2.queue import Chunk
from agent.units import MiB, align_up

__all__ = ["Qcow2Decoder", "Qcow2Limits"]

# Space at the end of the disk that stays free of scratch: whoever drives the decoder may hold it in memory.
_TAIL_BYTES = 1 * MiB


class Qcow2Decoder:
    """Decodes a qcow2 image of version 2 or 3.

    Memory, at most: `limits.runs` * 16 bytes (32 MiB) for runs, `limits.early_bytes` (16 MiB) for early data,
    `limits.l2_tables` * 12 bytes (6 MiB, twice as much for a moment) for what the L1 table names, beside the table
    itself while it is read (32 MiB at most), 16 MiB for the digests of as many fetched tables, 1 MiB of doubtful
    sectors, 4 MiB for a compressed cluster, and `limits.places` * 48 bytes (6 MiB, half as much again for a moment)
    for what has been placed and may be named again, and 18 MiB for the moment in which it is found out what of a chunk
    has no owner, if it was made for that. While an L2 table is read, up to 14 times its length: 28 MiB for one of
    2 MiB, 0.9 MiB for one of 64 KiB.

    Every byte that it gives has passed in the stream: only what lies ahead of the stream is fetched, tables alone, and
    the stream has to bring the same bytes later.

    Args:
        file_size: length of the image file in bytes, where it is known: wrong offsets are then found at once.
        disk_size: length of the target disk in bytes. Between the guest's end and the disk's last MiB,
            scratch may be written.
        can_fetch: whether `Fetch` has a chance.
        can_recall: whether `Recall` is understood. Without it, scratch is of no use for early tables and
            compressed clusters.
        limits: the bounds.
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
        self._means = Means(can_fetch, can_recall, limits)
        self._head = bytearray()
        self._position = HEADER_BYTES
        self._pass: ForwardPass | None = None

    @property
    def virtual_size(self) -> int | None:
        """Size of the guest disk in bytes, once the header has been read."""
        return None if self._pass is None else self._pass.header.virtual_size

    @property
    def held(self) -> int:
        """Early data and runs, as many as there are now."""
        return 0 if self._pass is None else self._pass.held

    @property
    def used_scratch(self) -> tuple[int, int] | None:
        """The range (offset, length) of the disk beyond the guest's that was written as scratch, or None."""
        scratch = None if self._pass is None else self._pass.scratch
        if scratch is None or scratch.position == scratch.start:
            return None
        return scratch.start, scratch.position - scratch.start

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes of the file and give the extents that they complete.

        Raises:
            ImageDamaged: the image contradicts itself.
            ImageUnsafe: a check of the header refused it, before any extent was given.
            ImageTooLarge: the guest disk does not fit, before any extent was given.
            ImageMemory: data came before its table, and there is no way left to place it.
            ImageChanged: what was fetched out of order is not what the stream brings.
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
        header = read_header(bytes(self._head), self._file_size, self._means.limits)
        scratch = Scratch.between(align_up(header.virtual_size, MiB), self._disk_size - _TAIL_BYTES)
        forward = self._pass = ForwardPass(header, self._file_size, scratch, self._means)
        if header.virtual_size > self._disk_size:
            raise ImageTooLarge(header.virtual_size)
        return forward

    def finish(self) -> Iterator[Extent]:
        """Give what is left after the file's last byte.

        Raises:
            ImageDamaged: the file ends before its tables, its data, or the size that was told.
        """
        if self._pass is None:
            raise damaged(f"it ends at byte {len(self._head)}, inside of its header")
        if self._file_size is not None and self._position < self._file_size:
            raise damaged(f"it ends at byte {self._position} of {self._file_size}")
        yield from self._pass.finish(self._position)
