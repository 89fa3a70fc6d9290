"""Zips by Info-ZIP and bsdtar, from files and from a pipe, in every chunking."""

import subprocess

import pytest

from agent.errors import ImageUnsafe
from agent.formats.archives.unpack import Archive
from agent.formats.detect import sniff
from agent.units import KiB
from tests.kit.archives import MOST, disk_bytes, unpack

DISK = disk_bytes(400 * KiB)

MADE_BY = {
    "zip": "zip -q - disk.raw",
    "zip -0": "zip -q -0 image.zip disk.raw && cat image.zip",
    "zip, a file": "zip -q -9 image.zip README disk.raw && cat image.zip",
    "zip, a directory": "mkdir d && cp disk.raw d && zip -q -r image.zip d && cat image.zip",
    "zip, a pipe": "cat disk.raw | zip -q - -",
    "zip, zip64": "zip -q -fz image.zip disk.raw && cat image.zip",
    "bsdtar": "bsdtar --format=zip -cf image.zip README disk.raw && cat image.zip",
}


def made(directory, command):
    (directory / "disk.raw").write_bytes(DISK)
    (directory / "README").write_text("read me")
    done = subprocess.run(["sh", "-ec", command], cwd=directory, capture_output=True, check=True, timeout=30)
    return done.stdout


@pytest.mark.parametrize("maker", MADE_BY)
def test_the_image_comes_back(tmp_path, maker):
    data = made(tmp_path, MADE_BY[maker])
    assert sniff(data[: 128 * KiB]) == "zip"
    for step in (7, 511, 4096, None):
        assert unpack(Archive("zip", MOST), data, step) == DISK


def test_byte_by_byte(tmp_path):
    for maker in ("zip, a pipe", "zip -0"):
        (directory := tmp_path / maker.replace(",", "")).mkdir()
        assert unpack(Archive("zip", MOST), made(directory, MADE_BY[maker]), 1) == DISK


def test_an_encrypted_one_is_refused(tmp_path):
    data = made(tmp_path, "zip -q -P secret image.zip disk.raw && cat image.zip")
    with pytest.raises(ImageUnsafe, match="encryption"):
        unpack(Archive("zip", MOST), data)


def test_one_that_was_split_is_refused(tmp_path):
    data = made(
        tmp_path, "head -c 200000 /dev/urandom >>disk.raw; zip -q -s 64k image.zip disk.raw; cat image.z01"
    )
    # A split zip begins with a mark of its own, so it is not taken for a whole one.
    assert sniff(data) != "zip"
