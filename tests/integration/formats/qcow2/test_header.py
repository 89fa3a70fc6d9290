import struct
import subprocess

import pytest

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.extent import ImageTooLarge
from agent.formats.qcow2.decoder import Qcow2Decoder, Qcow2Limits
from agent.formats.qcow2.header import HEADER_BYTES, read_header
from agent.units import GiB, KiB, MiB, TiB

BACKING_OFFSET, CLUSTER_BITS, SIZE, ENCRYPTION, L1_SIZE, L1_OFFSET = 8, 20, 24, 32, 36, 40
REFCOUNT_OFFSET, REFCOUNT_CLUSTERS, SNAPSHOTS, SNAPSHOTS_OFFSET = 48, 56, 60, 64
FEATURES, COMPATIBLE, AUTOCLEAR, REFCOUNT_ORDER, HEADER_LENGTH, COMPRESSION = 72, 80, 88, 96, 100, 104
AES = "encrypt.format=aes,encrypt.key-secret=s"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The bytes of an image as qemu-img makes it: version 3, 64 KiB clusters, 8 MiB, nothing in it."""
    path = tmp_path_factory.mktemp("qcow2") / "real.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"], check=True)
    return path.read_bytes()


def patched(file, *changes):
    file = bytearray(file)
    for form, offset, value in changes:
        struct.pack_into(form, file, offset, value)
    return file


def refusal(file, *, known=True, limits=None):
    """The error, and that nothing was given before it."""
    fields = {} if limits is None else {"limits": limits}
    decoder = Qcow2Decoder(len(file) if known else None, 64 * MiB, can_fetch=True, **fields)
    extents = decoder.feed(memoryview(file))
    with pytest.raises(DeployError) as caught:
        next(extents)
    return caught.value


def check_of(file, **fields):
    error = refusal(file, **fields)
    assert isinstance(error, ImageUnsafe)
    assert error.detail
    return error.message.removeprefix("The image was refused by the check ").removesuffix(".")


def test_a_real_header_is_read(real):
    header = read_header(real[:HEADER_BYTES], len(real))
    assert (header.version, header.virtual_size, header.cluster_size) == (3, 8 * MiB, 64 * KiB)
    assert (header.extended_l2, header.codec) == (False, "deflate")
    assert (header.unit, header.l2_entry, header.table_span) == (64 * KiB, 8, 512 * MiB)


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("version", [(">I", 4, 1)]),
        ("version", [(">I", 4, 4)]),
        ("cluster_size", [(">I", CLUSTER_BITS, 8)]),
        ("cluster_size", [(">I", CLUSTER_BITS, 22)]),
        ("cluster_size", [(">I", CLUSTER_BITS, 0xFFFFFFFF)]),
        ("cluster_size", [(">I", CLUSTER_BITS, 12), (">Q", FEATURES, 16)]),
        ("backing_file", [(">Q", BACKING_OFFSET, 0x200), (">I", 16, 11)]),
        ("encryption", [(">I", ENCRYPTION, 1)]),
        ("encryption", [(">I", ENCRYPTION, 2)]),
        ("encryption", [(">I", ENCRYPTION, 77)]),
        ("corrupt", [(">Q", FEATURES, 2)]),
        ("data_file", [(">Q", FEATURES, 4)]),
        ("unknown_features", [(">Q", FEATURES, 32)]),
        ("unknown_features", [(">Q", FEATURES, 1 << 63)]),
        ("compression_type", [(">B", COMPRESSION, 2), (">Q", FEATURES, 8)]),
        ("compression_type", [(">B", COMPRESSION, 1)]),
        ("compression_type", [(">Q", FEATURES, 8)]),
        ("header_length", [(">I", HEADER_LENGTH, 72)]),
        ("header_length", [(">I", HEADER_LENGTH, 64 * KiB + 8)]),
        ("refcount_order", [(">I", REFCOUNT_ORDER, 7)]),
        ("virtual_size", [(">Q", SIZE, (1 << 63) + 512)]),
        ("virtual_size", [(">Q", SIZE, 1024 * TiB + 512)]),
        ("virtual_size", [(">Q", SIZE, 8 * MiB - 1)]),
        ("l1_size", [(">Q", SIZE, 512 * MiB + 512)]),
        ("l1_size", [(">I", L1_SIZE, 0)]),
        ("l1_size", [(">I", L1_SIZE, 4 * 1024 * 1024 + 1)]),
        ("l1_size", [(">Q", SIZE, 256 * TiB)]),
        ("l1_table", [(">Q", L1_OFFSET, 0)]),
        ("l1_table", [(">Q", L1_OFFSET, 512)]),
        ("l1_table", [(">Q", L1_OFFSET, 1 << 40)]),
        ("refcount_table", [(">Q", REFCOUNT_OFFSET, 0)]),
        ("refcount_table", [(">Q", REFCOUNT_OFFSET, 100)]),
        ("refcount_table", [(">Q", REFCOUNT_OFFSET, 1 << 40)]),
        ("refcount_table", [(">I", REFCOUNT_CLUSTERS, 0)]),
        ("refcount_table", [(">I", REFCOUNT_CLUSTERS, 0xFFFFFFFF)]),
        ("refcount_table", [(">Q", REFCOUNT_OFFSET, 192 * KiB)]),
        ("snapshot_table", [(">I", SNAPSHOTS, 1), (">Q", SNAPSHOTS_OFFSET, 0)]),
        ("snapshot_table", [(">I", SNAPSHOTS, 1), (">Q", SNAPSHOTS_OFFSET, 8)]),
        ("snapshot_table", [(">I", SNAPSHOTS, 1), (">Q", SNAPSHOTS_OFFSET, 1 << 40)]),
        ("snapshot_table", [(">I", SNAPSHOTS, 1 << 31), (">Q", SNAPSHOTS_OFFSET, 64 * KiB)]),
    ],
)
def test_a_hostile_header_is_refused_by_its_check_before_any_extent(real, check, changes):
    assert check_of(patched(real, *changes)) == check


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        ("backing_file", ["-b", "base.qcow2", "-F", "qcow2", "image"]),
        ("data_file", ["-o", "data_file=data.raw", "image", "8M"]),
        ("encryption", ["--object", "secret,id=s,data=x", "-o", AES, "image", "8M"]),
    ],
)
def test_real_images_that_need_another_file_or_a_key_are_refused(real, tmp_path, check, arguments):
    (tmp_path / "base.qcow2").write_bytes(real)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments], check=True, cwd=tmp_path)
    assert check_of((tmp_path / "image").read_bytes()) == check


def test_a_refusal_tells_what_to_do(real):
    assert "qemu-img convert" in refusal(patched(real, (">Q", BACKING_OFFSET, 0x200))).hint
    assert "qemu-img check" in refusal(patched(real, (">Q", FEATURES, 2))).hint


def test_tables_may_be_anywhere_while_the_length_of_the_file_is_not_known(real):
    file = patched(real, (">Q", L1_OFFSET, 1 << 40))
    decoder = Qcow2Decoder(None, 64 * MiB, can_fetch=False)
    assert list(decoder.feed(memoryview(file))) == []
    with pytest.raises(ImageDamaged, match=r"before the L1 table at 1099511627776"):
        list(decoder.finish())


@pytest.mark.parametrize(
    "changes",
    [
        [(">Q", FEATURES, 1)],  # dirty
        [(">Q", COMPATIBLE, 0xFFFF_FFFF_FFFF_FFFF)],
        [(">Q", AUTOCLEAR, 0xFFFF_FFFF_FFFF_FFFF)],
        [(">I", HEADER_LENGTH, 104)],
        [(">I", HEADER_LENGTH, 4096)],
        [(">I", 112, 0x12345678), (">I", 116, 0xFFFFFFFF)],  # an extension that reaches out of the header
        [(">I", 16, 0xFFFFFFFF)],  # the length of a backing file's name, without one
        [(">I", REFCOUNT_ORDER, 0)],
    ],
)
def test_what_does_not_matter_to_a_reader_is_ignored(real, changes):
    decoder = Qcow2Decoder(len(real), 64 * MiB, can_fetch=False)
    extents = [*decoder.feed(memoryview(patched(real, *changes))), *decoder.finish()]
    assert [(extent.offset, extent.length) for extent in extents] == [(0, 8 * MiB)]


@pytest.mark.parametrize("magic", [b"QFI\xfa", b"\0\0\0\0", b"KDMV"])
def test_another_magic_is_damage(real, magic):
    error = refusal(magic + real[4:])
    assert isinstance(error, ImageDamaged)
    assert magic.hex() in error.message


def test_a_guest_disk_larger_than_the_target_is_told_with_its_size(real):
    decoder = Qcow2Decoder(len(real), 8 * MiB - 512, can_fetch=True)
    with pytest.raises(ImageTooLarge) as caught:
        list(decoder.feed(memoryview(real)))
    assert caught.value.size == decoder.virtual_size == 8 * MiB


def test_the_virtual_size_is_known_as_soon_as_the_header_is_in(real):
    decoder = Qcow2Decoder(None, GiB, can_fetch=False)
    for position in range(HEADER_BYTES):
        assert decoder.virtual_size is None
        assert list(decoder.feed(memoryview(real)[position : position + 1])) == []
    assert decoder.virtual_size == 8 * MiB


def test_limits_are_arguments(real):
    assert check_of(real, limits=Qcow2Limits(virtual_size=4 * MiB)) == "virtual_size"
    assert check_of(patched(real, (">I", L1_SIZE, 8)), limits=Qcow2Limits(l1_bytes=32)) == "l1_size"


def test_a_file_that_ends_in_its_header_is_damaged(real):
    for length in (0, 4, 71, HEADER_BYTES - 1):
        decoder = Qcow2Decoder(length, 64 * MiB, can_fetch=False)
        assert list(decoder.feed(memoryview(real)[:length])) == []
        with pytest.raises(ImageDamaged, match=f"ends at byte {length}, inside of its header"):
            list(decoder.finish())
