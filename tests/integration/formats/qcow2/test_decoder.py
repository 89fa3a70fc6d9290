"""What the decoder promises beside the bytes: the shape of extents, ways out when tables come late, bounds."""

import random
import subprocess

from agent.formats.extent import Zero
from agent.formats.qcow2.decoder import Qcow2Decoder, Qcow2Limits
from agent.units import KiB, MiB, TiB
from tests.kit import qcow2


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


# -- the shape of extents


def test_what_is_not_allocated_is_one_zero_extent(tmp_path):
    qemu_img("create", "-f", "qcow2", tmp_path / "image", "1T")
    file = (tmp_path / "image").read_bytes()
    decoder = Qcow2Decoder(len(file), TiB, can_fetch=False)
    assert list(decoder.feed(memoryview(file))) == [Zero(0, TiB)]
    assert list(decoder.finish()) == []


# -- tables behind the data: the buffer, then range requests, then scratch, then the refusal


def test_refcount_blocks_do_not_wait_for_a_table(tmp_path):
    """A block of 512 bytes for each 32 KiB of the file, and an L2 table as often: there is always one outstanding."""
    content = random.Random(9).randbytes(MiB)
    (tmp_path / "raw").write_bytes(content)
    qemu_img(
        "convert",
        "-O",
        "qcow2",
        "-o",
        "cluster_size=512,refcount_bits=64",
        tmp_path / "raw",
        tmp_path / "image",
    )
    file = (tmp_path / "image").read_bytes()
    assert qcow2.decode(file, limits=Qcow2Limits(early_bytes=8 * KiB)).guest == content
