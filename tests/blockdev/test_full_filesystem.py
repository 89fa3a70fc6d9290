"""A file in the disk's place, on a filesystem that runs full."""

import os

from agent.units import MiB
from tests.kit.commands import run


def test_a_full_filesystem_is_named_and_no_disk_is_suspected(byoi, image_maker, tmp_path):
    image, where = image_maker.gpt(), tmp_path / "small"
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where)
    try:
        disk = where / "disk.img"
        disk.touch()
        os.truncate(disk, 64 * MiB)
        outcome = byoi("write", "--url", image.path, "--type", "raw", "--disk", disk, "--json")
        assert (outcome.status, outcome.error["code"]) == (1, "image.write"), outcome.err
        assert outcome.error["hint"].startswith(
            f"The filesystem that {disk} is on (mounted at {where}) is full: "
        )
        assert "SMART" not in outcome.err
        assert outcome.error["diskState"] == "empty"
    finally:
        run("umount", where)
