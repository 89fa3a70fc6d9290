"""The images that are deployed, and their recipes.

Of `random`, a GPT and two partitions, all bytes are such that no layer can make them smaller. `system` is a real
system: the Debian cloud image where its path is given, for a smoke something small that can be compressed as well.
"""

import argparse
import hashlib
import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.kit.fragments import fragment

MIB = 1 << 20
SUFFIXES = {"M": MIB, "G": 1 << 30}
EXTRA = 64 * MIB
"""Room on a disk for the config drive and the backup table."""
_SCRIPT = "label: gpt\nsize={esp}MiB, type=uefi\ntype=linux\n"
# A stream cipher over zeros is random enough, and many times faster than the kernel's own generator.
_CIPHER = ("openssl", "enc", "-aes-128-ctr", "-K", "0123456789abcdef" * 2, "-iv", "0" * 32)
_OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:id="f1" ovf:href="disk.vmdk"/></References>
<DiskSection><Info>d</Info><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="{capacity}"
ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
</Envelope>
"""
# The short image is a part of the size of the others: with 2 GiB a connection of 50 MB/s takes seconds for it.
SHORT_PART = 4


@dataclass(frozen=True)
class Image:
    """An image as it is served."""

    path: Path
    kind: str
    """For qemu-img: raw or qcow2."""
    sha256: str
    guest: Path
    """What has to be on the disk afterwards."""

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def guest_size(self) -> int:
        return self.guest.stat().st_size


class Images:
    """Makes each image when it is first asked for, in a directory."""

    def __init__(self, directory: Path, size: int, system: Path | None) -> None:
        """`size` is that of `random`, in bytes; without a `system` one of that size is made."""
        self.directory, self.size, self.system = directory, size, system
        self._made: dict[str, Image] = {}

    def __getitem__(self, recipe: str) -> Image:
        if recipe not in self._made:
            self._made[recipe] = self._make(recipe)
        return self._made[recipe]

    def forget(self, recipe: str) -> None:
        """Make room. What others are made of stays."""
        if recipe not in ("random", "short", "system") and recipe in self._made:
            self._made.pop(recipe).path.unlink()

    def _make(self, recipe: str) -> Image:
        path = self.directory / recipe
        guest = path
        if recipe == "random":
            build_image(path, self.size)
            _run("bmaptool", "--quiet", "create", "-o", f"{path}.bmap", path)
        elif recipe == "short":
            build_image(path, self.size // SHORT_PART)
        elif recipe == "system":
            self._make_system(path)
        elif recipe.startswith("fragments-"):
            guest = self["short"].path
            fragment(guest, path, int(recipe.removeprefix("fragments-")))
        else:
            guest = self["system"].path
            RECIPES[recipe](guest, path)
        return Image(
            path, "qcow2" if recipe.startswith(("qcow2", "fragments")) else "raw", sha256_of(path), guest
        )

    def _make_system(self, path: Path) -> None:
        if self.system:
            # Its holes stay holes: bmaptool takes from them what it need not write.
            _run("cp", "--sparse=always", self.system, path)
        else:
            build_image(path, self.size, compressible=True)


def build_image(path: Path, size: int, *, compressible: bool = False) -> None:
    """Make an image with a GPT: full of bytes that cannot be compressed, or half full of some that can."""
    if compressible:
        piece = bytes(random.Random(1).choices(range(16), k=MIB))
        with path.open("wb") as file:
            for at in range(0, size // 2, MIB):
                file.write(at.to_bytes(8, "big") + piece[8:])
            file.truncate(size)
    else:
        with path.open("wb") as file, subprocess.Popen(_CIPHER, stdin=subprocess.PIPE, stdout=file) as cipher:
            zeros = bytes(MIB)
            for at in range(0, size, MIB):
                cipher.stdin.write(zeros[: size - at])
        if cipher.returncode:
            raise SystemExit(f"openssl failed: {cipher.returncode}")
    script = _SCRIPT.format(esp=min(64, size // MIB // 4))
    subprocess.run(["sfdisk", "--quiet", "--no-tell-kernel", path], input=script, text=True, check=True)


def size_from(text: str) -> int:
    """An argument such as 512M or 4G, in bytes."""
    try:
        return int(text[:-1]) * SUFFIXES[text[-1:].upper()]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 4G") from None


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def _packed(*command: str) -> Callable[[Path, Path], None]:
    def pack(source: Path, path: Path) -> None:
        with source.open("rb") as file, path.open("wb") as packed:
            subprocess.run(command, stdin=file, stdout=packed, check=True)

    return pack


def _converted(*options: str) -> Callable[[Path, Path], None]:
    return lambda source, path: _run("qemu-img", "convert", "-f", "raw", *options, source, path)


def _make_ova(source: Path, path: Path) -> None:
    disk = path.with_name("disk.vmdk")
    _converted("-O", "vmdk", "-o", "subformat=streamOptimized")(source, disk)
    ovf = _OVF.format(capacity=source.stat().st_size).encode()
    manifest = f"SHA256(vm.ovf)= {hashlib.sha256(ovf).hexdigest()}\nSHA256(disk.vmdk)= {sha256_of(disk)}\n"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in (("vm.ovf", ovf), ("vm.mf", manifest.encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        tar.add(disk, "disk.vmdk")
    disk.unlink()


# Fast levels: what unpacking costs hardly depends on them. xz and bzip2 write blocks that can be unpacked side by side.
RECIPES: dict[str, Callable[[Path, Path], None]] = {
    "gz": _packed("pigz", "-3"),
    "zst": _packed("zstd", "-q", "-T0", "-3"),
    "pzst": _packed("pzstd", "-q", "-3", "-c"),
    "xz": _packed("xz", "-T0", "-1"),
    "bz2": _packed("lbzip2", "-6"),
    "qcow2": _converted("-O", "qcow2"),
    "qcow2-zlib": _converted("-O", "qcow2", "-c", "-W"),
    "qcow2-zstd": _converted("-O", "qcow2", "-c", "-W", "-o", "compression_type=zstd"),
    "ova": _make_ova,
}
