"""Files that stand in for disks."""

from contextlib import suppress
from pathlib import Path

from agent.units import KiB, MiB

DISK_SIZE = 24 * MiB
DIRT = b"\xa5"
"""What a disk is full of before a deployment: it must not show through after one."""


def make_disk(path: Path, size: int = DISK_SIZE, fill: bytes = DIRT) -> Path:
    """Make a file of `size` bytes that holds `fill`, repeated."""
    piece = _piece(fill)
    with path.open("wb") as file:
        for at in range(0, size, len(piece)):
            file.write(piece[: size - at])
    return path


def is_untouched(path: Path, size: int = DISK_SIZE, fill: bytes = DIRT) -> bool:
    """Whether a file is as `make_disk` made it, to the last byte."""
    if path.stat().st_size != size:
        return False
    piece = _piece(fill)
    with path.open("rb") as file:
        while found := file.read(len(piece)):
            if found != piece[: len(found)]:
                return False
    return True


def fill_up(path: Path) -> None:
    """Take all the room that a filesystem has, by a file."""
    with path.open("wb", buffering=0) as ballast:
        for size in (64 * KiB, KiB):
            with suppress(OSError):
                while True:
                    ballast.write(bytes(size))


def _piece(fill: bytes) -> bytes:
    """`fill` repeated to about a MiB: a disk is made and compared by such pieces, not by copies of all of it."""
    return fill * max(1, MiB // len(fill))
