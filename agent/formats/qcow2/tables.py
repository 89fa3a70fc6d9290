"""Reads L1 and L2 tables and inverts them, from guest cluster -> host offset to host offset -> guest offset.

Used by `agent.formats.qcow2.forward` and `queue`, which need the mapping in file order. Contiguous clusters become one
run; a run takes 16 bytes of memory. An invalid entry raises ImageDamaged before any entry of its table is used. Layout:
qcow2 specification, sections "Cluster mapping" and "Extended L2 Entries".
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
from agent.units import KiB, align_up, divide_up

SECTOR = 512  # the unit in which the L2 entry of a compressed cluster gives its length
# `Run.inflated` of host bytes that are allocated but not part of the guest disk.
UNUSED = -1

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1
_L1_RESERVED = 0x7F00_0000_0000_01FF
_L2_RESERVED = 0x3F00_0000_0000_01FE
_ALL = 0xFFFF_FFFF

# The two upper bits of a run's count say what it counts: bytes of a compressed cluster, units of allocated bytes that
# are not part of the guest disk, or (neither) units of guest data.
_COMPRESSED_FLAG = 1 << 31
_UNUSED_FLAG = 1 << 30
_COUNT = _UNUSED_FLAG - 1

# The L1 table is read in pieces of this many bytes, and its entries are sorted in parts of this many.
_L1_PIECE = 64 * KiB
_SORTED_PART = 64 * KiB
_LARGER_CLUSTERS = "Convert it to larger clusters: qemu-img convert -O qcow2 IMAGE NEW.qcow2."

# The memory of a cursor and its heap entry, as a number of runs.
CURSOR_COST = 16


class Run(NamedTuple):
    """Host (file) bytes [host, end) and the guest offset that they map to."""

    host: int
    end: int
    guest: int
    inflated: int
    """0 for uncompressed guest data; for a compressed cluster the guest bytes that it yields; `UNUSED` for host bytes
    that are not part of the guest disk."""


class L1Table(NamedTuple):
    """The entries in use of the active L1 table: the file offsets of the L2 tables, and the entries' indices."""

    offsets: "array[int]"
    indices: "array[int]"


class L2Table(NamedTuple):
    """One L2 table, its runs in file order. Host offsets are in bytes, all else in `Qcow2Header.unit`."""

    holes: "array[int]"
    """Guest units that read as zeros, as alternating first unit and count."""
    hosts: "array[int]"
    firsts: "array[int]"
    counts: "array[int]"


def big_endian(data: bytes | bytearray | memoryview) -> "array[int]":
    """`data` as 64-bit big-endian numbers; its length is a multiple of 8."""
    numbers = array("Q", bytes(data))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def read_l1(
    data: bytes | bytearray | memoryview, header: Qcow2Header, file_size: int | None, limit: int
) -> L1Table:
    """Read the part of the active L1 table that the virtual size needs; the result is in guest order.

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
    """The entries sorted by the file offset of their L2 tables, then by index.

    Sorted in parts that are merged: to sort half a million entries in one list would take 36 MiB.
    """
    offsets, indices = l1
    if all(map(operator.le, offsets, islice(offsets, 1, None))):
        return l1
    parts = []
    for start in range(0, len(offsets), _SORTED_PART):
        part = range(start, min(start + _SORTED_PART, len(offsets)))
        parts.append(array("I", sorted(part, key=offsets.__getitem__)))
    order = array("I", heapq.merge(*parts, key=offsets.__getitem__))
    return L1Table(array("Q", map(offsets.__getitem__, order)), array("I", map(indices.__getitem__, order)))


def l1_holes(l1: L1Table, header: Qcow2Header) -> Iterator[tuple[int, int]]:
    """Guest ranges (offset, length) without an L2 table; `l1` is in guest order, as `read_l1` returns it."""
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
        length: guest bytes that the table maps; less than `Qcow2Header.table_span` at the end of the guest disk.
        file_size: length of the file in bytes, or None.

    Raises:
        ImageDamaged: an entry is misaligned, has reserved bits set, or points into the header, into the L1 table or
            beyond the file.
    """
    entries = divide_up(length, header.cluster_size)
    numbers = big_endian(data[: entries * header.l2_entry])
    builder = _L2Builder(header, length, file_size)
    if header.extended_l2:
        _read_extended(numbers, builder)
    else:
        _read_standard(numbers, builder, zero_flag=header.version > 2)
    return builder.table()


def _read_standard(entries: "array[int]", builder: "_L2Builder", *, zero_flag: bool) -> None:
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


def _read_extended(numbers: "array[int]", builder: "_L2Builder") -> None:
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
            for first, count, is_data in bit_groups(used, 32):
                if is_data:
                    builder.add(host + first * builder.unit, index * 32 + first, count, 0)
                else:
                    builder.add_hole(index * 32 + first, count)


def bit_groups(bits: int, width: int) -> Iterator[tuple[int, int, bool]]:
    """The lowest `width` bits as (first bit, count, whether set) for each group of equal bits."""
    first = 0
    while first < width:
        rest = bits >> first
        is_set = bool(rest & 1)
        # The lowest bit that differs from this one ends the group.
        other = ~rest if is_set else rest
        count = min((other & -other).bit_length() - 1, width - first) if other else width - first
        yield first, count, is_set
        first += count


class _L2Builder:
    """Collects the entries of an L2 table in guest order; `table` sorts the runs by host offset."""

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
        # What would extend the last run: the next host offset, the next guest unit, and the run's kind.
        self._next_host = self._next_first = -1
        self._kind = 0

    def add_hole(self, first: int, count: int) -> None:
        """Add `count` units that read as zeros, from `first` on."""
        if first * self.unit >= self._length:
            return
        if self._holes and self._holes[-2] + self._holes[-1] == first:
            self._holes[-1] += count
        else:
            self._holes.extend((first, count))

    def add(self, host: int, first: int, count: int, kind: int) -> None:
        """Add `count` units at host offset `host`, which is aligned if the first of them begins a cluster."""
        if first * self.unit >= self._length:
            return  # subclusters beyond the end of the guest disk
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
        """Add a compressed cluster; the entry has its host offset in bytes and its number of additional sectors."""
        bits = self._header.cluster_size.bit_length() - 1 - 8
        shift = 62 - bits
        host = entry & ((1 << shift) - 1)
        sectors = (entry >> shift & ((1 << bits) - 1)) + 1
        end = host - host % SECTOR + sectors * SECTOR
        # The last sector counts in full, though the file may end inside it.
        if host >= self._file_end or end > align_up(self._file_end, SECTOR):
            raise damaged(f"the compressed cluster at {host} is outside the file of {self._file_end} bytes")
        self._append(host, first, (end - host) | _COMPRESSED_FLAG)
        self._next_host = -1

    def check_aligned(self, host: int) -> None:
        """Check that a cluster begins at a multiple of the cluster size.

        Raises:
            ImageDamaged: it does not.
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
        """The finished table, after the last entry was added."""
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
        end = host + (count & _COUNT if count & _COMPRESSED_FLAG else plain)
        if end > align_up(self._file_end, SECTOR if count & _COMPRESSED_FLAG else 1):
            raise damaged(f"the cluster at {host} ends beyond the file of {self._file_end} bytes")
        if host < self._l1_end and self._header.l1_offset < end:
            raise damaged(f"the cluster at {host} overlaps the L1 table")


class RunCursor:
    """The position of the forward pass in one L2 table's runs.

    Cursors share an `L2Table` where several L1 entries name it; `base` is the guest offset that the table maps first.
    """

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
        """Host offset of the next run, or None after the last one."""
        return self._table.hosts[self._at] if self._at < len(self._table.hosts) else None

    def take(self) -> Run:
        """Advance past the next run and return it, clipped to the guest disk."""
        at, unit = self._at, self._header.unit
        self._at += 1
        host, count = self._table.hosts[at], self._table.counts[at]
        offset = self._table.firsts[at] * unit
        if count & _COMPRESSED_FLAG:
            inflated = min(self._header.cluster_size, self._length - offset)
            return Run(host, host + (count & _COUNT), self._base + offset, inflated)
        length = min((count & _COUNT) * unit, self._length - offset)
        return Run(host, host + length, self._base + offset, UNUSED if count & _UNUSED_FLAG else 0)

    def before(self, host: int) -> Iterator[Run]:
        """Take the runs that begin before host offset `host`."""
        while (at := self.next_host) is not None and at < host:
            yield self.take()


def guest_holes(table: L2Table, header: Qcow2Header, base: int, length: int) -> Iterator[tuple[int, int]]:
    """Guest ranges (offset, length) of a table's zeros, clipped to the guest disk."""
    for first, count in zip(table.holes[::2], table.holes[1::2], strict=True):
        offset = first * header.unit
        yield base + offset, min(count * header.unit, length - offset)


def refcount_cursor(data: bytes | bytearray | memoryview, header: Qcow2Header) -> RunCursor:
    """The refcount blocks that a refcount table names, as `UNUSED` runs; invalid entries are ignored."""
    cluster = header.cluster_size
    hosts = sorted(host for host in big_endian(data) if host >= cluster and host % cluster == 0)
    count = cluster // header.unit | _UNUSED_FLAG
    blank = array("I", [0]) * len(hosts)
    table = L2Table(array("I"), array("Q", hosts), blank, array("I", [count]) * len(hosts))
    return RunCursor(table, header, 0, cluster)
