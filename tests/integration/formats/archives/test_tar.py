"""Archives by GNU tar and bsdtar in every format, with holes and without, in every chunking; and maps that lie."""

import contextlib
import os
import random
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.archives.unpack import Archive
from agent.formats.chain import BLOCK_BYTES, Chained
from agent.formats.detect import sniff
from agent.formats.extent import ImageTooLarge, Zero
from agent.formats.raw import RawDecoder
from agent.units import GiB, KiB, MiB
from tests.kit.archives import MOST, disk_bytes, unpack
from tests.kit.extents import content_of
from tests.kit.fuzz import examples
from tests.unit.formats.archives.test_tar import fix_checksums, plain, read


def tar(directory, *argv, tool="tar"):
    done = subprocess.run([tool, *argv], cwd=directory, capture_output=True, check=True, timeout=30)
    return done.stdout


@pytest.mark.parametrize("kind", ["ustar", "gnu", "oldgnu", "pax", "posix"])
def test_gnu_tars_archives(tmp_path, kind):
    names = [
        "box.ovf",
        "späte Datei.vmdk",
        "n" * 90 + ".vmdk",
        "d/" + "m" * 120 if kind != "ustar" else "d/m",
    ]
    (tmp_path / "d").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 50)
    data = tar(tmp_path, "-cf", "-", f"--format={kind}", *names)
    for step in (511, None):
        assert read(data, step) == plain({name: name.encode() * 50 for name in names})


def test_a_directory_that_was_packed_as_a_whole(tmp_path):
    (tmp_path / "box.ovf").write_bytes(b"content")
    assert read(tar(tmp_path, "-cf", "-", ".")) == [("", "directory", b""), ("box.ovf", "file", b"content")]


SPARSE = {
    "oldgnu": ("--format=oldgnu",),
    "gnu": ("--format=gnu",),
    "0.0": ("--format=pax", "--sparse-version=0.0"),
    "0.1": ("--format=pax", "--sparse-version=0.1"),
    "1.0": ("--format=pax", "--sparse-version=1.0"),
    "posix": ("--format=posix",),
}
PLAIN = {
    "v7": ("--format=v7",),
    "ustar": ("--format=ustar",),
    "pax": ("--format=pax",),
}
# More pieces than an old header (4) and one block behind it (21) have room for, and than a block of numbers.
MANY = 70


def sparse_disk(path, pieces=MANY, size=2 * MiB):
    """A disk with data in every other 8 KiB, and a hole at its end; gives its content."""
    with path.open("wb") as file:
        file.write(disk_bytes()[:512])
        for number in range(pieces):
            file.seek(16 * KiB * number + 8 * KiB)
            file.write(b"%08d" % number * 64)
        file.truncate(size)
    return path.read_bytes()


@pytest.mark.parametrize("pieces", [0, 3, 4, 5, 25, 26, MANY])
@pytest.mark.parametrize("kind", SPARSE)
def test_gnu_tars_sparse_members(tmp_path, kind, pieces):
    content = sparse_disk(tmp_path / "disk.raw", pieces)
    data = tar(tmp_path, "-cSf", "-", *SPARSE[kind], "disk.raw")
    assert len(data) < len(content) // 2
    assert sniff(data[: 128 * KiB]) == "tar"
    for step in (4096, None):
        archive = Archive("tar", MOST)
        assert unpack(archive, data, step) == content
        assert archive.size == len(content)


@pytest.mark.parametrize("step", [1, 7, 511])
@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_members_in_every_chunking(tmp_path, kind, step):
    content = sparse_disk(tmp_path / "disk.raw", 30, 512 * KiB)
    data = tar(tmp_path, "-cSf", "-", *SPARSE[kind], "disk.raw")
    assert unpack(Archive("tar", MOST), data, step) == content


@pytest.mark.parametrize("step", [511, 4096, 65536, None])
@pytest.mark.parametrize("kind", SPARSE)
def test_holes_of_a_raw_disk_are_ranges_of_zeros(tmp_path, kind, step):
    content = bytearray(sparse_disk(tmp_path / "disk.raw", 3, 12 * MiB + 512))
    with (tmp_path / "disk.raw").open("r+b") as file:
        for at in (5 * MiB - 4096, 9 * MiB + 8192):  # neither begins a block
            file.seek(at)
            file.write(b"data" * KiB)
            content[at : at + 4 * KiB] = b"data" * KiB
    data = tar(tmp_path, "-cSf", "-", *SPARSE[kind], "disk.raw")
    chained = Chained(Archive("tar", 16 * MiB), lambda content: RawDecoder(None))
    disk, zeroed = bytearray(b"\xa5" * len(content)), []

    def apply(extents):
        for extent in extents:
            disk[extent.offset : extent.offset + len(content_of(extent))] = content_of(extent)
            zeroed.extend([extent.length] if isinstance(extent, Zero) else [])

    for at in range(0, len(data), step or len(data)):
        apply(chained.feed(memoryview(data)[at : at + (step or len(data))]))
    apply(chained.finish())
    assert disk == content
    blocks = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
    assert sum(zeroed) == BLOCK_BYTES * blocks.count(bytes(BLOCK_BYTES)) > 0


@pytest.mark.parametrize("kind", PLAIN)
def test_members_without_holes(tmp_path, kind):
    content = sparse_disk(tmp_path / "disk.raw", 3, 128 * KiB)
    (tmp_path / "README").write_text("read me")
    data = tar(tmp_path, "-cf", "-", *PLAIN[kind], "README", "disk.raw")
    assert sniff(data[: 128 * KiB]) == "tar"
    for step in (7, 511, None):
        assert unpack(Archive("tar", MOST), data, step) == content


@pytest.mark.parametrize(
    "options",
    [(), ("--read-sparse",), ("--format=v7tar",), ("--format=ustar",), ("--format=gnutar",)],
    ids=["pax", "sparse", "v7", "ustar", "gnu"],
)
def test_bsdtars_archives(tmp_path, options):
    content = sparse_disk(tmp_path / "disk.raw")
    data = tar(tmp_path, "-cf", "-", *options, "disk.raw", tool="bsdtar")
    assert sniff(data[: 128 * KiB]) == "tar"
    for step in (511, None):
        assert unpack(Archive("tar", MOST), data, step) == content


def test_a_disk_that_is_nearly_all_hole_is_no_bomb(tmp_path):
    sparse_disk(tmp_path / "disk.raw", 3)
    os.truncate(tmp_path / "disk.raw", 100 * GiB)
    data = tar(tmp_path, "-cSf", "-", "--format=oldgnu", "disk.raw")
    archive = Archive("tar", 4 * MiB)
    with pytest.raises(ImageTooLarge):
        unpack(archive, data)
    assert archive.size == 100 * GiB


@pytest.mark.parametrize("kind", SPARSE)
def test_a_sparse_member_of_an_ova_is_refused(tmp_path, kind):
    sparse_disk(tmp_path / "disk.vmdk")
    data = tar(tmp_path, "-cSf", "-", *SPARSE[kind], "disk.vmdk")
    with pytest.raises(ImageUnsafe, match="ova_member") as caught:
        read(data)
    assert "sparsely" in caught.value.detail


@pytest.mark.parametrize("kind", SPARSE)
def test_every_cut_of_a_sparse_archive_is_noticed(tmp_path, kind):
    sparse_disk(tmp_path / "disk.raw", 30, 512 * KiB)
    data = tar(tmp_path, "-cSf", "-", *SPARSE[kind], "disk.raw")
    end = len(data.rstrip(b"\0"))
    for length in {*range(0, end, 997), *range(512, end + 512, 512)}:
        with pytest.raises((ImageDamaged, ImageUnsafe)):
            unpack(Archive("tar", MOST), data[:length])


def edited(data, old, new):
    """The archive with one text of a sparse map changed, and the header's checksum right again."""
    assert data.count(old) >= 1
    assert len(old) == len(new)
    changed = bytearray(data.replace(old, new, 1))
    fix_checksums(changed)
    return bytes(changed)


@pytest.fixture
def three(tmp_path):
    """A disk with three pieces of data, at 0, 8 KiB and 24 KiB, and what packs it."""
    sparse_disk(tmp_path / "disk.raw", 2, 128 * KiB)
    return lambda kind: tar(tmp_path, "-cSf", "-", *SPARSE[kind], "disk.raw")


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("0.1", b"8192,4096,24576", b"4096,4096,24576", None),  # another place, and as good as the first
        ("0.1", b"8192,4096,24576", b"2048,4096,24576", "after byte"),
        ("0.1", b",24576,4096", b",999999,409", "of a member of"),
        ("0.1", b"8192,4096", b"8192,4095", "are stored"),
        ("0.1", b"8192,4096", b"8192,40x6", "the number"),
        ("0.1", b"GNU.sparse.size=131072", b"GNU.sparse.size=  1072", "the number"),
        ("0.1", b"GNU.sparse.size=131072", b"GNU.sparse.size=001072", "of a member of"),
        ("0.0", b"GNU.sparse.offset=8192", b"GNU.sparse.offset=2048", "after byte"),
        ("0.0", b"GNU.sparse.offset=8192", b"GNU.sparse.offxet=8192", "within a piece"),
        ("1.0", b"\n8192\n", b"\n2048\n", "after byte"),
        ("1.0", b"\n8192\n", b"\n81 2\n", "the number"),
        ("1.0", b"major=1", b"major=2", "version"),
        ("1.0", b"realsize=131072", b"realsixe=131072", "realsize"),
        ("oldgnu", b"00000020000\x0000000010000", b"00000004000\x0000000010000", "after byte"),
        ("oldgnu", b"00000020000\x0000000010000", b"00000020000\x0000000007777", "are stored"),
        ("oldgnu", b"00000020000\x0000000010000", b"77777777777\x0000000010000", "of a member of"),
        ("oldgnu", b"00000020000\x0000000010000", b"0000002000x\x0000000010000", "readable number"),
    ],
)  # fmt: skip
def test_maps_that_overlap_or_lie_are_damage(three, kind, old, new, words):
    data = edited(three(kind), old, new)
    if words is None:
        assert len(unpack(Archive("tar", MOST), data)) == 128 * KiB
        return
    with pytest.raises(ImageDamaged, match=words):
        unpack(Archive("tar", MOST), data, 4096)


def test_a_map_with_far_too_many_pieces_is_refused(three):
    """A count in the data, and pieces of no length: they would take no room in the archive."""
    data = three("1.0")
    start = data.index(b"\n0\n") - 1
    begin = start - start % 512
    lines = b"0\n0\n" * 300_000
    flood = b"300000\n" + lines
    flood += bytes(-len(flood) % 512)
    with pytest.raises(ImageDamaged, match="more than 262144 pieces"):
        unpack(Archive("tar", MOST), data[:begin] + flood + data[begin + 512 :])


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sparse")
    sparse_disk(directory / "disk.raw", 30, 64 * KiB * 8)
    return [tar(directory, "-cSf", "-", *options, "disk.raw") for options in SPARSE.values()]


@settings(max_examples=examples(200), deadline=None)
@given(
    st.integers(0, len(SPARSE) - 1),
    st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from([64, 100_000]),
)
def test_mutants_raise_the_known_errors_only(samples, which, changes, step):
    data = bytearray(samples[which])
    for at, value in changes:
        data[at] = value
    fix_checksums(data)
    with contextlib.suppress(DeployError, ImageTooLarge):
        unpack(Archive("tar", 8 * MiB), bytes(data), step)


def test_random_holes_come_back_as_they_were(tmp_path):
    source = random.Random(3)
    path = tmp_path / "disk.raw"
    path.write_bytes(disk_bytes()[:512])
    with path.open("r+b") as file:
        for _ in range(40):
            file.seek(source.randrange(4096, 4 * MiB))
            file.write(source.randbytes(source.randrange(1, 20_000)))
    os.truncate(path, path.stat().st_size + source.randrange(100_000))
    for options in SPARSE.values():
        data = tar(tmp_path, "-cSf", "-", *options, "disk.raw")
        assert unpack(Archive("tar", MOST), data, 65536) == path.read_bytes()
