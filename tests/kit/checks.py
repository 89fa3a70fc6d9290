"""What a disk holds after a deployment, by the word of other tools than ours."""

import functools
import json
from pathlib import Path

from agent.units import MiB
from tests.kit import loops
from tests.kit.commands import attempt, run
from tests.kit.images import BOOT_CODE, Image


def what_is_on(disk: Path, old: bytes) -> str:
    """Which state a deployment has left.

    Returns:
        `old`: untouched to the last byte. `blank`: both ends are zero. `headless`: the first sector is zero and more
        is not. `system`: there is a first sector, be the rest whole or not.
    """
    data = disk.read_bytes()
    assert len(data) == len(old)
    if data == old:
        return "old"
    if data[:MiB] == data[-MiB:] == bytes(MiB):
        return "blank"
    return "system" if any(data[:512]) else "headless"


def assert_nothing_boots(disk: Path) -> None:
    """No tool finds a table or a filesystem where a firmware would look."""
    seen = attempt("blkid", "--probe", "--output", "export", disk)
    assert (seen.returncode, seen.stdout) == (2, ""), seen.stdout
    listed = attempt("sfdisk", "--json", disk)
    assert listed.returncode != 0
    assert "does not contain a recognized partition table" in listed.stderr
    assert "Creating new GPT entries in memory" in run("sgdisk", "--print", disk)


def partitions(path: Path) -> list[tuple[int, int, str]]:
    """Start and size in bytes and the name of each partition, as sfdisk sees them."""
    table = json.loads(run("sfdisk", "--json", path))["partitiontable"]
    unit = table["sectorsize"]
    return [(p["start"] * unit, p["size"] * unit, p.get("name", "")) for p in table["partitions"]]


@functools.cache
def partitions_of(image: Image) -> list[tuple[int, int, str]]:
    """Those of an image. Sectors of another size than 512 take a loop device, as sfdisk asks the disk for it."""
    if image.sector_size == 512:
        return partitions(image.path)
    loop = loops.attach(image.path, image.sector_size, read_only=True)
    try:
        return partitions(loop.device)
    finally:
        loop.detach()


def assert_complete(disk: Path, image: Image, scratch: Path) -> None:
    """The disk holds the whole verified system and a config drive. `scratch` is a directory to work in."""
    assert_system(disk, image)
    drive = scratch / "drive"
    drive.write_bytes(config_drive(disk))
    assert run("blkid", "-p", "-o", "value", "-s", "LABEL", drive).strip() == "config-2"


def assert_system(disk: Path, image: Image) -> None:
    """The disk holds the whole system, and besides it nothing but perhaps a config drive behind it."""
    assert "No problems found" in run("sgdisk", "--verify", disk)
    own = partitions_of(image)
    assert own
    found = partitions(disk)
    assert found[: len(own)] == own
    assert [name for *_, name in found[len(own) :]] in ([], ["config-2"])
    data = disk.read_bytes()
    assert data[: len(BOOT_CODE)] == BOOT_CODE
    # The tables, of which one has moved, are in the first and in the last MiB.
    assert data[MiB : image.size - MiB] == image.data[MiB:-MiB]


def config_drive(disk: Path) -> bytes:
    """All that is in the partition of the config drive."""
    start, length, name = partitions(disk)[-1]
    assert name == "config-2"
    with disk.open("rb") as file:
        file.seek(start)
        return file.read(length)
