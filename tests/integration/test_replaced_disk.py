"""Another disk under the name of the one that was examined: it is refused, and left as it was."""

import os
from pathlib import Path

import pytest

from agent.units import MiB
from tests.kit.disks import DIRT, DISK_SIZE, make_disk
from tests.kit.images import Image, make_image
from tests.kit.server import Request, serving

OTHER = b"\x5a"


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.mark.parametrize("grown", [0, 8 * MiB], ids=["same-size", "other-size"])
def test_a_file_that_is_replaced_after_it_was_examined_is_left_alone(
    tmp_path: Path, image, start_write, grown: int
):
    disk, other = tmp_path / "disk", tmp_path / "other"
    make_disk(disk, DISK_SIZE, DIRT)
    make_disk(other, DISK_SIZE + grown, OTHER)

    def answer(request: Request) -> None:
        if request.number == 0:
            other.replace(disk)
        request.file(image.data)

    with serving(answer) as server:
        outcome = start_write(disk, server.url, image.sha256).finish()
    assert (outcome.status, outcome.error["code"]) == (1, "disk.io"), outcome.err
    assert f"{disk}: it is another disk now than when it was examined" in outcome.error["message"]
    assert outcome.document["stage"] == "claim"
    assert disk.read_bytes() == OTHER * (DISK_SIZE + grown)


def test_a_file_that_grows_after_it_was_examined_is_left_alone(tmp_path: Path, image, start_write):
    make_disk(disk := tmp_path / "disk", DISK_SIZE, DIRT)

    def answer(request: Request) -> None:
        os.truncate(disk, DISK_SIZE + MiB)
        request.file(image.data)

    with serving(answer) as server:
        outcome = start_write(disk, server.url, image.sha256).finish()
    assert (outcome.status, outcome.error["code"]) == (1, "disk.io"), outcome.err
    assert "its size changed" in outcome.error["message"]
    assert disk.read_bytes() == DIRT * DISK_SIZE + bytes(MiB)
