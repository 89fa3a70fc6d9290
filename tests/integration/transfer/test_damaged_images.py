"""One changed bit in an image: it is refused, or nothing of the disk depends on it, or qemu-img reads the same."""

import random
import subprocess

import pytest

from agent.formats.archives.unpack import Archive
from agent.formats.chain import Chained
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.raw import RawDecoder
from agent.formats.vdi import VdiDecoder
from agent.formats.vhd import VhdDecoder
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.units import KiB, MiB
from tests.kit.archives import disk_bytes
from tests.kit.decoding import DISK, REFUSALS, deploy, guest
from tests.kit.fuzz import examples


def archive(kind):
    return lambda data: deploy(Chained(Archive(kind, DISK), lambda content: RawDecoder(None)), [data])


def vmdk(data):
    return deploy(VmdkDecoder(DISK), [data])


def qcow2(data):
    return deploy(Qcow2Decoder(len(data), DISK, can_fetch=False), [data])


def convert(tmp_path, content, *options):
    (tmp_path / "raw").write_bytes(content)
    argv = ["qemu-img", "convert", "-f", "raw", *options, str(tmp_path / "raw"), str(tmp_path / "image")]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return (tmp_path / "image").read_bytes()


def flips(data, count, after=0):
    """The image with one bit changed, at places that are not zeros: there are the tables and the clusters."""
    source = random.Random(7)
    places = [at for at, byte in enumerate(data) if byte and at >= after]
    for at in source.sample(places, min(count, len(places))):
        changed = bytearray(data)
        changed[at] ^= 1 << source.randrange(8)
        yield at, bytes(changed)


def by_qemu_img(tmp_path, data):
    """The guest disk as qemu-img reads it, or None where it refuses the image."""
    (tmp_path / "changed").write_bytes(data)
    argv = ["qemu-img", "convert", "-O", "raw", tmp_path / "changed", tmp_path / "out"]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=60)
    return (tmp_path / "out").read_bytes() if done.returncode == 0 else None


def attempt(read, data):
    """The guest disk, or None where the image is refused."""
    try:
        return read(data)
    except REFUSALS:
        return None


# Whole grains; a last one of which half is on the disk; one of which a single sector is.
@pytest.mark.parametrize("size", [128 * KiB, 160 * KiB, 128 * KiB + 512])
def test_a_changed_bit_in_a_stream_optimized_vmdk_is_found(tmp_path, size):
    content = guest(size)
    data = convert(tmp_path, content, "-O", "vmdk", "-o", "subformat=streamOptimized")
    assert vmdk(data) == content
    taken = [
        at for at, changed in flips(data, examples(400)) if attempt(vmdk, changed) not in (None, content)
    ]
    assert taken == []


@pytest.mark.parametrize("argv", [("zip", "-q", "-"), ("zip", "-q", "-0", "-")], ids=["deflated", "stored"])
def test_a_changed_bit_in_a_zip_is_found(tmp_path, argv):
    content = disk_bytes(sign=b"some data")
    (tmp_path / "disk.raw").write_bytes(content)
    done = subprocess.run([*argv, "disk.raw"], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    read = archive("zip")
    assert read(done.stdout) == content
    taken = [
        at
        for at, changed in flips(done.stdout, examples(300))
        if attempt(read, changed) not in (None, content)
    ]
    assert taken == []


def test_a_changed_bit_in_a_header_of_a_tar_is_found(tmp_path):
    content = disk_bytes()
    (tmp_path / "disk.raw").write_bytes(content)
    argv = ["tar", "-cf", "-", "--format=gnu", "disk.raw"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True, timeout=60)
    read = archive("tar")
    assert read(done.stdout) == content
    for at in range(512):
        changed = bytearray(done.stdout)
        changed[at] ^= 1
        assert attempt(read, bytes(changed)) is None, f"at byte {at}"


QEMU = {
    "vmdk": (vmdk, ("-O", "vmdk", "-o", "subformat=streamOptimized")),
    "qcow2": (qcow2, ("-c", "-O", "qcow2", "-o", "compression_type=zlib")),
    "qcow2-zstd": (qcow2, ("-c", "-O", "qcow2", "-o", "compression_type=zstd")),
}


@pytest.mark.parametrize("name", QEMU)
@pytest.mark.parametrize("size", [128 * KiB, 64 * KiB + 512])
def test_what_qemu_img_finds_damaged_in_a_cluster_is_found(tmp_path, name, size):
    """A cluster of qcow2 has no checksum, unlike a VMDK's grain: its stream's form is all that there is to check."""
    read, options = QEMU[name]
    content = guest(size)
    data = convert(tmp_path, content, *options)
    assert read(data) == content
    refused = 0
    # In front are header and tables, of which qemu also reads the copy that we do not need.
    for at, changed in flips(data, examples(40), after=64 * KiB if read is vmdk else 0):
        ours = attempt(read, changed)
        refused += ours is None
        assert ours is None or ours == by_qemu_img(tmp_path, changed), f"at byte {at}"
    assert refused


@pytest.mark.parametrize("size", [128 * KiB, 64 * KiB + 512])
def test_a_changed_bit_in_a_sparse_vmdk_is_found_where_qemu_img_finds_it(tmp_path, size):
    """Its grains have no checksum. Its tables, of which there is a second copy, name grains or do not."""
    content = guest(size)
    data = convert(tmp_path, content, "-O", "vmdk", "-o", "subformat=monolithicSparse")
    assert vmdk(data) == content
    # Behind the descriptor; the first grain comes at 64 KiB.
    tables, grains = data[: 64 * KiB], data[64 * KiB :]
    changes = [(at, changed + grains) for at, changed in flips(tables, len(tables), after=21 * 512)]
    changes += flips(data, examples(20), after=64 * KiB)
    refused = 0
    for at, changed in changes:
        ours = attempt(vmdk, changed)
        refused += ours is None
        assert ours is None or ours == by_qemu_img(tmp_path, changed), f"at byte {at}"
    assert refused


def vhd(data):
    return deploy(VhdDecoder(len(data), DISK), [data])


def vhdx(data):
    return deploy(VhdxDecoder(len(data), DISK, can_fetch=False), [data])


def vdi(data):
    return deploy(VdiDecoder(DISK), [data])


BLOCKS = {
    "vhd": (vhd, ("-O", "vpc", "-o", "subformat=dynamic,force_size=on"), ()),
    "vhd-fixed": (vhd, ("-O", "vpc", "-o", "subformat=fixed,force_size=on"), ("-f", "vpc")),
    "vhdx": (vhdx, ("-O", "vhdx", "-o", "block_size=1M"), ()),
    "vdi": (vdi, ("-O", "vdi"), ()),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_changed_bit_around_blocks_is_found_or_read_as_qemu_img_reads_it(tmp_path, name):
    """Blocks have no checksum, and neither have their tables: only headers and footers do. The disk is all zeros but
    for one byte, so that what is changed is nearly always around it."""
    read, options, kind = BLOCKS[name]
    content = bytes(MiB) + b"x" + bytes(MiB - 513)
    data = convert(tmp_path, content, *options)
    assert read(data) == content
    refused = 0
    for at, changed in flips(data, examples(40)):
        ours = attempt(read, changed)
        refused += ours is None
        if ours not in (None, content):
            (tmp_path / "changed").write_bytes(changed)
            argv = ["qemu-img", "convert", *kind, "-O", "raw", tmp_path / "changed", tmp_path / "out"]
            subprocess.run(argv, check=True, capture_output=True, timeout=60)
            assert ours == (tmp_path / "out").read_bytes(), f"at byte {at}"
    assert refused
