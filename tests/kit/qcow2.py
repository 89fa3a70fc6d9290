"""Hand-made qcow2 images, written without the code under test; and a driver: extents onto a dirty disk in memory."""

import random
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import zstandard

from agent.formats.extent import Copy, Extent, Fetch, Inflate, Recall, Write, Zero
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.qcow2.header import DEFAULT_LIMITS, Qcow2Limits
from agent.units import MiB, align_up
from tests.kit.extents import inflated

DIRT = 0xA5
COPIED = 1 << 63
COMPRESSED = 1 << 62


# -- building


@dataclass(frozen=True)
class Data:
    """A cluster of plain bytes."""

    content: bytes


@dataclass(frozen=True)
class Packed:
    """A compressed cluster."""

    content: bytes


@dataclass(frozen=True)
class ZeroFlag:
    """A cluster with the zero flag, and with a host cluster full of something else where `content` is given."""

    content: bytes | None = None


@dataclass(frozen=True)
class Share:
    """The same host cluster as another guest cluster."""

    index: int


@dataclass(frozen=True)
class Subclusters:
    """A cluster of an image with extended L2 entries; the bitmaps say what counts."""

    content: bytes | None
    used: int
    zero: int


Cluster = Data | Packed | ZeroFlag | Share | Subclusters
Clusters = Mapping[int, Cluster]
Item = tuple[Any, ...]
"""A thing in a file: its kind (`refcounts`, `l1`, `l2`, `data`, `packed`, `leak`) and which of them it is."""


@dataclass
class Image:
    """A built image: the file, what a reader has to see, and where things are."""

    file: bytearray
    l1_offset: int
    l2_offsets: dict[int, int]
    hosts: dict[int, int]
    make_guest: Callable[[], bytes]

    @cached_property
    def guest(self) -> bytes:
        return self.make_guest()


def deflate(content: bytes) -> bytes:
    """Raw deflate with the window that qcow2 uses."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -12)
    return packer.compress(content) + packer.flush()


def _bytes_of(cluster: Cluster) -> bytes:
    """What a host cluster is filled with."""
    assert not isinstance(cluster, Share)
    assert cluster.content is not None
    return cluster.content


class Builder:
    """Lays out an image: header first, then every item in the order that is asked for."""

    def __init__(
        self,
        *,
        cluster_bits: int = 9,
        version: int = 3,
        size: int = 64 * 512,
        extended: bool = False,
        codec: str = "zlib",
        shared_l2: Mapping[int, int] | Iterable[tuple[int, int]] = (),
    ) -> None:
        self.cluster = 1 << cluster_bits
        self.bits, self.version, self.size = cluster_bits, version, size
        self.extended, self.codec = extended, codec
        self.entry = 16 if extended else 8
        self.per_table = self.cluster // self.entry
        self.tables = -(-size // (self.per_table * self.cluster))
        # L1 entries that name the table of another one: {index: other}.
        self.shared_l2 = dict(shared_l2)

    def pack(self, content: bytes) -> bytes:
        return deflate(content) if self.codec == "zlib" else zstandard.ZstdCompressor().compress(content)

    def items(self, clusters: Clusters, group: int = 3, leaks: int = 0) -> list[Item]:
        """Every item of the file, in the customary order: the tables before what they map."""
        used = sorted({self.shared_l2.get(i // self.per_table, i // self.per_table) for i in clusters})
        packed = [index for index, cluster in sorted(clusters.items()) if isinstance(cluster, Packed)]
        plain = [
            index
            for index, cluster in sorted(clusters.items())
            if isinstance(cluster, (Data, ZeroFlag, Subclusters)) and cluster.content is not None
        ]
        return [
            ("refcounts",),
            ("l1",),
            *(("l2", table) for table in used),
            *(("data", index) for index in plain),
            *(("packed", tuple(packed[i : i + group])) for i in range(0, len(packed), group)),
            *(("leak", n) for n in range(leaks)),
        ]

    def build(self, clusters: Clusters, order: Iterable[Item] | None = None) -> Image:
        items = list(order) if order is not None else self.items(clusters)
        file = bytearray(self.cluster)
        at: dict[Item, int] = {}
        hosts: dict[int, int] = {}
        entries: dict[int, int] = {}
        for item in items:
            start = align_up(len(file), self.cluster)
            file += bytes(start - len(file))
            at[item] = start
            match item:
                case ("data", index):
                    file += _bytes_of(clusters[index]).ljust(self.cluster, b"\0")
                    hosts[index] = start
                case ("packed", indices):
                    self._add_packed(file, indices, clusters, hosts, entries)
                case ("leak", n):
                    file += random.Random(n).randbytes(self.cluster)
                case ("l1",):
                    file += bytes(align_up(max(self.tables, 1) * 8, self.cluster))
                case _:
                    file += bytes(self.cluster)
        tables = {item[1]: start for item, start in at.items() if item[0] == "l2"}
        for table, start in tables.items():
            for n in range(self.per_table):
                index = table * self.per_table + n
                if index in clusters:
                    self._put_entry(file, start + n * self.entry, index, clusters, hosts, entries)
        for index in range(self.tables):
            start = tables.get(self.shared_l2.get(index, index), 0)
            struct.pack_into(">Q", file, at[("l1",)] + index * 8, start | COPIED if start else 0)
        file[: self.cluster] = self._header(at[("l1",)], at[("refcounts",)]).ljust(self.cluster, b"\0")
        return Image(file, at[("l1",)], tables, hosts, lambda: self._guest(clusters))

    def _add_packed(
        self,
        file: bytearray,
        indices: tuple[int, ...],
        clusters: Clusters,
        hosts: dict[int, int],
        entries: dict[int, int],
    ) -> None:
        for index in indices:
            data = self.pack(_bytes_of(clusters[index]).ljust(self.cluster, b"\0"))
            shift = 62 - (self.bits - 8)
            start = len(file)
            sectors = (start + len(data) - 1) // 512 - start // 512
            assert sectors < 1 << (self.bits - 8), "test data does not compress"
            hosts[index] = start
            entries[index] = COMPRESSED | sectors << shift | start
            file += data

    def _put_entry(
        self,
        file: bytearray,
        at: int,
        index: int,
        clusters: Clusters,
        hosts: dict[int, int],
        entries: dict[int, int],
    ) -> None:
        entry = bitmap = 0
        match clusters[index]:
            case Data():
                entry, bitmap = hosts[index] | COPIED, 0xFFFF_FFFF
            case Packed():
                entry = entries[index]
            case ZeroFlag():
                entry = (hosts[index] | COPIED if index in hosts else 0) | (0 if self.extended else 1)
                bitmap = 0xFFFF_FFFF << 32
            case Subclusters(_, used, zero):
                entry, bitmap = hosts.get(index, 0), zero << 32 | used
                entry |= COPIED if entry else 0
            case Share(other) if other in entries:
                entry = entries[other]
            case Share(other):
                entry, bitmap = hosts[other], 0xFFFF_FFFF
        struct.pack_into(">Q", file, at, entry)
        if self.extended:
            struct.pack_into(">Q", file, at + 8, bitmap)

    def _header(self, l1_offset: int, refcount_offset: int) -> bytes:
        header = struct.pack(
            ">4sIQIIQIIQQIIQ",
            *(b"QFI\xfb", self.version, 0, 0, self.bits, self.size, 0, self.tables),
            *(l1_offset, refcount_offset, 1, 0, 0),
        )
        if self.version == 2:
            return header
        zstd = self.codec == "zstd"
        features = (8 if zstd else 0) | (16 if self.extended else 0)
        return header + struct.pack(">QQQIIB7x", features, 0, 0, 4, 112, int(zstd))

    def _content(self, cluster: Cluster, clusters: Clusters) -> bytes:
        match cluster:
            case Data(content) | Packed(content):
                return content.ljust(self.cluster, b"\0")
            case Share(other):
                return self._content(clusters[other], clusters)
            case Subclusters(content, used, _):
                unit = self.cluster // 32
                full = (content or b"").ljust(self.cluster, b"\0")
                pieces = (
                    full[i * unit : (i + 1) * unit] if used >> i & 1 else bytes(unit) for i in range(32)
                )
                return b"".join(pieces)
            case ZeroFlag():
                return bytes(self.cluster)

    def _guest(self, clusters: Clusters) -> bytes:
        guest = bytearray(align_up(self.size, self.cluster))
        for table in range(self.tables):
            source = self.shared_l2.get(table, table)
            for n in range(self.per_table):
                cluster = clusters.get(source * self.per_table + n)
                start = (table * self.per_table + n) * self.cluster
                if cluster is not None and start < len(guest):
                    guest[start : start + self.cluster] = self._content(cluster, clusters)
        return bytes(guest[: self.size])


# -- driving


@dataclass
class Decoded:
    """What a decoder has made of an image."""

    decoder: Qcow2Decoder
    disk: bytearray
    extents: list[str]
    fetched: int = 0

    @property
    def guest(self) -> bytes:
        return bytes(self.disk[: self.decoder.virtual_size])


class Driver:
    """Applies extents to a dirty disk, and sees that every guest byte is given exactly once."""

    def __init__(
        self,
        file: bytes | bytearray,
        *,
        fetch: bool | bytes | bytearray | None = None,
        disk_size: int | None = None,
        known_size: bool = True,
        recall: bool = False,
        limits: Qcow2Limits = DEFAULT_LIMITS,
    ) -> None:
        """Drive a decoder of a file.

        Args:
            file: the image.
            fetch: what is fetched from: True for the file itself, or another one.
            disk_size: of the disk; by default there is no room behind the guest disk.
            known_size: whether the decoder is told how large the file is.
            recall: whether it may read from the disk.
            limits: of the decoder.
        """
        self.file = file
        own = file if fetch else None
        self.source = own if isinstance(fetch, bool) else fetch
        size = struct.unpack_from(">Q", file, 24)[0] if len(file) >= 32 else 0
        # The default leaves no room for scratch.
        self.disk_size = align_up(min(size, 64 * MiB), MiB) if disk_size is None else disk_size
        self.decoder = Qcow2Decoder(
            len(file) if known_size else None,
            self.disk_size,
            can_fetch=self.source is not None,
            can_recall=recall,
            limits=limits,
        )
        self.disk = bytearray([DIRT]) * self.disk_size
        self.extents: list[str] = []
        self.given: list[tuple[int, int]] = []
        self.fetched = self.fed = 0
        # So many wishes are answered; then the source has no ranges any more.
        self.answers = 1 << 30

    def run(self, chunk: int = 65536) -> Decoded:
        view = memoryview(self.file)
        for start in range(0, len(view), chunk or len(view) or 1):
            self.fed = min(start + (chunk or len(view)), len(view))
            self.apply(self.decoder.feed(view[start : start + (chunk or len(view))]))
        self.apply(self.decoder.finish())
        self.check_given()
        return Decoded(self.decoder, self.disk, self.extents, self.fetched)

    def apply(self, extents: Iterable[Extent]) -> None:
        for extent in extents:
            self.extents.append(type(extent).__name__)
            match extent:
                case Write(offset, data):
                    self._put(offset, data)
                case Zero(offset, length):
                    self._put(offset, bytes(length))
                case Inflate():
                    self._put(extent.offset, inflated(extent))
                case Copy(source, offset, length):
                    self._put(offset, bytes(self.disk[source : source + length]))
                case Fetch(offset, length):
                    assert offset >= self.fed, "what has passed is never asked for again"
                    self.fetched += length
                    self.answers -= 1
                    if self.source is not None and self.answers >= 0:
                        extent.data = bytes(self.source[offset : offset + length])
                case Recall(source, length):
                    extent.data = bytes(self.disk[source : source + length])

    def _put(self, offset: int, data: bytes | memoryview) -> None:
        assert data
        assert 0 <= offset <= offset + len(data) <= self.disk_size
        self.disk[offset : offset + len(data)] = data
        self.given.append((offset, offset + len(data)))

    def check_given(self) -> None:
        size = self.decoder.virtual_size
        assert size is not None
        position = 0
        for start, end in sorted(piece for piece in self.given if piece[0] < size):
            assert start == position, f"guest bytes {position} to {start} are given twice or never"
            position = end
        assert position == size
        used = self.decoder.used_scratch
        for start, end in self.given:
            assert end <= size or (used and used[0] <= start <= end <= sum(used))


def decode(file: bytes | bytearray, *, chunk: int = 65536, **fields: Any) -> Decoded:
    """Decode a whole file, fed in pieces of `chunk` bytes (0: in one)."""
    return Driver(file, **fields).run(chunk)
