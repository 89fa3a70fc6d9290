"""Partition tables without a disk, made of what a test says of each partition."""

import itertools
import uuid
from collections.abc import Iterable

from agent.formats.tables.gpt import Gpt, add_partition
from agent.units import GiB, MiB

ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

Slot = tuple[str, int, int] | tuple[str, int, int, str]
"""Type, start and size in bytes, and perhaps a name."""


def empty_gpt(disk_size: int = 8 * GiB, sector_size: int = 512) -> Gpt:
    """The GPT of a disk without partitions."""
    array = 16384 // sector_size
    last = disk_size // sector_size - 1
    return Gpt(
        sector_size=sector_size,
        revision=0x10000,
        header_size=92,
        reserved=0,
        my_lba=1,
        alternate_lba=last,
        first_usable_lba=2 + array,
        last_usable_lba=last - array - 1,
        disk_guid=uuid.UUID(int=1),
        entries_lba=2,
        entry_count=128,
        entry_size=128,
        tail=bytes(sector_size - 92),
        entries=bytes(16384),
    )


def gpt_of(slots: Iterable[Slot], disk_size: int = 8 * GiB, sector_size: int = 512) -> Gpt:
    """The GPT of a disk with these partitions, numbered as they come."""
    table = empty_gpt(disk_size, sector_size)
    numbers = itertools.count(100)
    for kind, start, size, *name in slots:
        table = add_partition(
            table,
            start=start,
            size=size,
            type_guid=uuid.UUID(kind),
            unique_guid=uuid.UUID(int=next(numbers)),
            name="".join(name),
        )
    return table


CLOUD: tuple[Slot, ...] = (
    (LINUX, 128 * MiB, GiB, "root"),
    (BIOS_BOOT, MiB, 3 * MiB),
    (ESP, 4 * MiB, 124 * MiB),
)
"""As Debian's cloud images are: the root is the first in the table and the last on the disk."""
