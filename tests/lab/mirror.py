"""A server whose disks are the halves of a mirror: `byoi write` makes them here, and what starts from them reports.

The system is packaging/dev/mirror-image; packaging/dev/mirror/report has what it says.
"""

import base64
import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.formats.tables.mirror import root_of
from agent.formats.tables.read import Table, read_table
from agent.units import GiB, MiB
from tests.kit.byoi import Running
from tests.kit.commands import run
from tests.lab import probe
from tests.lab.disks import Disk, make_dirty
from tests.lab.images import ROOT
from tests.lab.machine import Spec, machine

BOOT_SECONDS = 600
MEMORY_MIB = 768
SIZES = (GiB + 512 * MiB, GiB + 576 * MiB)
CHUNK = 64 * MiB
"""What a bit of the array's bitmap stands for."""


@functools.cache
def image(*options: str, sector_size: int = 512) -> Path:
    """The raw image, built if need be; with options of its script."""
    script = ROOT / "packaging/dev/mirror-image"
    return Path(run("sh", script, *options, "--sector-size", sector_size).splitlines()[-1])


@dataclass(frozen=True)
class Halves:
    """The two disks, as raw files."""

    paths: tuple[Path, Path]
    sector_size: int
    image_root_end: int

    def copy(self, directory: Path) -> "Halves":
        """Copies of both, for a machine to change."""
        directory.mkdir(exist_ok=True)
        first, second = (directory / path.name for path in self.paths)
        for path, copy in zip(self.paths, (first, second), strict=True):
            run("cp", "--sparse=always", path, copy)
        return Halves((first, second), self.sector_size, self.image_root_end)

    def table(self, half: int) -> Table:
        """The table that a disk has now."""
        with self.paths[half].open("rb") as disk:
            table = read_table(disk.read(MiB), self.sector_size)
        assert table is not None
        return table

    def differing(self, size: int) -> list[int]:
        """Where the first `size` bytes of the roots differ: offsets of MiB."""
        places = [root_of(self.table(half)).start for half in (0, 1)]
        with self.paths[0].open("rb") as first, self.paths[1].open("rb") as second:
            first.seek(places[0])
            second.seek(places[1])
            reads = ((at, min(MiB, size - at)) for at in range(0, size, MiB))
            return [at for at, length in reads if first.read(length) != second.read(length)]


def deploy(source: Path, directory: Path, *, sector_size: int = 512) -> Halves:
    """Write an image onto two dirty disks of different size as a mirror, without a config drive."""
    first, second = (directory / name for name in ("a.raw", "b.raw"))
    for path, size in zip((first, second), SIZES, strict=True):
        make_dirty(path, size)
    running = Running(
        "write", "--url", source, "--raid", "raid1", "--disk", first, "--disk", second, "--quiet"
    )
    try:
        outcome = running.finish()
    finally:
        running.kill()
    assert outcome.status == 0, outcome.err
    with source.open("rb") as file:
        table = read_table(file.read(MiB), sector_size)
    assert table is not None
    return Halves((first, second), sector_size, root_of(table).end)


def zero_superblock(halves: Halves, number: int) -> None:
    """As docs/raid.md has it, in a rescue system: the half is a member no more."""
    root = root_of(halves.table(number))
    loop = run(
        "losetup", "--find", "--show", "--offset", root.start, "--sizelimit", root.size, halves.paths[number]
    ).strip()
    try:
        run("mdadm", "--zero-superblock", loop)
    finally:
        run("losetup", "--detach", loop)


def disks(paths: Sequence[Path], *, sector_size: int = 512) -> tuple[Disk, ...]:
    """Disks in the order in which the machine has them; it starts from the first."""
    return tuple(
        Disk(path=path, name=f"disk-{path.stem}", sector_size=sector_size, boots=not number)
        for number, path in enumerate(paths)
    )


def spec(paths: Sequence[Path], firmware: str, *, sector_size: int = 512, task: str = "") -> Spec:
    """The machine with these disks; `task` is a shell script that the system runs before it looks at its array."""
    encoded = base64.b64encode(task.encode()).decode()
    return Spec(
        firmware=firmware,
        disks=disks(paths, sector_size=sector_size),
        memory_mib=MEMORY_MIB,
        network=False,
        oem_strings=(f"task={encoded}",) if task else (),
    )


async def start(
    paths: Sequence[Path], firmware: str, *, sector_size: int = 512, task: str = ""
) -> probe.Report:
    """Start a machine from the first of the disks; gives the report, once it has powered itself off."""
    async with machine(spec(paths, firmware, sector_size=sector_size, task=task)) as server:
        await server.serial.wait_for(probe.END, BOOT_SECONDS)
        assert await server.wait_off(BOOT_SECONDS) == "guest-shutdown"
        return probe.read_report(server.serial.text)


def written(report: probe.Report) -> list[int]:
    """Bytes that the machine wrote to each of its disks, until its array was in sync."""
    return [int(word.split(":")[1]) * 512 for word in report.said["written"].split()]


def members(report: probe.Report, key: str = "mdstat") -> str:
    """The array's members as md draws them: `[UU]` for both, `[U_]` for the first alone."""
    found = [word for word in report.decoded(key).split() if word in ("[UU]", "[U_]", "[_U]")]
    assert len(found) == 1, report.decoded(key)
    return found[0]


def remove(*halves: Halves) -> None:
    """Remove the files: they are large, and pytest would keep them."""
    for half in halves:
        shutil.rmtree(half.paths[0].parent)
