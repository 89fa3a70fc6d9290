"""The one image in an archive: which member it is, and archives in which nobody could tell."""

import io
import tarfile
import zipfile
import zlib

import pytest

from agent.errors import ImageDamaged, ImageUnsafe
from agent.formats.archives.unpack import MAX_OTHERS, Archive
from agent.formats.extent import ImageTooLarge
from agent.units import MiB
from tests.kit.archives import MOST, disk_bytes, unpack

DISK = disk_bytes()
SMALL = {"README": b"read me", "SHA256SUMS": b"0" * 64 + b"  disk.raw\n", "meta/data.json": b"{}"}


def tar(files, kind=tarfile.GNU_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(files, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


PACK = {"tar": tar, "zip": zipped}
kinds = pytest.mark.parametrize("kind", PACK)


@kinds
@pytest.mark.parametrize("step", [1, 7, 511, 4096, None])
def test_the_image_alone_in_every_chunking(kind, step):
    archive = Archive(kind, MOST)
    assert unpack(archive, PACK[kind]({"disk.raw": DISK}), step) == DISK
    assert archive.size == len(DISK)


@kinds
def test_small_files_around_it_are_passed_over(kind):
    before = PACK[kind](SMALL | {"disk.raw": DISK})
    behind = PACK[kind]({"disk.raw": DISK} | SMALL)
    for data in (before, behind):
        assert unpack(Archive(kind, MOST), data, 511) == DISK


@kinds
def test_a_disk_of_a_few_sectors_is_one_too(kind):
    assert unpack(Archive(kind, MOST), PACK[kind]({"d": DISK[:512] + bytes(512)})) == DISK[:512] + bytes(512)


@kinds
@pytest.mark.parametrize(
    ("first", "second"), [(DISK, disk_bytes(sign=b"more")), (DISK, b"QFI\xfb\0\0\0\3" + bytes(600))]
)
def test_a_second_image_is_refused_by_both_names(kind, first, second):
    with pytest.raises(ImageUnsafe, match="archive_image") as caught:
        unpack(Archive(kind, MOST), PACK[kind]({"one.raw": first, "two.img": second}), 4096)
    assert "'one.raw' and 'two.img'" in caught.value.detail


@kinds
def test_an_archive_without_an_image_tells_what_it_has(kind):
    with pytest.raises(ImageUnsafe, match="archive_image") as caught:
        unpack(Archive(kind, MOST), PACK[kind](SMALL))
    assert "'README' (text)" in caught.value.detail
    assert "'meta/data.json' (json)" in caught.value.detail


@kinds
def test_a_large_file_that_is_no_image_is_refused_by_its_name(kind):
    with pytest.raises(ImageUnsafe, match="archive_image") as caught:
        unpack(Archive(kind, MOST), PACK[kind]({"rootfs.img": b"\xb7" * (MAX_OTHERS + 1)}))
    assert "'rootfs.img' (unknown data)" in caught.value.detail


@kinds
def test_many_small_ones_are_bounded_together(kind):
    files = {f"file {number}": b"\xb7" * (MAX_OTHERS // 4) for number in range(5)}
    with pytest.raises(ImageUnsafe, match="archive_image"):
        unpack(Archive(kind, MOST), PACK[kind](files))


@kinds
def test_the_length_of_the_image_is_known_before_it_has_come(kind):
    data = PACK[kind]({"disk.raw": DISK + bytes(MiB)})
    archive = Archive(kind, MOST)
    next(archive.feed(memoryview(data)))
    assert archive.size == len(DISK) + MiB


@kinds
def test_no_more_than_the_bound_comes_out(kind):
    data = PACK[kind]({"disk.raw": DISK + bytes(MiB)})
    with pytest.raises(ImageTooLarge):
        unpack(Archive(kind, len(DISK)), data, 4096)


@kinds
def test_what_is_compressed_is_given_as_it_is(kind):
    packed = b"\x1f\x8b\x08" + zlib.compress(DISK)
    assert unpack(Archive(kind, MOST), PACK[kind](SMALL | {"disk.raw.gz": packed})) == packed


@kinds
def test_every_cut_is_noticed(kind):
    data = PACK[kind]({"README": b"text", "disk.raw": DISK})
    end = len(data.rstrip(b"\0")) if kind == "tar" else len(data)
    for length in {*range(0, end, 1009), *range(end - 600, end)}:
        with pytest.raises((ImageDamaged, ImageUnsafe)):
            unpack(Archive(kind, MOST), data[:length])


def test_a_tar_that_nothing_closes_may_have_been_cut():
    data = tar({"disk.raw": DISK})
    with pytest.raises(ImageDamaged, match="close"):
        unpack(Archive("tar", MOST), data[: 512 + len(DISK)])


def test_names_and_types_are_refused_by_the_archives_own_check():
    for name in ("../disk.raw", "/disk.raw"):
        for kind, pack in PACK.items():
            with pytest.raises(ImageUnsafe, match="archive_member"):
                unpack(Archive(kind, MOST), pack({name: DISK}))
    for type_ in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            info = tarfile.TarInfo("disk.raw")
            info.type, info.linkname = type_, "/dev/sda"
            archive.addfile(info)
        with pytest.raises(ImageUnsafe, match="archive_member"):
            unpack(Archive("tar", MOST), out.getvalue())


def test_a_bomb_is_stopped_by_the_bound():
    data = zipped({"disk.raw": DISK[:512] + bytes(64 * MiB)})
    assert len(data) < MiB
    with pytest.raises(ImageTooLarge):
        unpack(Archive("zip", 32 * MiB), data)
