"""The forward pass through a qcow2 file after its header: reads tables, writes mapped data, keeps or fetches the rest.

Used by `agent.formats.qcow2.decoder.Qcow2Decoder`, whose docstring lists the errors and the memory. For data whose
table is not known yet it tries, in this order: keep it in memory, fetch the tables, move it to scratch on the disk,
refuse the image.
"""

from array import array
from collections.abc import Generator, Iterator

from agent.errors import ImageMemory
from agent.formats.extent import Copy, Extent, Recall, Write, Zero
from agent.formats.qcow2.early import OVERHEAD, EarlyStore, Piece, Scratch, UncertainSectors
from agent.formats.qcow2.fetched import FETCH_BYTES, Capabilities, FetchedRanges, fetch_range
from agent.formats.qcow2.header import Qcow2Header, damaged
from agent.formats.qcow2.queue import Chunk, RunQueue
from agent.formats.qcow2.tables import (
    SECTOR,
    L1Table,
    L2Table,
    Run,
    RunCursor,
    guest_holes,
    in_file_order,
    l1_holes,
    read_l1,
    read_l2,
    refcount_cursor,
)
from agent.units import KiB, align_up

# Tables no further apart than this are fetched by one request: the bytes between them cost less than a round trip.
_FETCH_GAP = 256 * KiB

_Bytes = Generator[Extent, None, bytes]


class ForwardPass:
    """The state between two chunks of the file."""

    def __init__(
        self, header: Qcow2Header, file_size: int | None, scratch: Scratch, capabilities: Capabilities
    ) -> None:
        self.header = header
        self.scratch = scratch
        self._file_size = file_size
        self._capabilities = capabilities
        self._queue = RunQueue(header, capabilities.limits.runs, capabilities.limits.places)
        self._store = EarlyStore(capabilities.limits.early_bytes)
        self._uncertain = UncertainSectors()
        self._chunk = Chunk(0, 0, memoryview(b""))
        self._l1 = None if header.l1_length else L1Table(array("Q"), array("I"))
        self._next_table = 0
        # The parts that have arrived of the table that comes next, and of the refcount table.
        self._table = bytearray()
        self._refcounts = bytearray()
        self._fetched_l1 = FetchedRanges()
        self._fetched_l2 = FetchedRanges()

    @property
    def held(self) -> int:
        """Bytes of memory that waiting data and runs take."""
        return self._store.size + self._queue.size

    def feed(self, chunk: Chunk) -> Iterator[Extent]:
        """Take the next chunk; when this ends, its bytes are yielded, kept, or not part of the guest disk."""
        self._chunk = chunk
        self._queue.begin(chunk, find_gaps=not self._all_tables_known)
        self._fetched_l1.compare(chunk)
        self._fetched_l2.compare(chunk)
        if not self._all_tables_known:
            self._read_refcounts()
            yield from self._read_tables()
        yield from self._queue.place(chunk)
        if not self._all_tables_known:
            yield from self._keep_unowned()
        if self._all_tables_known:
            self._forget()
        self._queue.end(chunk)

    def _forget(self) -> None:
        """Free what only a further table could need; called when all tables are known."""
        self._store.clear()
        self._uncertain.clear()
        self._queue.placed.clear()
        self._queue.placed_compressed.clear()

    def finish(self, position: int) -> Iterator[Extent]:
        """Yield the last extents; the file has ended after `position` bytes."""
        wanted = self._next_table_range()
        if wanted is not None:
            what = "L1" if self._l1 is None else "L2"
            raise damaged(
                f"it ends at byte {position}, before the {what} table at {wanted[0]} to {wanted[1] - 1}"
            )
        yield from self._queue.finish(position)
        run = self._queue.missing()
        if run is not None:
            raise damaged(f"it ends at byte {position}, before the cluster at {run.host} to {run.end - 1}")
        pending = self._fetched_l1.pending() or self._fetched_l2.pending()
        if pending is not None:
            raise damaged(f"it ends at byte {position}, though {pending} bytes of it could be fetched")

    # -- tables in the stream

    @property
    def _all_tables_known(self) -> bool:
        return self._l1 is not None and self._next_table == len(self._l1.offsets)

    def _next_table_range(self) -> tuple[int, int] | None:
        """The file range (start, end) of the next table in file order, or None when all are known."""
        if self._l1 is None:
            return self.header.l1_offset, self.header.l1_offset + self.header.l1_length
        if self._all_tables_known:
            return None
        offset = self._l1.offsets[self._next_table]
        return offset, offset + self.header.cluster_size

    def _read_refcounts(self) -> None:
        """Collect the refcount table, so that the refcount blocks that it names need not be kept."""
        start, chunk = self.header.refcount_offset, self._chunk
        end = start + self.header.refcount_length
        if end <= chunk.start or chunk.end <= start:
            return
        self._queue.mark_owned(start, end, end)
        if self.header.refcount_length > self._capabilities.limits.refcount_table_bytes:
            return
        self._refcounts += chunk.cut(start, end)
        if end <= chunk.end:
            cursor = refcount_cursor(self._refcounts, self.header)
            self._refcounts.clear()
            for run in cursor.before(chunk.start):
                for piece in self._store.pieces(run.host, min(run.end, chunk.start)):
                    self._store.release(piece)
            self._queue.push(cursor)

    def _read_tables(self) -> Iterator[Extent]:
        """Read the tables that begin before the end of the chunk, in file order."""
        chunk = self._chunk
        while (table := self._next_table_range()) is not None and table[0] < chunk.end:
            start, end = table
            if not self._table and start < chunk.start:
                self._table += yield from self._read_passed(start, min(end, chunk.start))
            self._table += chunk.cut(start + len(self._table), end)
            self._queue.mark_owned(start, end, end)
            if len(self._table) < end - start:
                return
            data, self._table = self._table, bytearray()
            yield from self._take_table(data)

    def _take_table(self, data: bytes | bytearray | memoryview) -> Iterator[Extent]:
        if self._l1 is None:
            l1 = read_l1(data, self.header, self._file_size, self._capabilities.limits.l2_tables)
            for hole in l1_holes(l1, self.header):
                yield Zero(*hole)
            self._l1 = in_file_order(l1)
            return
        tables: dict[int, L2Table] = {}
        for index in self._l1_indices(self._l1):
            base = index * self.header.table_span
            length = min(self.header.table_span, self.header.virtual_size - base)
            if length not in tables:
                tables[length] = read_l2(data, self.header, length, self._file_size)
            yield from self._add_table(tables[length], base, length)

    def _l1_indices(self, l1: L1Table) -> Iterator[int]:
        """Advance past the next table; yields the indices of all L1 entries that name it."""
        offset = l1.offsets[self._next_table]
        while self._next_table < len(l1.offsets) and l1.offsets[self._next_table] == offset:
            self._next_table += 1
            yield l1.indices[self._next_table - 1]

    def _add_table(self, table: L2Table, base: int, length: int) -> Iterator[Extent]:
        for hole in guest_holes(table, self.header, base, length):
            yield Zero(*hole)
        cursor = RunCursor(table, self.header, base, length)
        for run in cursor.before(self._chunk.start):
            yield from self._write_early(run)
        self._queue.push(cursor)

    # -- data that came before its table

    def _write_early(self, run: Run) -> Iterator[Extent]:
        """Write the part of a run that is before the chunk; the queue continues with the rest."""
        end = min(run.end, self._chunk.start)
        prefix = b""
        if run.inflated == 0:
            for piece in self._store.pieces(run.host, end):
                yield from self._write_piece(piece, run.guest + piece.start - run.host)
        elif run.inflated > 0 and not (run.end > end and self._queue.holds_start_of(run)):
            if (copy := self._copy_of_compressed(run)) is not None:
                yield copy
                return
            prefix = yield from self._read_passed(run.host, end, compressed=run)
            if run.end == end or len(prefix) < end - run.host:
                self._queue.placed_compressed.add(run.host, run.host + 1, run.guest)
                yield self._queue.inflate(run, memoryview(prefix))
                return
        if run.end > end:
            self._queue.resume(run, prefix)

    def _copy_of_compressed(self, run: Run) -> Copy | None:
        """A copy of the same compressed cluster from the guest disk, if it was written there before."""
        placed = self._queue.placed_compressed.find(run.host)
        if placed is None:
            return None
        source = placed.guest + run.host - placed.start
        if min(source + self.header.cluster_size, self.header.virtual_size) - source < run.inflated:
            return None  # it was written as the guest's last cluster, and cut at the guest's end
        return Copy(source, run.guest, run.inflated)

    def _write_piece(self, piece: Piece, guest: int) -> Iterator[Extent]:
        length = piece.end - piece.start
        if piece.segment is None:
            yield from self._copy_placed(piece, guest)
        elif (view := piece.data) is not None:
            self._queue.placed.add(piece.start, piece.end, guest)
            yield Write(guest, view)
            self._store.release(piece)
        elif (scratch := piece.scratch) is not None:
            yield Copy(scratch, guest, length)
        else:
            yield Zero(guest, length)

    def _copy_placed(self, piece: Piece, guest: int) -> Iterator[Extent]:
        """Copy bytes that were written for another table from the guest disk."""
        start = piece.start
        while start < piece.end:
            placed = self._queue.placed.find(start)
            if placed is None:
                raise _already_passed(start, piece.end)
            end = min(piece.end, placed.end)
            yield Copy(placed.guest + start - placed.start, guest + start - piece.start, end - start)
            start = end

    def _read_passed(self, start: int, end: int, *, compressed: Run | None = None) -> _Bytes:
        """The kept bytes [start, end): a table, or a compressed cluster, whose last sector may be incomplete."""
        data = bytearray()
        for piece in self._store.pieces(start, end):
            if (view := piece.data) is not None:
                data += view
                self._release(piece, compressed)
            elif piece.scratch is not None:
                data += yield from self._recall(piece.scratch, piece.end - piece.start)
            elif piece.segment is not None:
                data += bytes(piece.end - piece.start)
            else:
                data += self._read_uncertain(piece, compressed)
            if len(data) < piece.end - start:
                break
        return bytes(data)

    def _read_uncertain(self, piece: Piece, compressed: Run | None) -> bytes:
        """Bytes of a compressed cluster that are not in the store, as far as the uncertain sectors have them.

        Raises:
            ImageMemory: more is missing than the end of the cluster's last sector.
        """
        found = b"" if compressed is None else self._uncertain.read(piece.start, piece.end)
        start = piece.start + len(found)
        # Only the last sector is incomplete: the next compressed cluster begins in it, so this one ends before.
        at_end = compressed is not None and start > compressed.host and compressed.end - start < SECTOR
        if start < piece.end and not at_end:
            raise _already_passed(start, piece.end)
        return found

    def _release(self, piece: Piece, compressed: Run | None) -> None:
        if compressed is None:
            self._store.release(piece)
            return
        # The first and the last sector may hold parts of other compressed clusters.
        start = max(piece.start, align_up(compressed.host, SECTOR))
        end = min(piece.end, compressed.end - SECTOR)
        if start < end:
            self._store.release(Piece(start, end, piece.segment))

    def _recall(self, source: int, length: int) -> _Bytes:
        recall = Recall(source, length)
        if self._capabilities.can_recall:
            yield recall
        data: bytes | None = recall.data
        if data is None or len(data) != length:
            raise ImageMemory(detail="a table or a compressed cluster is among what had to leave the memory")
        return data

    # -- data without a known owner

    def _keep_unowned(self) -> Iterator[Extent]:
        """Keep the bytes of the chunk that have no owner yet; above the bound, fetch the tables instead."""
        gaps, uncertain = self._queue.gaps(self._chunk)
        length = sum(end - start + OVERHEAD for start, end in gaps)
        if self._capabilities.can_fetch and self._store.size + length > self._capabilities.limits.early_bytes:
            yield from self._fetch_tables()
            yield from self._queue.place(self._chunk)
            if self._all_tables_known:
                return
            gaps, uncertain = self._queue.gaps(self._chunk)
        for start, end in uncertain:
            self._uncertain.add(start, self._chunk.cut(start, end))
        for start, end in gaps:
            for begin, stop in self._store.split(max(start, self.header.cluster_size), end):
                yield from self._make_room(stop - begin)
                self._store.add(begin, self._chunk.cut(begin, stop))

    def _make_room(self, length: int) -> Iterator[Extent]:
        limit = self._capabilities.limits.early_bytes
        if self._store.size + OVERHEAD + length <= limit:
            return
        yield from self._store.spill(self.scratch, min(limit // 2, limit - OVERHEAD - length))
        if self._store.size + OVERHEAD + length > limit:
            wanted = self._next_table_range() or (0, 0)
            raise ImageMemory(
                detail=f"{limit} bytes came before the table at {wanted[0]}, which cannot be fetched, "
                f"and {self.scratch.end - self.scratch.position} bytes of scratch are left on the disk",
                hint="Convert the image: qemu-img convert -O qcow2 IMAGE NEW.qcow2; or serve it with range requests.",
            )

    # -- tables out of order

    # Only bytes ahead of the stream are fetched: they are compared when the stream brings them. Bytes that have passed
    # could not be compared with anything, so a server could insert bytes there that the digest does not cover.

    def _fetch_tables(self) -> Iterator[Extent]:
        """Fetch every missing table; stops at the first one that the source cannot deliver."""
        if self._l1 is None:
            yield from self._fetch_l1()
        cluster = self.header.cluster_size
        while (group := self._next_fetch_range()) is not None:
            start, end = group
            data = yield from self._fetch_rest(start, end)
            if data is None:
                return
            while (wanted := self._next_table_range()) is not None and wanted[0] < end:
                table = memoryview(data)[wanted[0] - start :][:cluster]
                self._note_fetched(self._fetched_l2, wanted[0], table)
                yield from self._take_table(table)

    def _fetch_l1(self) -> Iterator[Extent]:
        start, end = self.header.l1_offset, self.header.l1_offset + self.header.l1_length
        data = yield from self._fetch_rest(start, end)
        if data is not None:
            self._note_fetched(self._fetched_l1, start, data)
            yield from self._take_table(data)
            del data
            yield from self._read_tables()

    def _fetch_rest(self, start: int, end: int) -> Generator[Extent, None, bytearray | None]:
        """The file range [start, end), which begins with the next table; the part that has passed is not fetched."""
        rest = yield from fetch_range(start + len(self._table), end, self._capabilities)
        if rest is None:
            return None
        passed, self._table = self._table, bytearray()
        passed += rest
        return passed

    def _next_fetch_range(self) -> tuple[int, int] | None:
        """The file range (start, end) of the next table and of those within `_FETCH_GAP` of each other behind it."""
        if self._l1 is None or self._all_tables_known:
            return None
        offsets, cluster = self._l1.offsets, self.header.cluster_size
        start = offsets[self._next_table]
        end = start + cluster
        for index in range(self._next_table, len(offsets)):
            following = offsets[index]
            if following - end > _FETCH_GAP or following + cluster - start > max(FETCH_BYTES, cluster):
                break
            end = following + cluster
        return start, end

    def _note_fetched(self, ranges: FetchedRanges, start: int, data: bytearray | memoryview) -> None:
        ahead = max(self._chunk.end - start, 0)
        ranges.add(start + ahead, memoryview(data)[ahead:])


def _already_passed(start: int, end: int) -> ImageMemory:
    return ImageMemory(
        detail=f"bytes {start} to {end - 1} of the file had passed before a table named them",
        hint="Convert the image: qemu-img convert -O qcow2 IMAGE NEW.qcow2.",
    )
