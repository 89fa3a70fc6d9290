"""What a decoder was fed belongs to the pool again: a parser that keeps a view of it keeps all of its buffer.

A header of 12 bytes, remembered for as long as a block of xz lasts, once kept 4 MiB beside a window of 64.
"""

import bz2
import gzip
import io
import lzma
import random
from functools import partial

import lz4.frame
import pytest
import zstandard

from agent.formats.archives.unpack import Archive
from agent.formats.compressed import Decompressor
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.vdi import VdiDecoder
from agent.formats.vhd import VhdDecoder
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.units import GiB, KiB, MiB
from tests.kit import blocks, qcow2
from tests.kit.xz import stored_xz
from tests.unit.formats.vmdk.test_vmdk import Writer
from tests.unit.stages.test_decoding import tar_of, zip_of

FEED = 64 * KiB
LATER = 20
"""So many buffers later one is free. Until then what makes 1 MiB together, as a group of clusters, may wait."""
DISK = GiB
NOISE = random.Random(7).randbytes(4 * MiB)
"""Which no compression makes shorter."""
ARCHIVED = blocks.guest(4 * MiB)


def qcow2_image() -> bytes:
    chunks = {n: qcow2.Data(NOISE[n * FEED :][:FEED]) for n in range(len(NOISE) // FEED)}
    return bytes(qcow2.Builder(cluster_bits=16, size=8 * MiB).build(chunks).file)


def unpacker(kind: str):
    return lambda: Decompressor(kind, DISK)


CASES = {
    "gzip": (unpacker("gzip"), lambda: gzip.compress(NOISE)),
    "xz": (unpacker("xz"), lambda: lzma.compress(NOISE)),
    "xz, one block": (unpacker("xz"), lambda: stored_xz(NOISE)),
    "zstd": (unpacker("zstd"), lambda: zstandard.compress(NOISE)),
    "bzip2": (unpacker("bzip2"), lambda: bz2.compress(NOISE)),
    "lz4": (unpacker("lz4"), lambda: lz4.frame.compress(NOISE)),
    "tar": (partial(Archive, "tar", DISK), lambda: tar_of(ARCHIVED)),
    "zip": (partial(Archive, "zip", DISK), lambda: zip_of(ARCHIVED)),
    "qcow2": (partial(Qcow2Decoder, None, DISK, can_fetch=False), qcow2_image),
    "vmdk": (partial(VmdkDecoder, DISK), lambda: Writer(NOISE).write()),
    "vhd": (partial(VhdDecoder, None, DISK), lambda: blocks.vhd([8 + 9 * n for n in range(400)])),
    "vhdx": (partial(VhdxDecoder, None, DISK, can_fetch=False), lambda: blocks.Vhdx([4, 5, 6, 7]).build()),
    "vdi": (partial(VdiDecoder, DISK), lambda: blocks.vdi([0, 1, 2, 3])),
}


@pytest.mark.parametrize("kind", CASES)
def test_nothing_of_a_buffer_is_kept_once_others_have_come(kind):
    make, build = CASES[kind]
    decoder, data = make(), io.BytesIO(build())
    fed = []
    while piece := data.read(FEED):
        fed.append(bytearray(piece))
        for given in decoder.feed(memoryview(fed[-1])):
            del given
        for buffer in fed[:-LATER]:
            buffer.clear()  # BufferError: something holds a view of it
    assert len(fed) > LATER
