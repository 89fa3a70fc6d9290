"""A qcow2 with its L1 table behind 3 GiB of data, as `qemu-img resize` leaves it: each way to place them is taken."""

import gzip
import json
import lzma
import os
import struct
from pathlib import Path

import pytest

from agent.units import GiB, MiB
from tests.kit.commands import run
from tests.kit.disks import make_disk
from tests.kit.server import serving

ROOT = Path(__file__).parents[2]
DATA, GUEST = 3 * GiB, 4 * GiB
PIECE = 64 * MiB


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The image, and a directory that holds nothing else."""
    directory = tmp_path_factory.mktemp("late-tables")
    raw, path = directory / "head.raw", directory / "image.qcow2"
    raw.touch()
    os.truncate(raw, GUEST - MiB)
    run("sfdisk", "-q", "--no-tell-kernel", raw, stdin="label: gpt\nsize=64MiB, type=uefi\ntype=linux\n")
    with raw.open("r+b") as file:
        file.truncate(MiB)
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(GUEST - MiB))
    writes = [
        ("-c", f"write -q -P {number + 1} {MiB + number * 64 * MiB} {64 * MiB}")
        for number in range(DATA // PIECE)
    ]
    head = ("-c", f"write -q -s {raw} 0 {MiB}")
    run("qemu-io", "-f", "qcow2", *head, *[word for pair in writes for word in pair], path)
    # A larger L1 table is needed, and goes to the end of the file.
    run("qemu-img", "resize", "-q", path, str(2048 * GiB))
    run("qemu-img", "resize", "-q", "--shrink", path, str(GUEST))
    raw.unlink()
    with path.open("rb") as file:
        l1_offset = struct.unpack(">Q", file.read(48)[40:48])[0]
    assert l1_offset > DATA
    yield path
    path.unlink()


def check(disk):
    """Each 64 MiB piece is of its own byte."""
    with disk.open("rb") as file:
        for number in range(DATA // PIECE):
            file.seek(MiB + number * PIECE)
            assert file.read(MiB) == bytes([number + 1]) * MiB, number
        file.seek(MiB + DATA)
        assert not any(file.read(16 * MiB)), "what the image does not allocate is zero"


def fill(disk, size):
    """A disk that is dirty where the image has no data, and behind it."""
    disk.touch()
    os.truncate(disk, size)
    with disk.open("r+b") as file:
        for offset in (0, MiB + DATA, size - 16 * MiB):
            file.seek(offset)
            file.write(b"\xa5" * (16 * MiB))


def deploy(byoi, url, disk):
    return byoi(
        "write", "--url", url, "--type", "qcow2", "--hostname", "a", "--disk", disk, "--json", "--quiet"
    )


def test_the_tables_are_fetched_where_the_server_gives_ranges(byoi, image, tmp_path):
    disk = tmp_path / "disk.img"
    fill(disk, GUEST + 64 * MiB)
    with serving(lambda request: request.file(image)) as server:
        outcome = deploy(byoi, server.url, disk)
    assert outcome.status == 0, outcome.err
    check(disk)
    disk.unlink()


@pytest.fixture
def no_ranges(image):
    """The URL at a server that answers every request with the whole file."""
    with serving(lambda request: request.file(image, ranges=False)) as server:
        yield server.url


def test_the_data_waits_at_the_end_of_the_disk_without_ranges(byoi, no_ranges, tmp_path):
    disk = tmp_path / "disk.img"
    fill(disk, GUEST + DATA + 256 * MiB)
    outcome = deploy(byoi, no_ranges, disk)
    assert outcome.status == 0, outcome.err
    check(disk)
    with disk.open("rb") as file:
        file.seek(GUEST + 64 * MiB)
        assert not any(file.read(64 * MiB)), "nothing of the image is left where it waited"
    disk.unlink()


def test_where_nothing_is_left_the_message_is_that_of_the_ovh_api(byoi, no_ranges, tmp_path):
    disk = tmp_path / "disk.img"
    fill(disk, GUEST + 64 * MiB)
    outcome = deploy(byoi, no_ranges, disk)
    assert outcome.status == 1
    error = json.loads(outcome.out)["error"]
    assert error["code"] == "image.memory"
    assert error["message"] == "Could not download, qcow2 image is too big to download in memory."
    with disk.open("rb") as file:
        assert not any(file.read(MiB))
        file.seek(-MiB, os.SEEK_END)
        assert not any(file.read())
    disk.unlink()


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_so_it_does_within_a_compressed_file_whose_head_already_has_too_much_data(byoi, tmp_path, compress):
    """Even preflight meets more than may wait, and its L2 table among it, and writes nothing."""
    raw, path = tmp_path / "raw", tmp_path / "image"
    raw.touch()
    os.truncate(raw, 128 * MiB)
    run("sfdisk", "-q", "--no-tell-kernel", raw, stdin="label: gpt\nsize=32MiB, type=uefi\ntype=linux\n")
    with raw.open("r+b") as file:
        for number in range(1, 40):
            file.seek((2 * number + 32) * MiB)
            file.write(bytes([number]) * MiB)
    run("qemu-img", "convert", "-O", "qcow2", raw, path)
    run("qemu-img", "resize", "-q", path, str(2048 * GiB))
    run("qemu-img", "resize", "-q", "--shrink", path, str(128 * MiB))
    with path.open("rb") as file:
        assert struct.unpack(">Q", file.read(48)[40:48])[0] > 39 * MiB
    path.write_bytes(compress(path.read_bytes()))
    assert path.stat().st_size < MiB
    disk = tmp_path / "disk.img"
    make_disk(disk, 256 * MiB)
    outcome = deploy(byoi, path.as_uri(), disk)
    assert outcome.status == 0, outcome.err
    with disk.open("rb") as written, raw.open("rb") as golden:
        for part in (written, golden):
            part.seek(MiB)
        assert written.read(126 * MiB) == golden.read(126 * MiB)
