"""Images inside compressed files: the content decides what decodes it, in every chunking."""

import gzip
import random
import subprocess

import pytest
import zstandard

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.chain import BLOCK_BYTES, Chained
from agent.formats.compressed import Decompressor
from agent.formats.extent import Fetch, ImageTooLarge, Write
from agent.formats.raw import RawDecoder
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.units import GiB, KiB, MiB
from tests.kit.extents import content_of
from tests.kit.xz import stored_xz
from tests.unit.formats.test_compressed import COMPRESS


def decode(chained, data, step=None):
    """What was given, on a dirty disk of 2 MiB."""
    disk = bytearray(b"\xa5" * (2 * MiB))

    def apply(extents):
        for extent in extents:
            content = content_of(extent)
            disk[extent.offset : extent.offset + len(content)] = content

    for at in range(0, len(data), step or max(len(data), 1)):
        apply(chained.feed(memoryview(data)[at : at + (step or len(data))]))
    apply(chained.finish())
    return bytes(disk)


def disk_image(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(1).randbytes(200 * KiB) + bytes(MiB) + b"text" * 50_000)
    subprocess.run(["sgdisk", "-o", "-n1:2048:0", path], check=True, capture_output=True, timeout=30)
    return path


def factory(seen=None):
    def make(content):
        if seen is not None:
            seen.append(content)
        if content == "vmdk":
            return VmdkDecoder(GiB)
        if content == "raw":
            return RawDecoder(None)
        raise ImageType(found=content, expected="raw")

    return make


@pytest.mark.parametrize("kind", sorted(COMPRESS))
@pytest.mark.parametrize("step", [7, 511, 4096, 65536, None])
def test_a_raw_disk_in_every_compression(tmp_path, kind, step):
    content = disk_image(tmp_path).read_bytes()
    seen = []
    chained = Chained(Decompressor(kind, len(content)), factory(seen))
    assert decode(chained, COMPRESS[kind](content), step)[: len(content)] == content
    assert seen == [chained.content] == ["raw"]
    assert chained.virtual_size == len(content)


@pytest.mark.parametrize("kind", sorted(COMPRESS))
@pytest.mark.parametrize("step", [4093, None])
def test_what_is_decompressed_is_written_in_whole_blocks(tmp_path, kind, step):
    """A disk must not be asked for half sectors, wherever the pieces of a decompressor end."""
    head = disk_image(tmp_path).read_bytes()[:MiB]
    content = head + random.Random(2).randbytes(BLOCK_BYTES) + bytes(BLOCK_BYTES) + b"tail"
    chained = Chained(Decompressor(kind, GiB), factory())
    data = COMPRESS[kind](content)
    given = []
    for at in range(0, len(data), step or len(data)):
        # The bytes are still there when all of a feed has been given.
        extents = list(chained.feed(memoryview(data)[at : at + (step or len(data))]))
        given += [(extent.offset, bytes(extent.data)) for extent in extents]
    given += [(extent.offset, bytes(extent.data)) for extent in chained.finish()]
    assert b"".join(piece for _, piece in given) == content
    assert [offset for offset, _ in given] == list(range(0, len(content), BLOCK_BYTES))


def test_beside_a_long_window_blocks_are_small(tmp_path):
    content = disk_image(tmp_path).read_bytes()[:MiB]
    chained = Chained(Decompressor("xz", GiB), factory())
    assert len(list(chained.feed(memoryview(stored_xz(content))))) == 4


@pytest.mark.parametrize("step", [511, None])
def test_a_vmdk_in_every_compression(tmp_path, step):
    path = disk_image(tmp_path)
    argv = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", path, tmp_path / "d.vmdk"]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    content, inner = path.read_bytes(), (tmp_path / "d.vmdk").read_bytes()
    for kind, compress in COMPRESS.items():
        chained = Chained(Decompressor(kind, GiB), factory())
        assert chained.virtual_size is None
        # qemu-img rounds the capacity up to a sector.
        assert decode(chained, compress(inner), step)[: len(content)] == content
        assert chained.virtual_size - len(content) in range(512)


@pytest.mark.parametrize("outer", sorted(COMPRESS))
@pytest.mark.parametrize("inner", sorted(COMPRESS))
def test_compression_within_compression_is_refused(outer, inner):
    chained = Chained(Decompressor(outer, GiB), factory())
    with pytest.raises(ImageUnsafe, match="nested_compression"):
        decode(chained, COMPRESS[outer](COMPRESS[inner](b"content" * 100_000)))


@pytest.mark.parametrize(
    ("content", "name"), [(b"", "nothing"), (b"<html>", "html"), (bytes(300_000), "zeros")]
)
def test_other_content_is_named(content, name):
    with pytest.raises(ImageType, match=f"`{name}`"):
        decode(Chained(Decompressor("gzip", GiB), factory()), gzip.compress(content), 100)


def test_the_inner_image_must_be_whole_too(tmp_path):
    path = disk_image(tmp_path)
    argv = ["qemu-img", "convert", "-O", "vmdk", path, tmp_path / "d.vmdk"]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    inner = (tmp_path / "d.vmdk").read_bytes()[: 300 * KiB]
    with pytest.raises(ImageDamaged, match="vmdk"):
        decode(Chained(Decompressor("zstd", GiB), factory()), zstandard.compress(inner))


def test_the_outer_file_must_be_whole_even_if_the_image_seems_to_be(tmp_path):
    content = disk_image(tmp_path).read_bytes()
    for kind, compress in COMPRESS.items():
        with pytest.raises(ImageDamaged):
            decode(Chained(Decompressor(kind, GiB), factory()), compress(content)[:-1])


def test_the_bound_of_the_output_holds(tmp_path):
    content = disk_image(tmp_path).read_bytes()
    with pytest.raises(ImageTooLarge):
        decode(Chained(Decompressor("gzip", len(content) - 1), factory()), gzip.compress(content))


def test_a_wish_for_bytes_out_of_order_is_answered_at_once():
    class Asking:
        """Stands for a decoder that asks for its tables: what it gets is what it gives."""

        virtual_size = 3
        held = 0

        def feed(self, data):
            wish = Fetch(10, 10, b"not answered")
            yield wish
            yield Write(0, memoryview(b"yes" if wish.data is None else b"no!"))

        def finish(self):
            return iter(())

    chained = Chained(Decompressor("gzip", GiB), lambda content: Asking())
    assert decode(chained, gzip.compress(b"content"))[:3] == b"yes"
