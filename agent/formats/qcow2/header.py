"""Reads the qcow2 header and refuses, by named checks, what this decoder cannot or must not write.

Called by `agent.formats.qcow2.decoder`. A `Qcow2Header` has passed every check; a refused header raises. Layout: qcow2
specification (qemu, docs/interop/qcow2.txt), section "Header".
"""

import struct
from dataclasses import dataclass, replace

from agent.errors import ImageDamaged, ImageUnsafe
from agent.formats.extent import Codec
from agent.units import KiB, MiB, TiB, divide_up

# A version 3 header up to its compression type and padding. A complete file of either version is longer than this.
HEADER_BYTES = 112
MAGIC = b"QFI\xfb"
L1_ENTRY = 8
SECTOR = 512

_FIELDS = struct.Struct(">4sIQIIQIIQQIIQ")
_FIELDS_V3 = struct.Struct(">QQQII")
_V2_LENGTH = 72
_V3_LENGTH = 104
_SUBCLUSTERS = 32
_MAX_REFCOUNT_ORDER = 6
_MAX_REFCOUNT_TABLE = 8 * MiB
_SNAPSHOT_BYTES = 40  # the fixed part of one entry of the snapshot table
_MAX_SNAPSHOTS = 65536

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION_TYPE, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_FEATURES = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION_TYPE | _EXTENDED_L2
_CODECS: dict[int, Codec] = {0: "deflate", 1: "zstd"}
_ENCRYPTION = {1: "AES", 2: "LUKS"}

_FLATTEN = "Make one self-contained file of it: qemu-img convert -O qcow2 IMAGE FLAT.qcow2"


@dataclass(frozen=True, slots=True)
class Qcow2Limits:
    """Bounds on what an image can make the decoder hold; the memory that they add up to is in `Qcow2Decoder`."""

    l1_bytes: int = 32 * MiB
    """Length of the active L1 table; qemu has the same bound (QCOW_MAX_L1_SIZE). With clusters of 512 bytes, 32 MiB map
    128 GiB."""
    l2_tables: int = 512 * KiB
    """L2 tables that the L1 table may name: 12 bytes of memory each, twice that while they are sorted."""
    virtual_size: int = 1024 * TiB
    early_bytes: int = 16 * MiB
    """Bytes of the file that may wait in memory for their table."""
    runs: int = 2 * 1024 * KiB
    """Runs of clusters that are mapped and have not arrived yet: 16 bytes of memory each."""
    refcount_table_bytes: int = 1 * MiB
    """A longer refcount table is not read; its blocks are then kept like data without a known table."""
    places: int = 128 * KiB
    """Written runs that a later table may map again, and as many compressed clusters: 24 bytes of memory each."""


DEFAULT_LIMITS = Qcow2Limits()


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """A header that has passed every check. Offsets and lengths are in bytes."""

    version: int
    virtual_size: int
    cluster_size: int
    extended_l2: bool
    codec: Codec
    l1_offset: int
    l1_length: int
    """The part of the L1 table that the virtual size needs; the table in the file may be longer."""
    refcount_offset: int
    refcount_length: int

    @property
    def l2_entry(self) -> int:
        """Length of one L2 entry."""
        return 16 if self.extended_l2 else 8

    @property
    def unit(self) -> int:
        """Bytes that one bit or entry maps: a subcluster with extended L2 entries, else a cluster."""
        return self.cluster_size // _SUBCLUSTERS if self.extended_l2 else self.cluster_size

    @property
    def table_span(self) -> int:
        """Guest bytes that one L2 table maps."""
        return self.cluster_size // self.l2_entry * self.cluster_size


def damaged(reason: str) -> ImageDamaged:
    """The error for a qcow2 image that contradicts itself."""
    return ImageDamaged(format="qcow2", reason=reason)


def read_header(data: bytes, file_size: int | None, limits: Qcow2Limits = DEFAULT_LIMITS) -> Qcow2Header:
    """Read and check the header.

    Header extensions are not read: what they announce is refused by a field or feature bit of the header (data file,
    encryption), or does not matter to a reader of the guest disk (bitmaps, names of features).

    Args:
        data: the file's first `HEADER_BYTES` bytes.
        file_size: length of the whole file in bytes, where it is known.
        limits: the bounds of the L1 table and the virtual size.

    Raises:
        ImageDamaged: no qcow2 magic.
        ImageUnsafe: a named check refused it; `check` is one of `version`, `cluster_size`, `header_length`,
            `unknown_features`, `corrupt`, `data_file`, `backing_file`, `encryption`, `compression_type`,
            `refcount_order`, `virtual_size`, `l1_size`, `l1_table`, `refcount_table`, `snapshot_table`.
    """
    fields = _FIELDS.unpack_from(data)
    magic, version, backing_offset, _, cluster_bits, virtual_size, encryption, l1_entries, l1_offset = fields[
        :9
    ]
    refcount_offset, refcount_clusters, snapshots, snapshots_offset = fields[9:]
    if magic != MAGIC:
        raise damaged(f"it begins with {magic.hex()} instead of {MAGIC.hex()}")
    if version not in {2, 3}:
        raise _refused("version", f"version {version} is neither 2 nor 3")
    if not 9 <= cluster_bits <= 21:
        raise _refused("cluster_size", f"cluster_bits is {cluster_bits}, outside 9 to 21")
    if backing_offset:
        raise _refused("backing_file", "the image is only the difference to another file", _FLATTEN)
    if encryption:
        name = _ENCRYPTION.get(encryption, f"unknown method {encryption}")
        raise _refused(
            "encryption", f"the guest disk is encrypted ({name})", "Convert it to a plain image first."
        )
    cluster_size = 1 << cluster_bits
    features, codec = (0, _CODECS[0]) if version == 2 else _read_version_3(data, cluster_size)
    header = Qcow2Header(
        version=version,
        virtual_size=virtual_size,
        cluster_size=cluster_size,
        extended_l2=bool(features & _EXTENDED_L2),
        codec=codec,
        l1_offset=l1_offset,
        l1_length=0,
        refcount_offset=refcount_offset,
        refcount_length=refcount_clusters * cluster_size,
    )
    if header.unit < SECTOR:
        raise _refused(
            "cluster_size", f"extended L2 entries need clusters of 16 KiB, not of {cluster_size} bytes"
        )
    if virtual_size > limits.virtual_size:
        raise _refused(
            "virtual_size", f"{virtual_size} bytes are more than the bound of {limits.virtual_size}"
        )
    if virtual_size % SECTOR:
        # qemu-img leaves the rest out: two readers would see two disks.
        raise _refused("virtual_size", f"{virtual_size} bytes are no whole sectors")
    return _check_tables(header, l1_entries, (snapshots, snapshots_offset), file_size, limits)


def _read_version_3(data: bytes, cluster_size: int) -> tuple[int, Codec]:
    features, _, _, refcount_order, length = _FIELDS_V3.unpack_from(data, _V2_LENGTH)
    if not _V3_LENGTH <= length <= cluster_size:
        raise _refused("header_length", f"{length} is outside {_V3_LENGTH} to {cluster_size}")
    if features & ~_KNOWN_FEATURES:
        raise _refused("unknown_features", f"incompatible features {features & ~_KNOWN_FEATURES:#x}")
    if features & _CORRUPT:
        raise _refused("corrupt", "the image is marked as corrupt", "Repair it: qemu-img check -r all IMAGE")
    if features & _DATA_FILE:
        raise _refused("data_file", "the guest's data is in another file", _FLATTEN)
    if refcount_order > _MAX_REFCOUNT_ORDER:
        raise _refused("refcount_order", f"{refcount_order} is more than {_MAX_REFCOUNT_ORDER}")
    kind = data[_V3_LENGTH] if length > _V3_LENGTH else 0
    if kind not in _CODECS:
        raise _refused("compression_type", f"type {kind} is neither 0 (zlib) nor 1 (zstd)")
    if bool(kind) != bool(features & _COMPRESSION_TYPE):
        raise _refused(
            "compression_type", f"type {kind} and the feature bits {features:#x} contradict each other"
        )
    return features, _CODECS[kind]


def _check_tables(
    header: Qcow2Header,
    l1_entries: int,
    snapshots: tuple[int, int],
    file_size: int | None,
    limits: Qcow2Limits,
) -> Qcow2Header:
    needed = divide_up(header.virtual_size, header.table_span)
    if max(needed, l1_entries) * L1_ENTRY > limits.l1_bytes:
        raise _refused(
            "l1_size",
            f"an L1 table of {max(needed, l1_entries)} entries, more than {limits.l1_bytes // L1_ENTRY}",
        )
    if l1_entries < needed:
        raise _refused("l1_size", f"the L1 table has {l1_entries} entries, the virtual size needs {needed}")
    l1_end = header.l1_offset + l1_entries * L1_ENTRY
    if l1_entries:
        _check_table("l1_table", header, header.l1_offset, l1_entries * L1_ENTRY, file_size)
    if not 0 < header.refcount_length <= _MAX_REFCOUNT_TABLE:
        raise _refused("refcount_table", f"its length is {header.refcount_length} bytes")
    _check_table("refcount_table", header, header.refcount_offset, header.refcount_length, file_size)
    if header.refcount_offset < l1_end and header.l1_offset < header.refcount_offset + header.refcount_length:
        raise _refused("refcount_table", "it overlaps the L1 table")
    count, offset = snapshots
    if count > _MAX_SNAPSHOTS:
        raise _refused("snapshot_table", f"{count} snapshots, more than {_MAX_SNAPSHOTS}")
    if count:
        _check_table("snapshot_table", header, offset, count * _SNAPSHOT_BYTES, file_size)
    return replace(header, l1_length=needed * L1_ENTRY)


def _check_table(check: str, header: Qcow2Header, offset: int, length: int, file_size: int | None) -> None:
    if offset % header.cluster_size:
        raise _refused(check, f"offset {offset} is no multiple of the cluster size {header.cluster_size}")
    if offset == 0:
        raise _refused(check, "it overlaps the header")
    if offset + length > (file_size if file_size is not None else 1 << 63):
        raise _refused(check, f"it ends at byte {offset + length}, beyond the file's {file_size} bytes")


def _refused(check: str, detail: str, hint: str = "") -> ImageUnsafe:
    return ImageUnsafe(check=check, detail=detail, hint=hint)
