"""A qcow2 whose clusters lie in random order: thousands of short writes, many of them on their way at a time."""

import dataclasses
import os
import signal
import threading

import pytest

from agent.units import MiB
from tests.blockdev.conftest import ENDS
from tests.kit.fragments import fragment
from tests.kit.images import Piece
from tests.kit.server import serving

SIZE = 48 * MiB
NOISE = (Piece(1, 46, "noise", "type=linux"),)
NO_DRIVE = {"enable": False}


@pytest.fixture
def fragmented(images, tmp_path):
    """An image, and the same in fragments: fragmented(bits, sector_size)."""

    def make(bits: int, sector_size: int = 512):
        raw = images.gpt(NOISE, sector_size=sector_size)
        path = tmp_path / "image.qcow2"
        fragment(raw.path, path, bits)
        return raw, dataclasses.replace(raw, path=path)

    return make


def assert_deployed(disk, raw) -> None:
    """All of the image is there, but for the ends, which are fitted to the disk."""
    assert disk.read(ENDS, raw.size - 2 * ENDS) == raw.read(ENDS, raw.size - 2 * ENDS)


@pytest.mark.parametrize(("sector_size", "bits"), [(512, 10), (512, 16), (4096, 12)])
def test_every_cluster_reaches_its_place(fragmented, make_disk, deploy, sector_size, bits):
    raw, image = fragmented(bits, sector_size)
    disk = make_disk(raw.size, sector_size)
    outcome = deploy(image, disk.device, type="qcow2", configdrive=NO_DRIVE)
    assert outcome.status == 0, outcome.err
    assert_deployed(disk, raw)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_deployment_that_ends_between_them_leaves_no_disk_that_boots(
    fragmented, make_disk, start_byoi, deploy, number
):
    raw, image = fragmented(12)
    disk = make_disk(raw.size)
    content = image.path.read_bytes()
    with serving(lambda request: request.file(content, pause=0.05)) as server:
        command = start_byoi(
            "write", "--url", server.url, "--type", "qcow2", "--checksum", f"sha256:{image.sha256}",
            "--disk", disk.device, "--json",
        )  # fmt: skip
        command.wait_for("write: begins")
        threading.Event().wait(0.3)
        command.process.send_signal(number)
        outcome = command.finish()
    if number == signal.SIGKILL:
        assert outcome.status == -number
    else:
        assert (outcome.status, outcome.error["code"]) == (130, "job.cancelled"), outcome.err
    assert disk.cannot_boot()
    assert deploy(image, disk.device, type="qcow2", configdrive=NO_DRIVE).status == 0
    assert_deployed(disk, raw)


def test_the_write_that_failed_is_told(fragmented, small_tmpfs, loop_device, deploy):
    _, image = fragmented(12)
    file = small_tmpfs / "disk.img"
    file.touch()
    os.truncate(file, SIZE)
    outcome = deploy(image, loop_device(file), type="qcow2", configdrive=NO_DRIVE)
    assert outcome.status == 1
    assert outcome.error["code"] == "image.write"
    assert "No space left on device" in outcome.error["detail"]
    assert int(outcome.error["detail"].partition("at byte ")[2].partition(":")[0]) % 4096 == 0
