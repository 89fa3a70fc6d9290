"""Images of every type through the whole job onto a dirty disk: what arrives is what qemu-img would have written."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

import pytest
import zstandard

from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.kit.images import Image, Piece
from tests.kit.ova import convert, make_ova

SIZE = 80 * MiB
DIRTY = b"\xa5" * SIZE
"""A disk before a deployment."""
BLOCK = 256 * KiB

QCOW2 = {
    "plain": (),
    "old": ("-o", "compat=0.10"),
    "zlib": ("-c",),
    "zstd": ("-c", "-o", "compression_type=zstd"),
    "small-clusters": ("-o", "cluster_size=4k"),
    "extended-l2": ("-o", "extended_l2=on,cluster_size=128k"),
    "out-of-order": ("-W", "-m", "16"),
}
# Everything else that qemu-img makes in one file: the job's type, and the options that make it.
OTHERS = {
    "vmdk-stream": ("vmdk", "-O", "vmdk", "-o", "subformat=streamOptimized"),
    "vmdk-stream-6": ("vmdk", "-O", "vmdk", "-o", "subformat=streamOptimized,compat6=on"),
    "vmdk-sparse": ("vmdk", "-O", "vmdk", "-o", "subformat=monolithicSparse"),
    "vmdk-sparse-zeroed": ("vmdk", "-O", "vmdk", "-S", "0", "-o", "zeroed_grain=on,adapter_type=lsilogic"),
    "vmdk-sparse-out-of-order": ("vmdk", "-O", "vmdk", "-W", "-m", "16"),
    "vhd-dynamic": ("vhd", "-O", "vpc", "-o", "subformat=dynamic"),
    "vhd-dynamic-size": ("vhd", "-O", "vpc", "-o", "subformat=dynamic,force_size=on"),
    "vhd-fixed": ("vhd", "-O", "vpc", "-o", "subformat=fixed,force_size=on"),
    "vhdx-dynamic": ("vhdx", "-O", "vhdx", "-o", "subformat=dynamic"),
    "vhdx-fixed": ("vhdx", "-O", "vhdx", "-o", "subformat=fixed,block_size=1M"),
    "vdi-dynamic": ("vdi", "-O", "vdi"),
    "vdi-static": ("vdi", "-O", "vdi", "-o", "static=on"),
}


def packed_by(command):
    """Packs the file disk.raw, as a person would."""

    def pack(data):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "disk.raw").write_bytes(data)
            # Holes where the disk has zeros, for tar to see.
            subprocess.run(["fallocate", "--dig-holes", "disk.raw"], cwd=directory, check=True)
            return subprocess.run(
                ["sh", "-ec", command], cwd=directory, capture_output=True, check=True
            ).stdout

    return pack


PACK = {
    "gz": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor(level=1).compress,
    "pzst": lambda data: (
        subprocess.run(["pzstd", "-q", "-p", "2"], input=data, capture_output=True, check=True).stdout
    ),
    "lz4": packed_by("lz4 -q -c disk.raw"),
    "tar.gz": packed_by("tar -Sczf - disk.raw"),  # as Google's cloud wants them
    "tar.xz": packed_by("XZ_OPT=-0 tar -cJf - disk.raw"),  # as Debian publishes them
    "zip": packed_by("echo of 2026 >README; zip -q -1 - README disk.raw"),
}


@pytest.fixture
def check(byoi, web, tmp_path):
    """Deploy a file as `kind` and compare the disk with the raw image that it was made from."""

    def deploy_and_compare(path, kind, raw: Image, url=None):
        """Without a `kind` the job has no type; the server at the default URL gives no ranges."""
        disk = tmp_path / "disk.img"
        disk.write_bytes(DIRTY)
        job = tmp_path / "job.json"
        job.write_text(
            json.dumps(
                {
                    "URL": url or web.publish(path, path.name),
                    **({} if kind is None else {"type": kind}),
                    "checkSum": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "checkSumType": "sha256",
                    "configdrive": {"enable": True, "hostname": "h1"},
                    # In whatever order a format brings it: what was written is known again.
                    "verify": "readback",
                }
            )
        )
        outcome = byoi("write", job, "--disk", disk, "--json")
        assert outcome.status == 0, outcome.err
        assert outcome.document["readBack"] == "readback"
        assert "No problems found" in run("sgdisk", "-v", disk)
        # Between the tables at both ends of the image, where all partitions are, every byte is the image's.
        between = (MiB, raw.size - 2 * MiB)
        assert Image(disk).read(*between) == raw.read(*between)
        return outcome

    return deploy_and_compare


@pytest.mark.parametrize("layout", QCOW2)
def test_a_qcow2_image_is_deployed(check, gpt_image, tmp_path, layout):
    path = convert(gpt_image.path, tmp_path / "image.qcow2", "-O", "qcow2", *QCOW2[layout])
    check(path, "qcow2", gpt_image)


@pytest.mark.parametrize("layout", OTHERS)
def test_an_image_of_another_hypervisor_is_deployed(check, gpt_image, tmp_path, layout):
    kind, *options = OTHERS[layout]
    outcome = check(convert(gpt_image.path, tmp_path / "image", *options), kind, gpt_image)
    assert (outcome.document["imageType"], outcome.document["imagePacking"]) == (kind, None)


@pytest.mark.parametrize(
    "layout", ["raw", "qcow2", "ova", "vmdk-stream", "vhd-dynamic", "vhdx-dynamic", "vdi-dynamic"]
)
def test_without_a_type_the_content_decides(check, gpt_image, tmp_path, layout):
    kind, *options = OTHERS.get(layout, (layout, "-O", layout))
    path = tmp_path / "image"
    if kind == "ova":
        make_ova(gpt_image.path, path, manifest="right")
    else:
        convert(gpt_image.path, path, *options)
    document = check(path, None, gpt_image).document
    assert (document["imageType"], document["imagePacking"]) == (kind, None)
    assert "type" not in document["job"]


@pytest.mark.parametrize("packing", ["gz", "zst", "tar.gz"])
def test_without_a_type_what_is_inside_of_a_compressed_file_decides(check, gpt_image, tmp_path, packing):
    plain = convert(gpt_image.path, tmp_path / "plain", *OTHERS["vmdk-sparse"][1:])
    path = tmp_path / "image"
    path.write_bytes(PACK[packing](plain.read_bytes()))
    document = check(path, None, gpt_image).document
    words = {"gz": "gzip", "zst": "zstd", "tar.gz": "tar in gzip"}
    assert (document["imageType"], document["imagePacking"]) == ("vmdk", words[packing])


@pytest.mark.parametrize(
    ("kind", "way", "found"),
    [
        (None, "seekable", "vhd"),
        ("raw", "seekable", "raw"),
        (None, "web", "raw"),
        ("vhd", "gz", "vhd"),
    ],
)
def test_a_fixed_vhd_is_known_by_its_end_or_else_by_its_type(check, gpt_image, tmp_path, kind, way, found):
    """Without either it is a raw image whose last sector has no meaning."""
    path = convert(gpt_image.path, tmp_path / "image", *OTHERS["vhd-fixed"][1:])
    if way == "gz":
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    url = path.as_uri() if way == "seekable" else None
    assert check(path, kind, gpt_image, url).document["imageType"] == found


@pytest.mark.parametrize("packing", [None, "gz", "tar.gz"])
def test_what_a_raw_image_has_of_zeros_takes_no_room_in_a_file(byoi, web, gpt_image, tmp_path, packing):
    content = gpt_image.path.read_bytes()
    data = sum(any(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK)) * BLOCK
    assert data < len(content) // 2
    path, disk = tmp_path / "image", tmp_path / "disk.img"
    path.write_bytes(content if packing is None else PACK[packing](content))
    url = web.publish(path, path.name)
    assert byoi("write", "--url", url, "--type", "raw", "--disk", disk, "--size", SIZE).status == 0
    assert disk.read_bytes()[MiB : gpt_image.size - MiB] == content[MiB : gpt_image.size - MiB]
    assert disk.stat().st_blocks * 512 <= data + 4 * MiB  # both ends, and the drive


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_compressed_image_is_deployed(check, gpt_image, tmp_path, kind, packing):
    plain = gpt_image.path
    if kind == "qcow2":
        plain = convert(plain, tmp_path / "plain.qcow2", "-O", "qcow2")
    path = tmp_path / f"image.{packing}"
    path.write_bytes(PACK[packing](plain.read_bytes()))
    check(path, kind, gpt_image)


@pytest.mark.parametrize("packing", ["gz", "bz2"])
def test_a_trailer_as_openwrt_appends_it_is_a_note(check, gpt_image, tmp_path, packing):
    path = tmp_path / f"image.{packing}"
    path.write_bytes(
        PACK[packing](gpt_image.path.read_bytes()) + b'{"metadata_version": "1.1"}FWx0' + bytes(12)
    )
    (note,) = [note for note in check(path, "raw", gpt_image).document["notes"] if "passed over" in note]
    assert "43 bytes follow" in note


@pytest.mark.parametrize("manifest", ["right"])
def test_an_ova_is_deployed(check, gpt_image, tmp_path, manifest):
    outcome = check(make_ova(gpt_image.path, tmp_path / "image.ova", manifest=manifest), "ova", gpt_image)
    assert not any("OVA" in note for note in outcome.document["notes"])


def test_an_ova_that_nothing_closes_is_deployed_with_a_note(check, gpt_image, tmp_path):
    path = make_ova(gpt_image.path, tmp_path / "image.ova", manifest="right")
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    os.truncate(path, last.offset_data + last.size + -last.size % 512)
    outcome = check(path, "ova", gpt_image)
    assert [note for note in outcome.document["notes"] if "OVA" in note] == [
        "the OVA ends without the blocks of zeros that close it; its manifest says that all is there"
    ]


def refused(byoi, tmp_path, path, kind, *options):
    disk = tmp_path / "disk.img"
    disk.write_bytes(DIRTY)
    kinds = () if kind is None else ("--type", kind)
    outcome = byoi("write", "--url", path, *kinds, "--disk", disk, "--json", *options)
    assert outcome.status == 1
    return outcome.error, disk.read_bytes()


@pytest.mark.parametrize("kind", ["vmdk", None])
@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_vmdk_of_several_files_is_refused_untouched(byoi, gpt_image, tmp_path, subformat, kind):
    made = tmp_path / "made"
    made.mkdir()
    path = convert(gpt_image.path, made / "d.vmdk", "-O", "vmdk", "-o", f"subformat={subformat}")
    error, disk = refused(byoi, tmp_path, path, kind)
    assert (error["code"], error["message"]) == (
        "image.unsafe",
        "The image was refused by the check vmdk_extent.",
    )
    assert subformat in error["detail"]
    assert "subformat=streamOptimized" in error["hint"]
    assert disk == DIRTY


def test_the_flat_extent_of_a_vmdk_is_a_raw_image(check, gpt_image, tmp_path):
    convert(gpt_image.path, tmp_path / "d.vmdk", "-O", "vmdk", "-o", "subformat=monolithicFlat")
    assert check(tmp_path / "d-flat.vmdk", None, gpt_image).document["imageType"] == "raw"


@pytest.mark.parametrize("layout", ["vmdk-stream", "vhd-dynamic", "vhdx-dynamic", "vdi-dynamic"])
def test_an_empty_disk_larger_than_the_target_is_refused_untouched(byoi, tmp_path, layout):
    kind, _, driver, *options = OTHERS[layout]
    run("qemu-img", "create", "-q", "-f", driver, *options, tmp_path / "image", "1T")
    error, disk = refused(byoi, tmp_path, tmp_path / "image", None)
    assert error["code"] == "image.size"
    assert disk == DIRTY
    run("qemu-img", "create", "-q", "-f", driver, *options, tmp_path / "image", "64M")
    error, disk = refused(byoi, tmp_path, tmp_path / "image", None)
    assert error["code"] == "image.no_table"
    assert f"is not of type {kind} because no partition table was found" in error["message"]
    assert disk == DIRTY


def test_an_ova_with_a_wrong_manifest_is_never_bootable(byoi, gpt_image, tmp_path):
    path = make_ova(gpt_image.path, tmp_path / "image.ova", manifest="wrong")
    error, disk = refused(byoi, tmp_path, path, "ova")
    assert error["blame"] == "image"
    assert not any(disk[:MiB])
    assert not any(disk[-MiB:])


def test_a_qcow2_with_a_backing_file_is_refused_untouched(byoi, gpt_image, tmp_path):
    base = convert(gpt_image.path, tmp_path / "base.qcow2", "-O", "qcow2")
    path = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
    error, disk = refused(byoi, tmp_path, path, "qcow2")
    assert error["code"] == "image.unsafe"
    assert "backing_file" in error["message"]
    assert disk == DIRTY


def test_a_qcow2_larger_than_the_disk_is_refused_untouched(byoi, tmp_path):
    path = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1T")
    error, disk = refused(byoi, tmp_path, path, "qcow2")
    assert error["code"] == "image.size"
    assert error["message"].startswith(f"image provided has a size of `{1024**4}` bytes which is larger than")
    assert disk == DIRTY


def test_an_empty_qcow2_has_no_partition_table(byoi, tmp_path):
    path = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    error, disk = refused(byoi, tmp_path, path, "qcow2")
    assert error["code"] == "image.no_table"
    assert disk == DIRTY


@pytest.mark.parametrize(
    ("content", "kind", "code", "found"),
    [
        ("raw", "qcow2", "image.type", "raw"),
        ("qcow2", "raw", "image.no_table", "qcow2"),
        ("qcow2", "ova", "image.type", "qcow2"),
        ("gz-qcow2", "raw", "image.no_table", "qcow2"),
        ("gz-raw", "qcow2", "image.type", "raw"),
        ("html", "qcow2", "image.type", "html"),
        ("raw", "vhd", "image.type", "raw"),
        ("raw", "vmdk", "image.type", "raw"),
        ("gz-qcow2", "vdi", "image.type", "qcow2"),
        ("html", None, "image.no_table", "html"),
        ("gz-html", None, "image.no_table", "html"),
    ],
)
def test_content_of_another_type_is_named(byoi, gpt_image, tmp_path, content, kind, code, found):
    path = tmp_path / "image"
    data = b"<!DOCTYPE html><html><body>login</body></html>" * 40
    if content.endswith("raw"):
        data = gpt_image.path.read_bytes()
    elif content.endswith("qcow2"):
        data = convert(gpt_image.path, tmp_path / "made", "-O", "qcow2").read_bytes()
    path.write_bytes(gzip.compress(data, 1) if content.startswith("gz-") else data)
    error, disk = refused(byoi, tmp_path, path, kind)
    assert error["code"] == code
    assert f"`{found}`" in error["message"]
    assert disk == DIRTY


def test_two_disks_in_an_archive_are_refused_by_both_names(byoi, gpt_image, tmp_path):
    (tmp_path / "one.raw").write_bytes(gpt_image.path.read_bytes())
    (tmp_path / "two.raw").write_bytes(gpt_image.path.read_bytes())
    run("tar", "-C", tmp_path, "-cf", tmp_path / "image.tar", "one.raw", "two.raw")
    error, disk = refused(byoi, tmp_path, tmp_path / "image.tar", "raw")
    assert error["code"] == "image.unsafe"
    assert "'one.raw' and 'two.raw'" in error["detail"]
    assert not any(disk[:MiB] + disk[-MiB:])


def test_an_archive_of_other_things_is_refused_untouched(byoi, tmp_path):
    (tmp_path / "README").write_text("nothing here")
    run("tar", "-C", tmp_path, "-czf", tmp_path / "image.tar.gz", "README")
    error, disk = refused(byoi, tmp_path, tmp_path / "image.tar.gz", "raw")
    assert "archive_image" in error["message"]
    assert "'README' (text)" in error["detail"]
    assert disk == DIRTY


def test_a_disk_in_a_tar_that_is_too_large_is_refused_untouched(byoi, gpt_image, tmp_path):
    large = tmp_path / "disk.raw"
    large.write_bytes(gpt_image.path.read_bytes())
    os.truncate(large, 1024**3)
    run("tar", "-C", tmp_path, "-Sczf", tmp_path / "image.tar.gz", "disk.raw")
    error, disk = refused(byoi, tmp_path, tmp_path / "image.tar.gz", "raw")
    assert error["code"] == "image.size"
    assert f"`{1024**3}` bytes" in error["message"]
    assert disk == DIRTY


def test_a_gzip_bomb_is_refused_once_it_passes_the_disk(byoi, gpt_image, tmp_path):
    """2 GiB of zeros behind an image. A flushed piece of a stream depends on none before it, so one is made for all."""
    image, zeros = zlib.compressobj(1, wbits=31), zlib.compressobj(1, wbits=-15)
    content = image.compress(gpt_image.path.read_bytes()) + image.flush(zlib.Z_FULL_FLUSH)
    path = tmp_path / "image.gz"
    path.write_bytes(content + (zeros.compress(bytes(MiB)) + zeros.flush(zlib.Z_FULL_FLUSH)) * 2048)
    error, disk = refused(byoi, tmp_path, path, "raw")
    assert error["code"] == "image.size"
    assert not any(disk[:MiB])


@pytest.mark.parametrize("kind", ["qcow2", "raw", "ova", "tar", "zip", "vmdk-stream", "vmdk-sparse", "vhd-dynamic",
    "vhdx-dynamic", "vdi-dynamic"])  # fmt: skip
def test_a_truncated_image_is_never_bootable(byoi, gpt_image, tmp_path, kind):
    path = tmp_path / "image"
    if kind == "raw":
        path.write_bytes(gzip.compress(gpt_image.path.read_bytes(), 1))
    elif kind in ("tar", "zip"):
        pack = packed_by("tar -cf - disk.raw" if kind == "tar" else "zip -q -1 - disk.raw")
        path.write_bytes(pack(gpt_image.path.read_bytes()))
        kind = "raw"
    elif kind == "ova":
        make_ova(gpt_image.path, path, manifest="right")
    elif kind == "qcow2":
        convert(gpt_image.path, path, "-O", "qcow2", "-c")
    else:
        kind, *options = OTHERS[kind]
        convert(gpt_image.path, path, *options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    error, disk = refused(byoi, tmp_path, path, kind)
    assert error["code"] == "image.damaged"
    # What preflight can see already is refused before the first write.
    assert disk == DIRTY or not any(disk[:MiB] + disk[-MiB:])


def test_a_truncated_fixed_vhd_is_refused_untouched(byoi, gpt_image, tmp_path):
    path = convert(gpt_image.path, tmp_path / "image", *OTHERS["vhd-fixed"][1:])
    os.truncate(path, path.stat().st_size - 512)
    error, disk = refused(byoi, tmp_path, path, "vhd")
    assert error["code"] == "image.type"
    assert "does not end with the footer" in error["detail"]
    assert disk == DIRTY


def reversed_qcow2(raw: Image, path):
    """Written from the end to the start, as qemu would for a guest that does: the partition table comes last."""
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(raw.size))
    piece = path.with_suffix(".piece")
    data = raw.path.read_bytes()
    for offset in range(raw.size - MiB, -1, -MiB):
        # Zeros too, so that the file is long enough for its head to say nothing about the table.
        piece.write_bytes(data[offset : offset + MiB])
        run("qemu-io", "-f", "qcow2", "-c", f"write -q -s {piece} {offset} {MiB}", path)
    return path


def test_a_qcow2_whose_first_bytes_come_last_is_deployed(check, gpt_image, tmp_path):
    check(reversed_qcow2(gpt_image, tmp_path / "image.qcow2"), "qcow2", gpt_image)


def test_what_such_an_image_lacks_is_told_before_the_commit(byoi, image_maker, tmp_path):
    no_esp = image_maker.gpt((Piece(1, 1, "noise", "type=linux"), Piece(10, 30, "ext4", "type=linux")))
    path = reversed_qcow2(no_esp, tmp_path / "image.qcow2")
    error, disk = refused(byoi, tmp_path, path, "qcow2", "--firmware", "uefi")
    assert error["code"] == "boot.esp"
    assert not any(disk[:MiB] + disk[-MiB:])
    assert disk[2 * MiB : -MiB] != b"\xa5" * (SIZE - 3 * MiB)
