"""Which decoder an image goes through."""

import bz2
import copy
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
import zstandard

from agent.errors import ImageUnsafe
from agent.formats.chain import Chained
from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.extent import Write
from agent.formats.ova.decoder import OvaDecoder
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.raw import RawDecoder
from agent.formats.vdi import VdiDecoder
from agent.formats.vhd import VhdDecoder
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.model.job import IMAGE_TYPES
from agent.stages.decoding import (
    DISK_FORMATS,
    container_of,
    max_unpacked,
    new_decoder,
    parts_memory,
    window_memory,
)
from agent.stages.preflight import probe_image
from agent.transfer.source import SourceInfo
from agent.units import GiB, MiB
from tests.kit.extents import content_of
from tests.unit.formats.vmdk.test_vmdk import BIG, GRAIN, Writer, feeds
from tests.unit.stages.memory import IMAGE, MemorySource, Stages, empty_qcow2


def context(content: str, job_type: str | None):
    ctx = Stages(type=job_type).ctx
    ctx.info, ctx.content = SourceInfo("memory:", MiB, seekable=True), content
    return ctx


@pytest.mark.parametrize(
    ("content", "job_type", "kind", "container"),
    [
        ("raw", "raw", RawDecoder, "raw"),
        ("qcow2", "qcow2", Qcow2Decoder, "qcow2"),
        ("ova", "ova", OvaDecoder, "ova"),
        ("tar", "ova", OvaDecoder, "ova"),
        ("qcow2", "raw", RawDecoder, "qcow2"),  # the plan refuses it
        ("ova", "qcow2", RawDecoder, "ova"),
        ("unknown data", "qcow2", RawDecoder, "unknown data"),
        ("vmdk", "vmdk", VmdkDecoder, "vmdk"),
        ("vmdk", "ova", RawDecoder, "vmdk"),
        ("vhd", "vhd", VhdDecoder, "vhd"),
        ("raw", "vhd", VhdDecoder, "vhd"),  # a fixed one has its footer at the end
        ("vhd", "raw", RawDecoder, "vhd"),
        ("vhdx", "vhdx", VhdxDecoder, "vhdx"),
        ("vdi", "vdi", VdiDecoder, "vdi"),
        ("raw", None, RawDecoder, "raw"),
        ("qcow2", None, Qcow2Decoder, "qcow2"),
        ("ova", None, OvaDecoder, "ova"),
        ("vmdk", None, VmdkDecoder, "vmdk"),
        ("vhd", None, VhdDecoder, "vhd"),
        ("html", None, RawDecoder, "html"),
    ],
)
def test_content_decides_and_the_job_says_what_is_accepted(content, job_type, kind, container):
    ctx = context(content, job_type)
    decoder = new_decoder(ctx)
    assert type(decoder) is kind
    assert container_of(ctx, decoder) == container


def test_each_type_has_its_decoder():
    assert set(DISK_FORMATS) == set(IMAGE_TYPES)


def tar_of(content: bytes, name: str = "disk.raw") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(content: bytes, name: str = "disk.raw") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, content)
    return out.getvalue()


PACK = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.compress, "tar": tar_of, "zip": zip_of}


def decoded(data: bytes, job_type: str) -> tuple[str, bytes]:
    """The container, and the beginning of the guest disk."""
    ctx = context(sniff(data[:SNIFF_BYTES]), job_type)
    decoder, disk = new_decoder(ctx), bytearray(8 * MiB)
    for at in range(0, len(data), 100_000):
        for extent in decoder.feed(memoryview(data)[at : at + 100_000]):
            if isinstance(extent, Write):
                disk[extent.offset : extent.offset + len(extent.data)] = extent.data
    for extent in decoder.finish():
        if isinstance(extent, Write):
            disk[extent.offset : extent.offset + len(extent.data)] = extent.data
    return container_of(ctx, decoder), bytes(disk)


@pytest.mark.parametrize(
    "around",
    [
        "tar",
        "zip",
        "gzip tar",
        "xz tar",
        "zstd tar",
        "gzip zip",
        "zip xz",
        "tar gzip",
        "gzip tar xz",
        "zip gzip tar",
    ],
)
def test_compressions_and_archives_around_each_other(around):
    """From the outside in: tar.gz is `gzip tar`, the artifact of a CI system `zip xz`."""
    data, disk = IMAGE, None
    for name in reversed(around.split()):
        data = PACK[name](data)
    container, disk = decoded(data, "raw")
    assert container == "raw"
    assert disk == IMAGE
    container, _ = decoded(PACK[around.split()[0]](empty_qcow2(MiB)), "qcow2")
    assert container == "qcow2"


@pytest.mark.parametrize(
    ("around", "check"),
    [
        ("gzip xz", "nested_compression"),
        ("tar zip", "nested_archive"),
        ("zip tar", "nested_archive"),
        ("zip zip", "nested_archive"),
        ("gzip tar zip", "nested_archive"),
        ("gzip tar gzip tar", "nested_archive"),
        ("zip gzip tar gzip", "nested_archive"),
    ],
)
def test_two_of_a_kind_right_in_one_another_and_more_than_three_are_refused(around, check):
    data = IMAGE
    for name in reversed(around.split()):
        data = PACK[name](data)
    with pytest.raises(ImageUnsafe, match=check) as caught:
        decoded(data, "raw")
    assert "may stay around it" in caught.value.hint


def test_an_image_in_a_tar_that_is_larger_than_the_disk_is_known_at_once():
    data = tar_of(IMAGE + bytes(20 * MiB))
    ctx = context("tar", "raw")
    decoder = new_decoder(ctx)
    list(decoder.feed(memoryview(data)[: 4 * MiB]))
    assert decoder.virtual_size == len(IMAGE) + 20 * MiB


@pytest.mark.parametrize("job_type", ["qcow2", None])
def test_what_is_inside_of_a_compressed_file_is_known_once_it_has_come(job_type):
    ctx = context("gzip", job_type)
    decoder = new_decoder(ctx)
    assert isinstance(decoder, Chained)
    assert container_of(ctx, decoder) == ""
    list(decoder.feed(memoryview(gzip.compress(empty_qcow2(MiB)))))
    list(decoder.finish())
    assert container_of(ctx, decoder) == "qcow2"


@pytest.mark.parametrize("job_type", ["vmdk", None])
@pytest.mark.parametrize(
    ("packing", "pack"),
    [
        ("gzip", gzip.compress),
        ("xz", lzma.compress),
        ("bzip2", bz2.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
    ],
)
@pytest.mark.parametrize("step", [1, 4096, None])
def test_a_vmdk_in_any_compression_is_decoded(packing, pack, job_type, step):
    content, disk = BIG[: 3 * GRAIN + 512], bytearray(3 * GRAIN + 512)
    ctx = context(packing, job_type)
    decoder = new_decoder(ctx)
    for piece in feeds(pack(Writer(content).write()), step):
        for extent in decoder.feed(piece):
            disk[extent.offset : extent.offset + extent.length] = content_of(extent)
    for extent in decoder.finish():
        disk[extent.offset : extent.offset + extent.length] = content_of(extent)
    assert disk == content
    assert (container_of(ctx, decoder), decoder.virtual_size) == ("vmdk", len(content))


def test_the_factory_changes_nothing_of_its_callers():
    ctx = context("gzip", "qcow2")
    before = copy.copy(ctx)
    decoder = new_decoder(ctx)
    list(decoder.feed(memoryview(gzip.compress(empty_qcow2(MiB)))))
    assert ctx == before


def test_a_compressed_file_may_unpack_to_a_full_disk_and_its_tables_but_not_without_bound():
    assert max_unpacked(1000 * MiB) == 1189 * MiB


def test_there_is_no_decoder_before_the_image_was_opened():
    with pytest.raises(RuntimeError, match="before it was opened"):
        new_decoder(Stages().ctx)


@pytest.mark.parametrize(
    ("available", "window"),
    [(0, 66 * MiB), (190 * MiB, 66 * MiB), (256 * MiB, 128 * MiB), (GiB, 896 * MiB), (64 * GiB, 2 * GiB)],
)
def test_windows_may_take_what_is_available_beside_the_rest_but_not_without_bound(available, window):
    assert window_memory(available) == window


@pytest.mark.parametrize(
    ("total", "available", "parts"),
    [
        (0, 0, 66 * MiB),
        (GiB, GiB, 66 * MiB),
        (2 * GiB, GiB, 128 * MiB),
        (64 * GiB, 48 * GiB, 4 * GiB),
        (64 * GiB, 768 * MiB, 640 * MiB),  # MemoryMax= of the unit
        (64 * GiB, 100 * MiB, 66 * MiB),
    ],
)
def test_parts_may_take_a_sixteenth_of_the_memory(total, available, parts):
    assert parts_memory(total, available) == parts


async def test_a_compressed_file_is_divided_to_be_written_and_not_to_be_examined():
    ctx = Stages(MemorySource(gzip.compress(IMAGE))).ctx
    await probe_image(ctx)
    assert ctx.parts_memory == 66 * MiB
    assert new_decoder(ctx).outer.parts_memory == 0
    assert new_decoder(ctx, divide=True).outer.parts_memory == 66 * MiB


def zstd_frame(window_log: int) -> bytes:
    """One byte, in a frame that asks for a window of 2^`window_log` bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, window_log - 10 << 3]) + b"\x09\0\0x"


async def test_a_window_is_taken_where_the_machine_has_the_memory_and_refused_with_both_numbers_elsewhere():
    stages = Stages(MemorySource(zstd_frame(27)))
    stages.machine.available = 256 * MiB
    await stages.preflight()
    assert stages.ctx.pool.count * stages.ctx.pool.size == 2 * MiB
    stages = Stages(MemorySource(zstd_frame(27)))
    stages.machine.available = 255 * MiB
    with pytest.raises(ImageUnsafe, match="memory_limit") as caught:
        await stages.preflight()
    assert f"{128 * MiB} bytes" in caught.value.detail
    assert f"{127 * MiB} bytes" in caught.value.detail
    assert "--long=26" in caught.value.hint


def test_windows_within_one_another_share_the_memory():
    ctx = context("zstd", "raw")
    ctx.window_memory = 100 * MiB
    decoder = new_decoder(ctx)
    inside = tar_of(zstd_frame(26))
    frame = zstd_frame(26)[:6] + (len(inside) << 3 | 1).to_bytes(3, "little") + inside
    list(decoder.feed(memoryview(frame)))
    with pytest.raises(ImageUnsafe, match="memory_limit") as caught:
        list(decoder.finish())
    assert f"{36 * MiB} bytes" in caught.value.detail
