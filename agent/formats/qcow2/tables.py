"""L1 and L2 tables turned around: from "where is this guest cluster" to "whose bytes are these".

Owned by the decoder in `agent.formats.qcow2.decoder`. A table of the file maps guest clusters to host offsets; a
forward pass needs the opposite, in the order of the file. Contiguous clusters become one run; a run takes 16
bytes. An entry that no writer of qcow2 makes raises ImageDamaged, and then nothing of its table was used.
Layout: qcow2 specification, sections "Cluster mapping" and "Extended L2 Entries".
"""

import heapq
import operator
import sys
from array import array
from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

from agent.errors import ImageMemory
from agent.formats.qcow2.header import L1_ENTRY, Qcow2Header, damaged
from agent.units import KiB, align_up

SECTOR = 512
UNUSED = -1

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1
_L1_RESERVED = 0x7F00_0000_0000_01FF
_L2_RESERVED = 0x3F00_0000_0000_01FE
_ALL = 0xFFFF_FFFF

# What a run's count means is in its upper bits: units, bytes of a compressed cluster, or units of nobody's bytes.
_PACKED_FLAG = 1 << 31
_UNUSED_FLAG = 1 << 30
_COUNT = _UNUSED_FLAG - 1

# The L1 table is read in pieces of so many bytes, and its L2 tables are sorted in parts of so many.
_L1_PIECE = 64 * KiB
_SORTED_PART = 64 * KiB
_LARGER_CLUSTERS = "Convert it to larger clusters: qemu-img convert -O qcow2 IMAGE NEW.qcow2."

# A cursor with its heap entry takes as much memory as this many runs.
CURSOR_COST = 16


class Run(NamedTuple):
    """Host bytes [host, end) and the guest offset that they belong to."""

    host: int
    end: int
    guest: int
    inflated: int
    """0: the bytes are the guest's. More: they are one compressed cluster that gives so many. UNUSED: they
    are nobody's."""


class L1Table(NamedTuple):
    """What the active L1 table names, entry by entry: where an L2 table stands in the file, and its index."""

    offsets: "array[int]"
    indices: "array[int]"


class L2Table(NamedTuple):
    """One L2 table. Runs are in the order of the file, all numbers but hosts in units of the header."""

    holes: "array[int]"
    """What reads as zeros: first unit and count, one pair after the other."""
    hosts: "array[int]"
    firsts: "array[int]"
    counts: "array[int]"


def big_endian(data: bytes | bytearray | memoryview) -> "array[int]":
    """The table's 64-bit numbers; `data` is a multiple of 8 bytes long."""
    numbers = array("Q", bytes(data))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def read_l1(
    data: bytes | bytearray | memoryview, header: Qcow2Header, file_size: int | None, limit: int
) -> L1Table:
    """Read the active L1 table, as long as the virtual size needs it: its L2 tables in the order of the guest.

    Raises:
        ImageDamaged: a table is misaligned, outside the file, or in the header or the L1 table itself.
        ImageMemory: it names more than `limit` L2 tables.
    """
    l1_end = header.l1_offset + header.l1_length
    offsets, indices = array("Q"), array("I")
    for start in range(0, len(data), _L1_PIECE):
        piece = bytes(data[start : start + _L1_PIECE])
        if not piece.strip(b"\0"):
            continue
        for index, entry in enumerate(big_endian(piece), start // L1_ENTRY):
            offset = entry & _OFFSET
            if entry & _L1_RESERVED or offset % header.cluster_size:
                raise damaged(f"L1 entry {index} is {entry:#x}")
            if offset + header.cluster_size > (file_size or 1 << 63):
                raise damaged(f"the L2 table at {offset} is outside the file of {file_size} bytes")
            if offset and offset < l1_end and header.l1_offset < offset + header.cluster_size:
                raise damaged(f"the L2 table at {offset} overlaps the L1 table")
            if offset:
                offsets.append(offset)
                indices.append(index)
        if len(offsets) > limit:
            raise ImageMemory(detail=f"its L1 table names more than {limit} L2 tables", hint=_LARGER_CLUSTERS)
    return L1Table(offsets, indices)


def in_file_order(l1: L1Table) -> L1Table:
    """The same with its L2 tables in the order in which they stand in the file, those of one place by index.

    Sorted in parts that are merged: sorting a list of half a million numbers would take 36 MiB.
    """
    offsets, indices = l1
    if all(map(operator.le, offsets, islice(offsets, 1, None))):
        return l1
    parts = []
    for start in range(0, len(offsets), _SORTED_PART):
        order = range(start, min(start + _SORTED_PART, len(offsets)))
        parts.append(array("I", sorted(order, key=offsets.__getitem__)))
    places = array("I", heapq.merge(*parts, key=offsets.__getitem__))
    return L1Table(array("Q", map(offsets.__getitem__, places)), array("I", map(indices.__getitem__, places)))


def l1_holes(l1: L1Table, header: Qcow2Header) -> Iterator[tuple[int, int]]:
    """Guest ranges (offset, length) that have no L2 table; `l1` is in the order of the guest, as `read_l1` gives it."""
    span, position = header.table_span, 0
    for index in chain(l1.indices, (header.l1_length // L1_ENTRY,)):
        if index * span > position:
            yield position, min(index * span, header.virtual_size) - position
        position = (index + 1) * span


def read_l2(
    data: bytes | bytearray | memoryview, header: Qcow2Header, length: int, file_size: int | None
) -> L2Table:
    """Read an L2 table.

    Args:
        data: the table, one cluster.
        header: the image's header.
        length: guest bytes that count; less than the table's span in the last table of a disk.
        file_size: length of the file, where it is known.

    Raises:
        ImageDamaged: an entry is misaligned, has reserved bits, or points into the header, the L1 table or
        out of the file.
    """
    entries = -(-length // header.cluster_size)
    numbers = big_endian(data[: entries * header.l2_entry])
    builder = _Builder(header, length, file_size)
    if header.extended_l2:
        _read_extended(numbers, builder)
    else:
        _read_standard(numbers, builder, zero_flag=header.version > 2)
    return builder.table()


def _read_standard(entries: "array[int]", builder: "_Builder", *, zero_flag: bool) -> None:
    reserved = _L2_RESERVED if zero_flag else _L2_RESERVED | _ZERO
    for index, entry in enumerate(entries):
        host = entry & _OFFSET
        if entry & _COMPRESSED:
            builder.add_compressed(entry, index)
        elif entry & reserved:
            raise damaged(f"L2 entry {index} is {entry:#x}")
        elif entry & _ZERO or not host:
            builder.add_hole(index, 1)
            if host:
                builder.add(host, index, 1, _UNUSED_FLAG)
        else:
            builder.add(host, index, 1, 0)


def _read_extended(numbers: "array[int]", builder: "_Builder") -> None:
    for index, (entry, bitmap) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
        host, zero, used = entry & _OFFSET, bitmap >> 32, bitmap & _ALL
        if entry & _COMPRESSED:
            builder.add_compressed(entry, index * 32)
        elif entry & (_L2_RESERVED | _ZERO) or zero & used or (used and not host):
            raise damaged(f"L2 entry {index} is {entry:#x} with the subclusters {bitmap:#x}")
        elif not used:
            builder.add_hole(index * 32, 32)
            if host:
                builder.add(host, index * 32, 32, _UNUSED_FLAG)
        elif used == _ALL:
            builder.add(host, index * 32, 32, 0)
        else:
            builder.check_aligned(host)
            for first, count, is_data in stretches(used, 32):
                if is_data:
                    builder.add(host + first * builder.unit, index * 32 + first, count, 0)
                else:
                    builder.add_hole(index * 32 + first, count)


def stretches(bits: int, width: int) -> Iterator[tuple[int, int, bool]]:
    """Stretches (first, count, set) of equal bits among the lowest `width`."""
    first = 0
    while first < width:
        rest = bits >> first
        is_set = bool(rest & 1)
        # The lowest bit that differs from this one ends the stretch.
        other = ~rest if is_set else rest
        count = min((other & -other).bit_length() - 1, width - first) if other else width - first
        yield first, count, is_set
        first += count


class _Builder:
    """Collects runs in the order of the guest disk, then sorts them by host offset."""

    def __init__(self, header: Qcow2Header, length: int, file_size: int | None) -> None:
        self.unit = header.unit
        self._header = header
        self._length = length
        self._file_end = file_size if file_size is not None else 1 << 63
        self._l1_end = header.l1_offset + header.l1_length
        self._holes = array("I")
        self._hosts = array("Q")
        self._firsts = array("I")
        self._counts = array("I")
        # The run that may still grow, and where its next unit would have to be.
        self._next_host = self._next_first = -1
        self._kind = 0

    def add_hole(self, first: int, count: int) -> None:
        """Units that read as zeros."""
        if first * self.unit >= self._length:
            return
        if self._holes and self._holes[-2] + self._holes[-1] == first:
            self._holes[-1] += count
        else:
            self._holes.extend((first, count))

    def add(self, host: int, first: int, count: int, kind: int) -> None:
        """Units whose bytes are at `host`, which is checked against the cluster size where a cluster begins."""
        if first * self.unit >= self._length:
            return  # subclusters behind the end of the guest disk
        if host == self._next_host and first == self._next_first and kind == self._kind:
            self._counts[-1] += count
        else:
            if first * self.unit % self._header.cluster_size == 0:
                self.check_aligned(host)
            self._append(host, first, count | kind)
            self._kind = kind
        self._next_host = host + count * self.unit
        self._next_first = first + count

    def add_compressed(self, entry: int, first: int) -> None:
        """A compressed cluster: a host offset in bytes, and the further sectors that it reaches into."""
        bits = self._header.cluster_size.bit_length() - 1 - 8
        shift = 62 - bits
        host = entry & ((1 << shift) - 1)
        sectors = (entry >> shift & ((1 << bits) - 1)) + 1
        end = host - host % SECTOR + sectors * SECTOR
        # The last sector is counted whole, though the file may end inside of it.
        if host >= self._file_end or end > align_up(self._file_end, SECTOR):
            raise damaged(f"the compressed cluster at {host} is outside the file of {self._file_end} bytes")
        self._append(host, first, (end - host) | _PACKED_FLAG)
        self._next_host = -1

    def check_aligned(self, host: int) -> None:
        """Refuse a cluster that begins in the middle of one.

        Raises:
            ImageDamaged: `host` is no multiple of the cluster size.
        """
        if host % self._header.cluster_size:
            raise damaged(f"the cluster at {host} is no multiple of {self._header.cluster_size}")

    def _append(self, host: int, first: int, count: int) -> None:
        if host < self._header.cluster_size:
            raise damaged(f"the cluster at {host} overlaps the header")
        self._hosts.append(host)
        self._firsts.append(first)
        self._counts.append(count)

    def table(self) -> L2Table:
        """The table, once every entry was added."""
        for host, first, count in zip(self._hosts, self._firsts, self._counts, strict=True):
            self._check(host, first, count)
        hosts = self._hosts
        if not all(map(operator.le, hosts, islice(hosts, 1, None))):
            order = sorted(range(len(hosts)), key=hosts.__getitem__)
            self._hosts = array("Q", map(hosts.__getitem__, order))
            self._firsts = array("I", map(self._firsts.__getitem__, order))
            self._counts = array("I", map(self._counts.__getitem__, order))
        return L2Table(self._holes, self._hosts, self._firsts, self._counts)

    def _check(self, host: int, first: int, count: int) -> None:
        if count & _UNUSED_FLAG:
            return
        plain = min(count * self.unit, self._length - first * self.unit)
        end = host + (count & _COUNT if count & _PACKED_FLAG else plain)
        if end > align_up(self._file_end, SECTOR if count & _PACKED_FLAG else 1):
            raise damaged(f"the cluster at {host} ends beyond the file of {self._file_end} bytes")
        if host < self._l1_end and self._header.l1_offset < end:
            raise damaged(f"the cluster at {host} overlaps the L1 table")


class Cursor:
    """Where the pass through the file stands in one L2 table's runs; the arrays are shared with other cursors."""

    __slots__ = ("_at", "_base", "_header", "_length", "_table", "cost")

    def __init__(self, table: L2Table, header: Qcow2Header, base: int, length: int) -> None:
        self._table = table
        self._header = header
        self._base = base
        self._length = length
        self._at = 0
        self.cost = len(table.hosts) + CURSOR_COST

    @property
    def next_host(self) -> int | None:
        """Host offset of the next run, or None behind the last one."""
        return self._table.hosts[self._at] if self._at < len(self._table.hosts) else None

    def take(self) -> Run:
        """The next run, clipped to the guest disk."""
        at, unit = self._at, self._header.unit
        self._at += 1
        host, count = self._table.hosts[at], self._table.counts[at]
        offset = self._table.firsts[at] * unit
        if count & _PACKED_FLAG:
            inflated = min(self._header.cluster_size, self._length - offset)
            return Run(host, host + (count & _COUNT), self._base + offset, inflated)
        length = min((count & _COUNT) * unit, self._length - offset)
        return Run(host, host + length, self._base + offset, UNUSED if count & _UNUSED_FLAG else 0)

    def before(self, host: int) -> Iterator[Run]:
        """Take the runs that begin before `host`."""
        while (at := self.next_host) is not None and at < host:
            yield self.take()


def guest_holes(table: L2Table, header: Qcow2Header, base: int, length: int) -> Iterator[tuple[int, int]]:
    """Guest ranges (offset, length) of a table's holes, clipped to the guest disk."""
    for first, count in zip(table.holes[::2], table.holes[1::2], strict=True):
        offset = first * header.unit
        yield base + offset, min(count * header.unit, length - offset)


def refcount_cursor(data: bytes | bytearray | memoryview, header: Qcow2Header) -> Cursor:
    """The refcount blocks that a refcount table names, as runs of nobody's bytes; nonsense in it is passed over."""
    cluster = header.cluster_size
    hosts = sorted(host for host in big_endian(data) if host >= cluster and host % cluster == 0)
    count = cluster // header.unit | _UNUSED_FLAG
    blank = array("I", [0]) * len(hosts)
    table = L2Table(array("I"), array("Q", hosts), blank, array("I", [count]) * len(hosts))
    return Cursor(table, header, 0, cluster)
