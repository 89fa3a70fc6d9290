"""Images to deploy: whole systems that other products' tools have made, small enough for a test each."""

import functools
import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.kit.disks import DIRT, DISK_SIZE, make_disk
from tests.kit.loops import sector_size_of

BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
# Any jump and something behind it: what a loader's first sector looks like from outside. 440 bytes, as a BIOS runs.
BOOT_CODE = b"\xeb\x63\x90" + bytes(range(1, 256)) + bytes(range(1, 183))
NOISE = random.Random(1).randbytes(MiB + 1)
"""Of an odd length: where it is repeated no two MiB are alike."""
IMAGE_SIZE = 16 * MiB


class Piece(NamedTuple):
    """A partition of an image.

    Attributes:
        start: in MiB.
        size: in MiB.
        content: a kind of filesystem that is made here, perhaps with `:` and its label behind; `noise`; or nothing.
        table: its fields for sfdisk.
    """

    start: int
    size: int
    content: str
    table: str


@dataclass(frozen=True)
class Image:
    """An image file. `pieces` are its partitions, in the order in which they were given."""

    path: Path
    sector_size: int = 512
    pieces: tuple[Piece, ...] = ()

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @functools.cached_property
    def data(self) -> bytes:
        """All of the file, kept: for images of some MiB."""
        return self.path.read_bytes()

    @functools.cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


BIOS_PIECE = Piece(1, 1, "noise", f'type={BIOS_BOOT},name="BIOS boot"')
ESP_PIECE = Piece(2, 8, "esp", 'type=uefi,name="EFI",attrs="RequiredPartition"')
ROOT_PIECE = Piece(10, 30, "ext4", 'type=linux,name="rôot",attrs="LegacyBIOSBootable,GUID:60"')
# Behind the last partition there is room for a config drive, so that a disk of just the image's size has it.
GPT_PIECES = (BIOS_PIECE, ESP_PIECE, ROOT_PIECE)
MBR_PIECES = (Piece(1, 8, "esp", "type=ef"), Piece(9, 30, "ext4", "type=83,bootable"))
SIZE_MIB = 48

Attach = Callable[[Path, int], Path]


def make_image(directory: Path, size: int = IMAGE_SIZE) -> Image:
    """A system with random bytes wherever its filesystems have none of their own."""
    return Image(make_system(directory / "image.raw", size, NOISE, "new-root"))


def make_old_disk(directory: Path, size: int = DISK_SIZE) -> bytes:
    """All of a disk with another system on it, and 0xA5 wherever that system left no mark."""
    return make_system(directory / "old.raw", size, DIRT, "old-root").read_bytes()


def make_system(path: Path, size: int, fill: bytes, name: str) -> Path:
    """Make a file of `size` bytes that holds `fill`, repeated, and over it the system of `install_system`."""
    install_system(make_disk(path, size, fill), name)
    return path


def install_system(disk: Path, name: str) -> None:
    """Put a small bootable system on all of a disk. The label of its root tells one system from another."""
    with disk.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
    pieces = (
        Piece(1, 1, "", f"type={BIOS_BOOT}"),
        Piece(2, 4, "esp", "type=uefi"),
        Piece(6, size // MiB - 7, f"ext4:{name}", "type=linux"),
    )
    install(disk, "gpt", pieces)


def install(disk: Path, label: str, pieces: tuple[Piece, ...], *, boot_code: bool = True) -> None:
    """Put a partition table, boot code and filesystems on a disk, and leave alone every byte that is none of theirs.

    Args:
        disk: a file, or a block device, whose sector size the table then has.
        label: `gpt` or `dos`.
        pieces: the partitions.
        boot_code: whether the first sector has any.
    """
    sector_size = sector_size_of(disk) if disk.is_block_device() else 512
    script = _script(label, pieces, sector_size)
    run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", "--wipe=never", disk, stdin=script)
    with disk.open("r+b") as file:
        file.write(BOOT_CODE if boot_code else b"")
        for piece in pieces:
            file.seek(piece.start * MiB)
            data = _filled(piece, file.read(piece.size * MiB), sector_size)
            file.seek(piece.start * MiB)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _script(label: str, pieces: tuple[Piece, ...], sector_size: int) -> str:
    scale = MiB // sector_size
    lines = [f"start={p.start * scale},size={p.size * scale},{p.table}" for p in pieces]
    return "\n".join([f"label: {label}", "unit: sectors", *lines]) + "\n"


def _filled(piece: Piece, before: bytes, sector_size: int) -> bytes:
    """What fills a partition that held `before`."""
    kind, _, name = piece.content.partition(":")
    if kind == "":
        return before
    if kind == "noise":
        return random.Random(len(before)).randbytes(len(before))
    with tempfile.TemporaryDirectory() as directory:
        path, tree = Path(directory, "filesystem"), Path(directory, "tree")
        path.write_bytes(before)
        tree.mkdir()
        _FILESYSTEMS[kind](path, tree, sector_size, name)
        os.truncate(path, len(before))
        return path.read_bytes()


def _grow(tree: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _ext4(path: Path, tree: Path, _: int, name: str) -> None:
    kernel = random.Random(1).randbytes(min(3 * MiB, path.stat().st_size // 4))
    _grow(tree, {"etc/hostname": f"{name}\n".encode(), "boot/vmlinuz": kernel, "usr/empty": b""})
    label = name or "rootfs"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", 4096, "-E", "nodiscard", "-L", label, "-d", tree, path)


def _esp(path: Path, tree: Path, sector_size: int, _: str) -> None:
    _grow(tree, {"EFI/BOOT/BOOTX64.EFI": b"MZ" + random.Random(2).randbytes(100 * KiB)})
    run("mkfs.vfat", "-S", sector_size, "-n", "ESP", path)
    run("mcopy", "-s", "-i", path, tree / "EFI", "::")


_OLD_DRIVE = {"openstack/latest/user_data": b"of an earlier deployment"}


def _old_iso(path: Path, tree: Path, *_: object) -> None:
    _grow(tree, _OLD_DRIVE)
    path.unlink()
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "config-2", "-J", "-R", "-o", path, tree)


def _old_fat(path: Path, tree: Path, sector_size: int, _: str) -> None:
    _grow(tree, _OLD_DRIVE)
    run("mkfs.vfat", "-S", sector_size, "-n", "CONFIG-2", path)
    run("mcopy", "-s", "-i", path, tree / "openstack", "::")


_FILESYSTEMS: Mapping[str, Callable[[Path, Path, int, str], None]] = {
    "ext4": _ext4,
    "esp": _esp,
    "old-iso": _old_iso,
    "old-fat": _old_fat,
}


@dataclass
class ImageMaker:
    """Makes image files of every kind in a directory, each once.

    Tables with 4096-byte sectors take a loop device over the file: root, and a function `attach(file, sector size)`.
    """

    directory: Path
    made: dict[object, Image] = field(default_factory=dict)

    def gpt(self, pieces: tuple[Piece, ...] = GPT_PIECES, **options: Any) -> Image:
        return self.make("gpt", pieces, **options)

    def mbr(self, pieces: tuple[Piece, ...] = MBR_PIECES, **options: Any) -> Image:
        return self.make("dos", pieces, **options)

    def make(
        self,
        label: str,
        pieces: tuple[Piece, ...],
        *,
        size_mib: int = SIZE_MIB,
        sector_size: int = 512,
        boot_code: bool = True,
        attach: Attach | None = None,
    ) -> Image:
        key = (label, pieces, size_mib, sector_size, boot_code)
        if key not in self.made:
            path = self.directory / f"{label}-{sector_size}-{len(self.made)}.raw"
            path.touch()
            os.truncate(path, size_mib * MiB)
            disk = path if sector_size == 512 or attach is None else attach(path, sector_size)
            install(disk, label, pieces, boot_code=boot_code)
            self.made[key] = Image(path, sector_size, pieces)
        return self.made[key]
