"""What a machine's disk was told, in its order: the log of QEMU's blklogwrites driver.

The format is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst, and the
structures in drivers/md/dm-log-writes.c): a superblock in the first sector, then entries of one sector, each with its
data behind it. All numbers are little-endian.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.kit.crashes import Write

MAGIC = 0x6A736677736872
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
FLUSH, DISCARD = 1, 4


def make_log(path: Path, size: int) -> Path:
    """An empty file for a log, sparse; the driver cannot make it longer."""
    path.touch()
    os.truncate(path, size)
    return path


def read_log(path: Path) -> Iterator[Write | None]:
    """The writes, zeros as zeros; None for a flush. What was discarded may read as anything: it is left out.
    A write that was to be durable by itself (FUA) is given like any other, which promises less.

    Raises:
        ValueError: it is no log.
    """
    with path.open("rb") as file:
        magic, version, entries, sector_size = SUPER.unpack(file.read(SUPER.size))
        if magic != MAGIC or version != 1:
            raise ValueError(f"{path} is no log of writes")
        file.seek(sector_size)
        for _ in range(entries):
            sector, sectors, flags, _ = ENTRY.unpack(file.read(sector_size)[: ENTRY.size])
            if flags & FLUSH:
                yield None
            if sectors and not flags & DISCARD:
                yield sector * sector_size, file.read(sectors * sector_size)
