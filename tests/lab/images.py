"""Images to deploy: real systems from packaging/dev, in every type that a job may name, kept outside of the checkout.

A file in the cache is named for the image it was made from, whose name changes with the packages and the scripts, and
for the way it was made. What has not been asked for in two weeks is removed. All of it blocks.
"""

import functools
import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zstandard

from agent.units import GiB
from tests.kit.commands import run
from tests.kit.ova import convert, make_ova

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "byoi-agent/lab"
STALE_SECONDS = 14 * 86400
RECIPES = 1
"""To be raised when a recipe below changes."""


def _zst(raw: Path, path: Path) -> None:
    with raw.open("rb") as source, path.open("wb") as sink:
        zstandard.ZstdCompressor(level=3, threads=2).copy_stream(source, sink, size=raw.stat().st_size)


def _qcow2(*options: str) -> Callable[[Path, Path], object]:
    return lambda raw, path: convert(raw, path, "-O", "qcow2", *options)


def _qcow2_8gib(raw: Path, path: Path) -> None:
    """The image as one of 8 GiB: there is nothing behind its last partition."""
    large = path.with_suffix(".raw")
    try:
        run("cp", "--sparse=always", raw, large)
        large.chmod(0o600)
        os.truncate(large, 8 * GiB)
        run("sgdisk", "--move-second-header", large)
        _qcow2("-c", "-m", "4", "-W")(large, path)
    finally:
        large.unlink(missing_ok=True)


def _vmdk_zip(raw: Path, path: Path) -> None:
    """A streamOptimized VMDK in a zip, as it is handed on."""
    disk = path.with_suffix(".vmdk")
    try:
        convert(raw, disk, "-O", "vmdk", "-o", "subformat=streamOptimized")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            packed.write(disk, "disk.vmdk")
    finally:
        disk.unlink(missing_ok=True)


def _ova(raw: Path, path: Path) -> None:
    make_ova(raw, path, manifest="good")
    path.with_suffix(".vmdk").unlink()


FORMS: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "raw": ("raw", lambda raw, path: path.symlink_to(raw)),
    "qcow2": ("qcow2", _qcow2()),
    "qcow2-zlib": ("qcow2", _qcow2("-c", "-m", "4", "-W")),
    "qcow2-zstd": ("qcow2", _qcow2("-c", "-m", "4", "-W", "-o", "compression_type=zstd")),
    "qcow2-8gib": ("qcow2", _qcow2_8gib),
    "ova": ("ova", _ova),
    "raw.zst": ("raw", _zst),
    "vhdx": ("vhdx", lambda raw, path: convert(raw, path, "-O", "vhdx")),
    "vmdk.zip": ("vmdk", _vmdk_zip),
}
"""Of each form the job's `type`, and how it is made of a raw image."""


@dataclass(frozen=True)
class LabImage:
    """A file to deploy, and the disk it stands for."""

    path: Path
    raw: Path
    type: str

    @property
    def virtual_size(self) -> int:
        return self.raw.stat().st_size

    @functools.cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def raw_image(system: str, table: str, sector_size: int, *, esp: bool, full: bool) -> Path:
    """A raw image: the `cloud` image or the `probe`. Built if need be, which takes minutes for the first."""
    options = ["--table", table, "--sector-size", str(sector_size), *([] if esp else ["--no-esp"])]
    options += ["--full"] if full else []
    return Path(run("sh", ROOT / f"packaging/dev/{system}-image", *options).splitlines()[-1])


@functools.cache
def image(
    system: str, table: str, sector_size: int, form: str, *, esp: bool = True, full: bool = False
) -> LabImage:
    """An image in a form (see FORMS)."""
    raw = raw_image(system, table, sector_size, esp=esp, full=full)
    kind, make = FORMS[form]
    path = CACHE / f"{raw.stem}-{RECIPES}.{form}"
    if form == "raw":
        return LabImage(raw, raw, kind)
    CACHE.mkdir(parents=True, exist_ok=True)
    _drop_stale()
    if not path.exists():
        # A name of its own for each process: what bears the final name is whole, and stays what it is. Of two runs at
        # the same time the first wins; no two of them make the same bytes.
        scratch = CACHE / f"{os.getpid()}-{path.name}"
        try:
            make(raw, scratch)
            with suppress(FileExistsError):
                path.hardlink_to(scratch)
        finally:
            scratch.unlink(missing_ok=True)
    os.utime(path)
    return LabImage(path, raw, kind)


def _drop_stale() -> None:
    for path in CACHE.iterdir():
        if path.is_file() and path.stat().st_mtime < time.time() - STALE_SECONDS:
            path.unlink()


def check_tools() -> None:
    """The ring cannot run without these; packaging/dev/setup installs them.

    Raises:
        FileNotFoundError: one is missing, by name.
    """
    for tool in ("qemu-system-x86_64", "qemu-img", "docker-registry", "ssh", "ssh-keygen", "setpriv"):
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"{tool} is missing: run packaging/dev/setup")
