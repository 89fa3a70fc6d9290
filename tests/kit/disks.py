"""Files that stand in for disks."""

from pathlib import Path

from agent.units import MiB

DISK_SIZE = 24 * MiB
DIRT = b"\xa5"
"""What a disk is full of before a deployment: it must not show through after one."""


def make_disk(path: Path, size: int = DISK_SIZE, fill: bytes = DIRT) -> Path:
    """Make a file of `size` bytes that holds `fill`, repeated."""
    path.write_bytes((fill * (size // len(fill) + 1))[:size])
    return path
