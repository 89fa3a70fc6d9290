"""What a layer begins as, by its bytes alone."""

import bz2
import gzip
import io
import lzma
import random
import tarfile

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.oci.look import LOOK_BYTES, MEMBER_BYTES, look_at, look_at_member
from tests.kit.registry import container_layer

QCOW2 = b"QFI\xfb\0\0\0\3" + bytes(100_000)
NOISE = random.Random(3).randbytes(2 * LOOK_BYTES)


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress, zstandard.compress])
def test_a_disk_however_it_is_packed(pack):
    look = look_at(pack(QCOW2 + NOISE)[:LOOK_BYTES])
    assert (look.content, look.is_disk, look.is_archive) == ("qcow2", True, False)


def test_how_it_is_told():
    assert str(look_at(gzip.compress(QCOW2))) == "qcow2 in gzip"
    layer = container_layer("disk/image.qcow2", QCOW2)
    assert str(look_at(layer)) == "tar in gzip with disk/image.qcow2"


@pytest.mark.parametrize("packed", [True, False])
def test_a_container_disk(packed):
    look = look_at(container_layer("disk/fedora.img", NOISE, packed=packed)[:LOOK_BYTES])
    assert (look.is_disk, look.is_archive, look.member) == (True, True, "disk/fedora.img")


def test_a_disk_in_an_archive_is_known_by_its_content_elsewhere_too():
    look = look_at(tar_of(("README", tarfile.REGTYPE, b"text"), ("boot/a", tarfile.REGTYPE, QCOW2 + NOISE)))
    assert (look.member, look.is_disk) == ("boot/a", True)


def test_a_layer_of_a_system_is_no_disk():
    system = tar_of(("bin/sh", tarfile.REGTYPE, b"\x7fELF" + bytes(600)), ("lib", tarfile.SYMTYPE, b""))
    look = look_at(gzip.compress(system + tar_of(("disk/a.img", tarfile.REGTYPE, QCOW2))))
    assert (look.is_archive, look.is_disk) == (True, False)


def test_what_cannot_be_inflated_may_be_a_disk():
    broken = b"\x1f\x8b" + NOISE[:1000]
    assert (look_at(broken).content, look_at(broken).is_disk) == ("gzip", True)


@pytest.mark.parametrize("data", [b"", b"SHA256 (x) = 00\n", b"{}", b"<html>", bytes(1000), NOISE[:5000]])
def test_other_files(data):
    look = look_at(data)
    assert not look.is_disk
    assert not look.is_archive


def test_a_bomb_is_inflated_no_further_than_needed():
    bomb = gzip.compress(bytes(300 * LOOK_BYTES))
    assert look_at(bomb).content == "zeros"


@given(
    st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0", b"QFI\xfb"]),
    st.binary(max_size=700),
)
def test_any_bytes_can_be_looked_at(magic, data):
    assert str(look_at(magic + data))


def test_an_archive_is_looked_through_from_member_to_member():
    text = b"text" * 500
    data = tar_of(
        ("a.img", tarfile.REGTYPE, QCOW2 + NOISE),
        ("d", tarfile.DIRTYPE, b""),
        ("README", tarfile.REGTYPE, text),
        ("b.gz", tarfile.REGTYPE, gzip.compress(b"")),
    )
    offset, names = 0, []
    while (member := look_at_member(data[offset : offset + MEMBER_BYTES])) is not None:
        name, length = member
        names.append(name)
        offset += length
    assert names == ["a.img", None, None, "b.gz"]
    assert data[offset:].strip(b"\0") == b""


@pytest.mark.parametrize("data", [b"", bytes(1024), b"\xff" * 1024, tar_of(("l", tarfile.SYMTYPE, b""))])
def test_what_is_no_member(data):
    assert look_at_member(data) is None
