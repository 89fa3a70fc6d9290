import bz2
import gzip
import lzma
import os
import subprocess
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.detect import SNIFF_BYTES, sniff
from agent.units import MiB


def run(*argv):
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


def head(path) -> bytes:
    with path.open("rb") as file:
        return file.read(SNIFF_BYTES)


@pytest.fixture
def disk(tmp_path):
    """A disk image with an MBR."""
    path = tmp_path / "disk.raw"
    path.touch()
    os.truncate(path, 16 * MiB)
    script = "label: dos\nstart=2048,type=83\n"
    subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True, capture_output=True)
    return path


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_partition_table_is_raw(disk, label):
    script = f"label: {label}\nstart=2048,type=linux\n"
    subprocess.run(["sfdisk", "-q", disk], input=script, text=True, check=True, capture_output=True)
    assert sniff(head(disk)) == "raw"


def test_a_damaged_gpt_is_still_a_partition_table(disk):
    run("sgdisk", "--zap-all", disk)
    run("sgdisk", "--clear", disk)
    data = bytearray(head(disk))
    data[512 + 16] ^= 0xFF
    assert sniff(bytes(data)) == "raw"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow2", ("-o", "compat=1.1")),
        ("qcow2", ("-c",)),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vmdk", ("-o", "subformat=monolithicSparse")),
        ("vmdk", ("-o", "subformat=twoGbMaxExtentSparse")),
        ("vhdx", ()),
        ("vdi", ()),
        ("vpc", ()),
        ("qcow", ()),
    ],
)
def test_images_of_virtual_machines_as_qemu_makes_them(disk, tmp_path, kind, options):
    image = tmp_path / "image"
    run("qemu-img", "convert", "-O", kind, *options, disk, image)
    assert sniff(head(image)) == {"vpc": "vhd"}.get(kind, kind)


@pytest.mark.parametrize("filesystem", ["ext2", "ext4", "vfat"])
def test_a_bare_filesystem_is_no_disk_image(tmp_path, filesystem):
    path = tmp_path / "filesystem"
    path.touch()
    os.truncate(path, 16 * MiB)
    run(f"mkfs.{filesystem}", path)
    assert sniff(head(path)) == filesystem


def test_compressed_files(disk, tmp_path):
    data = head(disk)
    packed = {"gzip": gzip.compress(data), "bzip2": bz2.compress(data), "xz": lzma.compress(data)}
    with zipfile.ZipFile(tmp_path / "image.zip", "w") as archive:
        archive.write(disk)
    packed["lzma"] = lzma.compress(data, lzma.FORMAT_ALONE)
    packed["zip"] = head(tmp_path / "image.zip")
    packed["zstd"] = subprocess.run(["zstd", "-qc", disk], check=True, capture_output=True).stdout
    for kind, content in packed.items():
        assert sniff(content) == kind
    # It begins with a frame that is to be skipped.
    parallel = subprocess.run(["pzstd", "-qc", "-p", "2", disk], check=True, capture_output=True).stdout
    assert parallel[:4] != packed["zstd"][:4]
    assert sniff(parallel) == "zstd"


@pytest.mark.parametrize("form", ["ustar", "gnu", "pax"])
def test_an_ova_is_a_tar_that_begins_with_its_ovf(tmp_path, form):
    (tmp_path / "machine.ovf").write_text("<Envelope/>")
    (tmp_path / "readme").write_text("x")
    for first, kind in (("machine.ovf", "ova"), ("readme", "tar")):
        run("tar", "-C", tmp_path, f"--format={form}", "-cf", tmp_path / "archive", first)
        assert sniff(head(tmp_path / "archive")) == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "nothing"),
        (bytes(4096), "zeros"),
        (b"<!DOCTYPE html><html>", "html"),
        (b"\r\n  <HTML lang=en>", "html"),
        (b"\xef\xbb\xbf<!doctype HTML>", "html"),
        (b'<?xml version="1.0"?><Error/>', "xml"),
        (b"<Error><Code>AccessDenied</Code></Error>", "xml"),
        (b'{"message": "not found"}', "json"),
        (b"404 page not found\n", "text"),
        (b"# Disk DescriptorFile\nversion=1\n", "vmdk"),
        (b"%PDF-1.7\n", "pdf"),
        (b"\x7fELF\x02\x01\x01", "elf"),
        (b"\x00\x01\x02\x03garbage\xff", "unknown data"),
        (b"QED\0" + bytes(64), "qed"),
        (b"LZIP\x01\x0c" + bytes(64), "lzip"),
        (b"WithoutFreeSpace" + bytes(48), "parallels"),
        (b"encrcdsa" + bytes(64), "dmg"),
        (b"\x89LZO\0\r\n\x1a\n\x10", "lzop"),
        (b"\x1f\x9d\x90abc", "compress"),
        (b"070701000", "cpio"),
        (b"]" + bytes(64), "unknown data"),
        (b"]\x00\x00\x80\x00" + bytes(range(1, 60)), "unknown data"),
    ],
)
def test_other_things_that_servers_answer_with(content, kind):
    assert sniff(content) == kind


@given(st.binary(max_size=2048))
def test_any_bytes_get_a_name(data):
    assert sniff(data)


@given(st.binary(max_size=64), st.sampled_from([510, 512, 4096]))
def test_any_bytes_with_the_signature_of_an_mbr_get_a_name(data, offset):
    content = bytearray(8192)
    content[446 : 446 + len(data)] = data
    content[510:512] = b"\x55\xaa"
    content[offset : offset + 8] = b"EFI PART" if offset != 510 else content[510:518]
    assert sniff(bytes(content)) in ("raw", "unknown data")
