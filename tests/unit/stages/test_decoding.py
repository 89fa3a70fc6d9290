"""Which decoder an image goes through."""

import bz2
import copy
import gzip
import lzma

import pytest
import zstandard

from agent.formats.chain import Chained
from agent.formats.ova.decoder import OvaDecoder
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.raw import RawDecoder
from agent.formats.vdi import VdiDecoder
from agent.formats.vhd import VhdDecoder
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.model.job import IMAGE_TYPES
from agent.stages.decoding import DISK_FORMATS, container_of, max_unpacked, new_decoder, packing_of
from agent.transfer.source import SourceInfo
from agent.units import MiB
from tests.kit.extents import content_of
from tests.unit.formats.vmdk.test_vmdk import BIG, GRAIN, Writer, feeds
from tests.unit.stages.memory import Stages, empty_qcow2


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
        ("tar", "raw", RawDecoder, "tar"),
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
        ("tar", None, RawDecoder, "tar"),
    ],
)
def test_content_decides_and_the_job_says_what_is_accepted(content, job_type, kind, container):
    ctx = context(content, job_type)
    decoder = new_decoder(ctx)
    assert type(decoder) is kind
    assert container_of(ctx, decoder) == container


def test_each_type_has_its_decoder():
    assert set(DISK_FORMATS) == set(IMAGE_TYPES)


@pytest.mark.parametrize("job_type", ["qcow2", None])
def test_what_is_inside_of_a_compressed_file_is_known_once_it_has_come(job_type):
    ctx = context("gzip", job_type)
    assert packing_of(ctx) == "gzip"
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
