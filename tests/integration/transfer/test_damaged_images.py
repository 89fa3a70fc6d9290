"""One changed bit in a compressed image: it is refused, or nothing of the disk depends on it."""

import random
import subprocess

import pytest

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.archives.unpack import Archive
from agent.formats.chain import Chained
from agent.formats.extent import ImageTooLarge
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.raw import RawDecoder
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.transfer.apply import Applier
from agent.units import KiB, MiB
from tests.kit.archives import disk_bytes
from tests.kit.fuzz import examples

DISK = 2 * MiB


class Disk:
    """A sink in memory. Dirty, so that what is not given is seen."""

    size = DISK

    def __init__(self):
        self.content = bytearray(b"\xa5" * DISK)

    def write(self, offset, data):
        self.content[offset : offset + len(data)] = data

    def zero(self, offset, length):
        self.content[offset : offset + length] = bytes(length)

    def read(self, offset, length):
        return bytes(self.content[offset : offset + length])


def deploy(decoder, data):
    """The guest disk that the transfer writes."""
    disk = Disk()
    applier = Applier(disk)
    try:
        for extents in (decoder.feed(memoryview(data)), decoder.finish()):
            applier.begin(iter([extents]))
            assert applier.run() is None
    finally:
        applier.close()
    return disk.content[: decoder.virtual_size]


def archive(kind):
    return lambda data: deploy(Chained(Archive(kind, DISK), lambda content: RawDecoder(None)), data)


def vmdk(data):
    return deploy(VmdkDecoder(DISK), data)


def qcow2(data):
    return deploy(Qcow2Decoder(len(data), DISK, can_fetch=False), data)


def guest(size):
    source = random.Random(5)
    words = [source.randbytes(source.randrange(1, 12)) for _ in range(300)]
    out = bytearray()
    while len(out) < size:
        out += source.choice(words)
    return bytes(out[:size])


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


FAULTS = (ImageDamaged, ImageUnsafe, ImageType, ImageTooLarge)


def attempt(read, data):
    """The guest disk, or None where the image is refused."""
    try:
        return read(data)
    except FAULTS:
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
        (tmp_path / "changed").write_bytes(changed)
        argv = ["qemu-img", "convert", "-O", "raw", tmp_path / "changed", tmp_path / "out"]
        accepted = subprocess.run(argv, check=False, capture_output=True, timeout=60).returncode == 0
        ours = attempt(read, changed)
        refused += ours is None
        assert ours is None or (accepted and ours == (tmp_path / "out").read_bytes()), f"at byte {at}"
    assert refused
