"""VMDK by qemu-img and by a writer of VMware's layout, against qemu-img convert; damaged and hostile ones."""

import contextlib
import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageType, ImageUnsafe
from agent.formats.extent import ImageTooLarge, Inflate, Zero
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.units import KiB, MiB, TiB
from tests.kit.extents import content_of
from tests.kit.fuzz import examples

GRAIN = 64 * KiB
GD_AT_END = 2**64 - 1


def feeds(data, step):
    """The data in pieces whose buffers are spoilt once they have been used."""
    for at in range(0, len(data), step or max(len(data), 1)):
        buffer = bytearray(data[at : at + (step or len(data))])
        yield memoryview(buffer)
        buffer[:] = b"\xee" * len(buffer)


def decode(data, step=None, disk_size=64 * MiB):
    """The guest disk, on a dirty one, and how often each byte was given."""
    decoder = VmdkDecoder(disk_size)
    disk = bytearray()
    given = 0

    def apply(extents):
        nonlocal given
        for extent in extents:
            if not disk:
                disk.extend(b"\xa5" * decoder.virtual_size)
            content = content_of(extent)
            assert extent.offset + len(content) <= len(disk)
            disk[extent.offset : extent.offset + len(content)] = content
            given += len(content)

    for piece in feeds(data, step):
        apply(decoder.feed(piece))
    apply(decoder.finish())
    return bytes(disk), given


def guest(size, seed=3):
    """A disk with runs of text, random bytes and zeros that keep to no boundaries."""
    source = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        run = source.randrange(1, 400_000)
        out += source.choice([source.randbytes(run), b"text " * (run // 5), bytes(3 * run)])
    return bytes(out[:size])


# -- VMware's own layout -------------------------------------------------------------------------------------

DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "box-disk001.vmdk"

#DDB
ddb.adapterType = "lsilogic"
"""


def header(size, gd=GD_AT_END, **changes):
    fields = {
        "magic": b"KDMV",
        "version": 3,
        "flags": 0x30001,
        "capacity": size // 512,
        "grain": GRAIN // 512,
        "descriptor_offset": 1,
        "descriptor_size": 20,
        "gtes": 512,
        "rgd": 0,
        "gd": gd,
        "overhead": 128,
        "unclean": 0,
        "line_ends": b"\n \r\n",
        "compression": 1,
    } | changes
    return struct.pack("<4sIIQQQQIQQQB4sH", *fields.values()).ljust(512, b"\0")


def marker(kind, sectors=0):
    return struct.pack("<QII", sectors, 0, kind).ljust(512, b"\0")


def padded(data):
    return data + bytes(-len(data) % 512)


class Writer:
    """Writes streamOptimized as VMware does: each grain table behind its grains, directory and footer last."""

    def __init__(self, content, order=None, **changes):
        self.content = content
        self.data = bytearray(header(len(content), **changes))
        descriptor = DESCRIPTOR.format(sectors=len(content) // 512).encode()
        self.data += descriptor.ljust(127 * 512, b"\0")
        self.changes = changes
        self.entries = {}
        grains = range(-(-len(content) // GRAIN))
        self.tables = -(-len(grains) // 512)
        self.order = list(grains) if order is None else order

    @property
    def sector(self):
        return len(self.data) // 512

    def grain(self, number):
        content = self.content[number * GRAIN : (number + 1) * GRAIN]
        if content.strip(b"\0"):
            self.entries[number] = self.sector
            packed = zlib.compress(content.ljust(GRAIN, b"\0"))
            self.data += padded(struct.pack("<QI", number * GRAIN // 512, len(packed)) + packed)

    def table(self, index):
        """Write a grain table and return its sector, 0 where it has no grain."""
        numbers = range(index * 512, index * 512 + 512)
        entries = [self.entries.get(number, 0) for number in numbers]
        if not any(entries):
            return 0
        self.data += marker(1, 4) + struct.pack("<512I", *entries)
        return self.sector - 4

    def finish(self, directory, spare=b""):
        body = padded(struct.pack(f"<{len(directory)}I", *directory)) + spare
        self.data += marker(2, len(body) // 512)
        at = self.sector
        self.data += body + marker(3, 1) + header(len(self.content), **self.changes | {"gd": at}) + marker(0)
        return bytes(self.data)

    def write(self):
        directory = [0] * self.tables
        ascending = self.order == sorted(self.order)
        for at, number in enumerate(self.order):
            self.grain(number)
            last = at + 1 == len(self.order) or self.order[at + 1] // 512 != number // 512
            if ascending and last:
                directory[number // 512] = self.table(number // 512)
        if not ascending:
            directory = [self.table(index) for index in range(self.tables)]
        return self.finish(directory)


BIG = guest(50 * MiB + 512, 9)


def test_a_mark_of_progress_behind_the_footer_is_damage():
    data = Writer(BIG[:GRAIN]).write()
    with pytest.raises(ImageDamaged, match="type 4"):
        decode(data[:-512] + marker(4) + marker(0))


def test_a_file_that_ends_within_a_mark_of_progress_is_damage():
    writer = Writer(BIG[:GRAIN])
    writer.data += marker(4, 3) + bytes(1024)
    with pytest.raises(ImageDamaged, match="mark of progress"):
        decode(bytes(writer.data))


@pytest.mark.parametrize("kind", [5, 2**32 - 1])
def test_a_marker_of_an_unknown_type_is_refused_with_a_way_out(kind):
    writer = Writer(BIG[:GRAIN])
    writer.data += marker(kind, 1) + bytes(512)
    with pytest.raises(ImageUnsafe, match="unknown_features") as caught:
        decode(writer.write())
    assert str(kind) in caught.value.detail
    assert "qemu-img convert" in caught.value.hint


def test_vmwares_layout_byte_by_byte():
    for step in (1, 7):
        assert decode(Writer(BIG[: GRAIN + 1024]).write(), step) == (BIG[: GRAIN + 1024], GRAIN + 1024)


def test_zeros_come_early_between_ascending_grains():
    content = bytes(10 * GRAIN) + b"x" * GRAIN + bytes(5 * GRAIN)
    data = Writer(content).write()
    decoder = VmdkDecoder(64 * MiB)
    kinds = [(type(extent), extent.offset, extent.length) for extent in decoder.feed(memoryview(data))]
    assert kinds == [
        (Zero, 0, 10 * GRAIN),
        (Inflate, 10 * GRAIN, GRAIN),
        (Zero, 11 * GRAIN, 5 * GRAIN),
    ]
    assert list(decoder.finish()) == []


def test_eight_tebibytes_take_no_memory_to_speak_of():
    capacity = 8 * TiB
    head = header(capacity) + DESCRIPTOR.format(sectors=capacity // 512).encode().ljust(127 * 512, b"\0")
    data = bytearray(head)
    sector = len(data) // 512
    packed = zlib.compress(b"x" * GRAIN)
    last = capacity // GRAIN - 1
    data += padded(struct.pack("<QI", last * GRAIN // 512, len(packed)) + packed)
    table = len(data) // 512 + 1
    data += marker(1, 4) + struct.pack("<512I", *[0] * 511, sector)
    directory = struct.pack("<I", 0) * (last // 512) + struct.pack("<I", table)
    data += marker(2, len(directory) // 512)
    gd = len(data) // 512
    data += directory + marker(3, 1) + header(capacity, gd=gd) + marker(0)
    tracemalloc.start()
    try:
        decoder = VmdkDecoder(capacity)
        extents = [(extent.offset, extent.length) for extent in decoder.feed(memoryview(data))]
        assert list(decoder.finish()) == []
        assert tracemalloc.get_traced_memory()[1] < 40 * MiB
    finally:
        tracemalloc.stop()
    assert extents == [(0, capacity - GRAIN), (capacity - GRAIN, GRAIN)]


# -- cuts and damage -----------------------------------------------------------------------------------------


def test_bytes_behind_the_end_are_damage():
    data = Writer(BIG[:MiB]).write()
    for tail in (b"x", bytes(512), data):
        with pytest.raises(ImageDamaged, match="behind its end"):
            decode(data + tail)


def test_a_grain_that_comes_twice_is_damage():
    writer = Writer(BIG[:MiB])
    writer.grain(0)
    with pytest.raises(ImageDamaged, match="second time"):
        decode(writer.write())


def test_a_grain_that_the_tables_do_not_name_is_damage():
    writer = Writer(b"x" * 4 * GRAIN)
    for number in range(4):
        writer.grain(number)
    del writer.entries[2]
    with pytest.raises(ImageDamaged, match="does not name the grains"):
        decode(writer.finish([writer.table(0)]))


def test_a_grain_that_is_missing_is_damage():
    writer = Writer(b"x" * 4 * GRAIN)
    for number in (0, 1, 3):
        writer.grain(number)
    writer.entries[2] = writer.entries[1]
    with pytest.raises(ImageDamaged, match="does not name the grains"):
        decode(writer.finish([writer.table(0)]))


def test_a_directory_without_its_tables_is_damage():
    writer = Writer(b"x" * GRAIN)
    writer.grain(0)
    with pytest.raises(ImageDamaged, match="is not at sector"):
        decode(writer.finish([writer.sector + 77]))


def test_an_end_without_footer_is_damage():
    data = Writer(b"x" * GRAIN).write()
    with pytest.raises(ImageDamaged, match="without grain directory and footer"):
        decode(data[: -3 * 512] + marker(0))


def test_a_footer_that_contradicts_the_header_is_damage():
    data = bytearray(Writer(b"x" * GRAIN).write())
    struct.pack_into("<Q", data, len(data) - 1024 + 12, 4096)
    with pytest.raises(ImageDamaged, match="footer"):
        decode(bytes(data))


# -- refusals ------------------------------------------------------------------------------------------------


def sparse_with(descriptor, **changes):
    return header(MiB, **changes) + descriptor.encode().ljust(127 * 512, b"\0")


TEXT = DESCRIPTOR.format(sectors=2048)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("backing_file", TEXT.replace("parentCID=ffffffff", "parentCID=1234abcd")),
        ("backing_file", TEXT + 'parentFileNameHint="/etc/shadow"\n'),
        ("vmdk_extent", TEXT + 'RW 2048 FLAT "/etc/shadow" 0\n'),
        ("vmdk_extent", TEXT.replace("SPARSE", "FLAT")),
        ("vmdk_extent", TEXT.replace("SPARSE", "VMFS")),
        ("vmdk_extent", TEXT.replace("RW ", "NOACCESS ")),
        ("vmdk_extent", TEXT.replace("box-disk001.vmdk", "/etc/shadow")),
        ("vmdk_extent", TEXT.replace("box-disk001.vmdk", "../box.vmdk")),
        ("vmdk_extent", TEXT.replace("box-disk001.vmdk", "c:\\\\box.vmdk")),
        ("vmdk_extent", TEXT.replace('disk001.vmdk"', 'disk001.vmdk" 128')),
        ("vmdk_extent", TEXT.replace("RW 2048", "#")),
        ("vmdk_extent", TEXT.replace("streamOptimized", "twoGbMaxExtentSparse")),
        ("vmdk_extent", TEXT.replace("streamOptimized", "vmfs")),
        ("vmdk_extent", TEXT.replace("createType", "createdType")),
    ],
)
def test_a_descriptor_that_leads_elsewhere_is_refused(check, text):
    with pytest.raises(ImageUnsafe) as caught:
        decode(sparse_with(text))
    assert check in caught.value.message


@pytest.mark.parametrize("text", ["", "nonsense", TEXT.replace("RW 2048 SPARSE", "RW many SPARSE")])
def test_a_descriptor_that_is_none_is_damage(text):
    with pytest.raises(ImageDamaged):
        decode(sparse_with(text))


@pytest.mark.parametrize(
    ("error", "match", "changes"),
    [
        (ImageUnsafe, "unknown_features", {"version": 4}),
        (ImageUnsafe, "unknown_features", {"version": 0}),
        (ImageUnsafe, "unknown_features", {"flags": 0x30101}),
        (ImageUnsafe, "unknown_features", {"compression": 2}),
        (ImageUnsafe, "unknown_features", {"flags": 0x10001}),
        (ImageUnsafe, "vmdk_tables", {"grain": 4}),
        (ImageUnsafe, "vmdk_tables", {"grain": 8192}),
        (ImageUnsafe, "vmdk_tables", {"grain": 96}),
        (ImageUnsafe, "vmdk_tables", {"grain": 2**63}),
        (ImageUnsafe, "vmdk_tables", {"gtes": 0}),
        (ImageUnsafe, "vmdk_tables", {"gtes": 2**31}),
        (ImageUnsafe, "vmdk_tables", {"capacity": 0}),
        (ImageUnsafe, "vmdk_tables", {"capacity": 2**62}),
        (ImageUnsafe, "vmdk_extent", {"descriptor_offset": 0}),
        (ImageUnsafe, "vmdk_extent", {"descriptor_size": 0}),
        (ImageUnsafe, "vmdk_extent", {"descriptor_size": 2**40}),
        (ImageDamaged, "text transfer", {"line_ends": b"\n \n\n"}),
        (ImageDamaged, "over its tables", {"overhead": 20}),
        (ImageDamaged, "over its tables", {"gd": 3}),
        (ImageDamaged, "at the end", {"flags": 1, "compression": 0}),
    ],
)
def test_headers_that_are_refused(error, match, changes):
    with pytest.raises(error, match=match):
        decode(sparse_with(TEXT, **changes))


def test_a_guest_that_is_too_large_is_refused_before_its_tables():
    decoder = VmdkDecoder(MiB - 512)
    with pytest.raises(ImageTooLarge) as caught:
        list(decoder.feed(memoryview(sparse_with(TEXT))))
    assert caught.value.size == MiB


@pytest.mark.parametrize(
    ("content", "name"), [(b"QFI\xfb\0\0\0\3", "qcow2"), (b"<html>", "html"), (b"<html></html>", "html")]
)
@pytest.mark.parametrize("length", [1024, 64])
def test_another_format_is_named(content, name, length):
    with pytest.raises(ImageType) as caught:
        decode(content.ljust(length, b"\0"))
    assert f"`{name}`" in caught.value.message


FLAT = '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "disk-flat.vmdk" 0\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (FLAT.encode(), "only a descriptor of type 'monolithicFlat'"),
        (FLAT.encode().ljust(2048, b"\0"), "only a descriptor of type 'monolithicFlat'"),
        (b"# Disk DescriptorFile\n", "only a descriptor: its extents"),
        (b"COWD".ljust(4096, b"\1"), "an extent of ESX"),
        (b"COWD", "an extent of ESX"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, None])
def test_a_disk_of_several_files_is_refused_with_the_way_to_one(content, words, step):
    with pytest.raises(ImageUnsafe) as caught:
        decode(content, step)
    assert "vmdk_extent" in caught.value.message
    assert words in caught.value.detail
    assert "subformat=streamOptimized" in caught.value.hint


@pytest.mark.parametrize("length", [4, 100, 511])
def test_a_file_that_ends_within_its_header_is_damaged(length):
    with pytest.raises(ImageDamaged, match=f"ends at byte {length}, within its header"):
        decode(header(MiB)[:length])


def sparse(entries, directory=(148,), gd=21, body=b"x" * 4 * GRAIN, overhead=256):
    """A monolithicSparse file of 1 MiB, its one grain table at sector 148."""
    changes = {"gd": gd, "overhead": overhead, "flags": 1, "compression": 0, "version": 1}
    data = bytearray(sparse_with(TEXT.replace("streamOptimized", "monolithicSparse"), **changes))
    data = data.ljust(overhead * 512, b"\0")
    struct.pack_into(f"<{len(directory)}I", data, gd * 512, *directory)
    struct.pack_into(f"<{len(entries)}I", data, 148 * 512, *entries)
    return bytes(data + body)


def test_a_hand_made_sparse_file():
    disk = decode(sparse([0, 384, 256]))
    assert disk == (bytes(GRAIN) + b"x" * 2 * GRAIN + bytes(13 * GRAIN), MiB)


@pytest.mark.parametrize(
    ("error", "match", "data"),
    [
        (ImageUnsafe, "vmdk_tables", sparse([255])),
        (ImageUnsafe, "vmdk_tables", sparse([257])),
        (ImageUnsafe, "vmdk_tables", sparse([1])),
        (ImageUnsafe, "vmdk_tables", sparse([2**32 - 128])),
        (ImageUnsafe, "vmdk_tables", sparse([], directory=[21])),
        (ImageUnsafe, "vmdk_tables", sparse([], directory=[253])),
        (ImageUnsafe, "vmdk_tables", sparse([], directory=[2**32 - 1])),
        (ImageDamaged, "two grains", sparse([256, 256])),
        (ImageDamaged, "within its grains", sparse([256 + 4 * 128])),
    ],
)
def test_tables_that_lie_are_refused(error, match, data):
    with pytest.raises(error, match=match):
        decode(data)


# -- mutants -------------------------------------------------------------------------------------------------

SMALL = guest(6 * GRAIN, 11)
MUTATED = {"stream": Writer(SMALL).write(), "sparse": sparse([0, 384, 256])}
# Mostly the first sectors and the last ones, where header and tables are.
CHANGES = st.lists(
    st.tuples(
        st.integers(-12, 160), st.integers(0, 511), st.sampled_from([0, 1, 2, 3, 0x15, 0x7F, 0x80, 0xFF])
    ),
    min_size=1,
    max_size=4,
)
HEADER_CHANGES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 21, 148, -11, -9, -6, -5, -3, -2, -1]),
        st.integers(0, 80),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=3,
)


def mutant(name, changes):
    data = bytearray(MUTATED[name])
    for sector, at, value in changes:
        data[(sector * 512 + at) % len(data)] = value
    return bytes(data)


@settings(max_examples=examples(500))
@given(st.sampled_from(sorted(MUTATED)), CHANGES | HEADER_CHANGES, st.sampled_from([4096, None]))
def test_mutants_raise_the_known_errors_only(name, changes, step):
    with contextlib.suppress(DeployError, ImageTooLarge):
        decode(mutant(name, changes), step)
