"""Disks to deploy to: loop devices over dirty files, and what the system's tools say of them afterwards."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.units import MiB
from tests.integration.conftest import byoi, deploy, image_maker, make_job, start_byoi, start_write, web
from tests.kit.commands import run
from tests.kit.images import Image, ImageMaker

__all__ = ["byoi", "deploy", "image_maker", "make_job", "start_byoi", "start_write", "web"]

DIRT = 0xA5
ENDS = MiB
"""What of either end of the disk is held back until the commit."""


@dataclass(frozen=True)
class Entry:
    """A partition as sfdisk dumps it; start and size in bytes, the other fields as they are written there."""

    number: int
    start: int
    size: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class LoopDisk:
    """A loop device over a file."""

    file: Path
    device: Path
    size: int
    sector_size: int

    def read(self, offset: int, length: int) -> bytes:
        with self.device.open("rb") as device:
            device.seek(offset)
            return device.read(length)

    def is_filled(self, start: int, end: int, byte: int) -> bool:
        """Whether all bytes from start to end have this value."""
        with self.device.open("rb") as device:
            device.seek(start)
            for at in range(start, end, MiB):
                length = min(MiB, end - at)
                if device.read(length) != bytes([byte]) * length:
                    return False
        return True

    def is_untouched(self) -> bool:
        return self.is_filled(0, self.size, DIRT)

    def cannot_boot(self) -> bool:
        """Both ends are zero."""
        return self.is_filled(0, ENDS, 0) and self.is_filled(self.size - ENDS, self.size, 0)

    def dump(self) -> tuple[list[str], list[Entry]]:
        """The table: its header lines, and its partitions."""
        return dump(self.device)

    def save(self, entry: Entry, path: Path) -> Path:
        """The bytes of a partition as a file."""
        path.write_bytes(self.read(entry.start, entry.size))
        return path


def dump(device: Path) -> tuple[list[str], list[Entry]]:
    """What `sfdisk --dump` says of a disk, with the places in bytes."""
    lines = run("sfdisk", "--dump", device).splitlines()
    sector_size = int(next(line for line in lines if line.startswith("sector-size")).split()[1])
    entries = []
    for line in lines:
        match = re.fullmatch(r"\S*?(\d+) : start= *(\d+), size= *(\d+), (.*)", line)
        if match:
            fields = tuple(re.findall(r'(?:[^,"]|"[^"]*")+', match[4].replace(", ", ",")))
            place = int(match[2]) * sector_size, int(match[3]) * sector_size
            entries.append(Entry(int(match[1]), *place, fields))
    return [line for line in lines if ":" in line and not line.startswith("/")], entries


@pytest.fixture
def images(image_maker, loop_device) -> "Images":
    """The image maker of the session, and what an image's own table says."""
    return Images(image_maker, loop_device)


@dataclass
class Images:
    maker: ImageMaker
    attach: Callable[..., Path]

    def gpt(self, *pieces, **options) -> Image:
        return self.maker.gpt(*pieces, attach=self.attach, **options)

    def mbr(self, *pieces, **options) -> Image:
        return self.maker.mbr(*pieces, attach=self.attach, **options)

    def dump(self, image: Image) -> tuple[list[str], list[Entry]]:
        return dump(self.attach(image.path, image.sector_size, read_only=True))


@pytest.fixture
def make_disk(tmp_path, loop_device) -> Callable[..., LoopDisk]:
    """A disk with 0xA5 in every byte: make_disk(size, sector_size)."""

    def make(size: int, sector_size: int = 512) -> LoopDisk:
        file = tmp_path / f"disk-{len(list(tmp_path.iterdir()))}.img"
        with file.open("wb") as stream:
            for at in range(0, size, MiB):
                stream.write(bytes([DIRT]) * min(MiB, size - at))
        return LoopDisk(file, loop_device(file, sector_size), size, sector_size)

    return make


@pytest.fixture
def read_drive(tmp_path):
    """The files of a config drive by relative path: read_drive(image file, "iso9660" or "vfat")."""

    def read(image: Path, filesystem: str) -> dict[str, bytes]:
        directory = tmp_path / "drive"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        if filesystem == "iso9660":
            run("xorriso", "-osirrox", "on", "-indev", f"stdio:{image}", "-extract", "/", directory)
        else:
            run("mcopy", "-s", "-n", "-i", image, "::*", directory)
        found = {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
        for path in directory.rglob("*"):
            path.chmod(0o755)
        return found

    return read


@pytest.fixture
def small_tmpfs(tmp_path):
    """A filesystem of 24 MiB: less than the image."""
    where = tmp_path / "full"
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=24m", "none", where)
    yield where
    with contextlib.suppress(subprocess.CalledProcessError):
        run("umount", "--lazy", where)
