"""An image that lies on its own target, or is it: refused before the first write, whatever name it goes by."""

import os
from pathlib import Path

import pytest

from agent.aio import run_blocking
from agent.errors import DiskSame
from agent.host.inventory import describe_path
from agent.host.same import shared_storage
from agent.model.job import parse_job
from agent.stages.context import Context
from agent.stages.preflight import probe_image
from agent.stages.targets import Target
from agent.transfer.open import open_source
from agent.units import MiB
from tests.kit.commands import run
from tests.kit.partitions import add_partition, remove_partition

BEFORE = 40 * MiB


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing.img"
    path.write_bytes(b"\xa5" * BEFORE)
    return path


def refused(byoi, source: object, target: object, *more: object) -> dict:
    outcome = byoi(
        *("write", "--url", Path(str(source)).absolute().as_uri(), "--type", "raw"),
        *("--disk", target, "--json", *more),
    )
    assert outcome.status == 2, outcome.err
    assert (outcome.error["code"], outcome.error["diskState"]) == ("disk.same", "untouched"), outcome.err
    assert "Copy the image to another disk" in outcome.err
    return outcome.error


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
def test_image_and_target_are_one_file(byoi, image_maker, tmp_path, link):
    image = tmp_path / "image.raw"
    image.write_bytes(image_maker.gpt().path.read_bytes())
    before = image.read_bytes()
    other = tmp_path / "other" if link != "itself" else image
    if link == "symbolic":
        other.symlink_to(image)
    elif link == "hard":
        os.link(image, other)
    assert "is the target" in refused(byoi, image, other)["message"]
    refused(byoi, other, image)
    assert image.read_bytes() == before


async def test_what_counts_is_the_file_that_was_opened(backing):
    """The name may lead to the target only after the plan was made."""
    job = parse_job({"URL": backing.as_uri(), "type": "raw"})
    source = open_source(job.url)
    target = await run_blocking(describe_path, str(backing))
    ctx = Context(job=job, targets=(Target(target),), source=source, drive=None, drive_tree={}, note=print)
    try:
        with pytest.raises(DiskSame, match="is the target"):
            await probe_image(ctx)
    finally:
        await source.close()
        ctx.close()


def test_a_dry_run_refuses_it_too(byoi, backing):
    outcome = byoi("write", "--url", backing, "--type", "raw", "--disk", backing, "--dry-run")
    assert outcome.status == 2
    assert "refused [disk.same]" in outcome.out


def test_a_device_its_partition_and_what_is_made_of_them(byoi, loop_device, partition_node, backing):
    before = backing.read_bytes()
    disk = loop_device(backing)
    assert "is the target" in refused(byoi, disk, disk)["message"]
    add_partition(disk, 1, MiB, 20 * MiB)
    try:
        part = partition_node(disk, 1)
        assert f"{part} lies on the target" in refused(byoi, part, disk)["message"]
        above = loop_device(part)  # a loop device over the partition
        assert f"{above} lies on the target" in refused(byoi, above, disk)["message"]
        assert f"the target {above} lies on {part}" in refused(byoi, part, above)["message"]
        refused(byoi, disk, above)
        run("losetup", "--detach", above)
    finally:
        remove_partition(disk, 1)
    assert backing.read_bytes() == before


def test_a_loop_device_and_the_file_that_it_is_made_of(byoi, loop_device, backing):
    disk = loop_device(backing)
    assert "lies on" in refused(byoi, backing, disk)["message"]
    assert "lies on the target" in refused(byoi, disk, backing)["message"]


def test_a_file_on_a_filesystem_of_the_target(byoi, loop_device, backing, tmp_path):
    disk = loop_device(backing)
    run("mkfs.ext4", "-q", disk)
    where = tmp_path / "mounted"
    where.mkdir()
    run("mount", disk, where)
    try:
        image = where / "image.raw"
        image.write_bytes(bytes(MiB))
        assert f"{image} lies on the target" in refused(byoi, image, disk)["message"]
        refused(byoi, image, backing)
        other = where / "other"
        other.write_bytes(bytes(MiB))
        assert shared_storage(str(image), str(other)) is None  # neighbours share nothing
        assert "lies on" in (shared_storage(str(disk), str(other)) or "")
    finally:
        run("umount", where)


def test_what_shares_nothing(byoi, loop_device, backing, tmp_path):
    second = tmp_path / "second.img"
    second.write_bytes(bytes(MiB))
    disk, other = loop_device(backing), loop_device(second)
    for source, target in ((second, backing), (disk, other), (second, disk), (other, backing)):
        assert shared_storage(str(source), str(target)) is None
