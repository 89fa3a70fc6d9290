"""Another disk under the name of the one that was examined: it is refused, and left as it was."""

import os
from pathlib import Path

import pytest

from agent.units import MiB
from tests.integration import harness

OTHER = b"\x5a"


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> harness.Image:
    return harness.make_image(tmp_path_factory.mktemp("image"))


@pytest.mark.parametrize("grown", [0, 8 * MiB], ids=["same-size", "other-size"])
def test_a_file_that_is_replaced_after_it_was_examined_is_left_alone(tmp_path: Path, image, grown: int):
    disk, other = tmp_path / "disk", tmp_path / "other"
    harness.dirty(disk, harness.DISK_SIZE, harness.DIRT)
    harness.dirty(other, harness.DISK_SIZE + grown, OTHER)

    def answer(request: harness.Request, number: int) -> None:
        if number == 1:
            other.replace(disk)
        request.file(image.data)

    with harness.serving(answer) as server:
        status, document, words = harness.start_write(disk, server.url, image.sha256, tmp_path).finish()
    assert (status, document["error"]["code"]) == (1, "disk.io"), words
    assert f"{disk}: it is another disk now than when it was examined" in document["error"]["message"]
    assert document["stage"] == "claim"
    assert disk.read_bytes() == OTHER * (harness.DISK_SIZE + grown)


def test_a_file_that_grows_after_it_was_examined_is_left_alone(tmp_path: Path, image):
    harness.dirty(disk := tmp_path / "disk", harness.DISK_SIZE, harness.DIRT)

    def answer(request: harness.Request, _: int) -> None:
        os.truncate(disk, harness.DISK_SIZE + MiB)
        request.file(image.data)

    with harness.serving(answer) as server:
        status, document, words = harness.start_write(disk, server.url, image.sha256, tmp_path).finish()
    assert (status, document["error"]["code"]) == (1, "disk.io"), words
    assert "its size changed" in document["error"]["message"]
    assert disk.read_bytes() == harness.DIRT * harness.DISK_SIZE + bytes(MiB)
