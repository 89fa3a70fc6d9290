"""Finds the partition table in the first bytes of a disk or an image: a GPT (`gpt`), an MBR (`mbr`), or none."""

from agent.formats.tables import gpt, mbr
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.mbr import Mbr
from agent.formats.tables.partition import HEAD_BYTES, Partition, TableError
from agent.formats.tables.superblock import sniff_filesystem

__all__ = ["HEAD_BYTES", "Gpt", "Mbr", "Partition", "Table", "TableError", "read_table"]

Table = Gpt | Mbr

_SECTOR_SIZES = (512, 4096)
# Filesystems whose first sector also ends with 0x55AA.
_BOOT_SECTOR_FILESYSTEMS = ("vfat", "ntfs", "exfat")


def read_table(window: bytes | memoryview, sector_size: int | None) -> Table | None:
    """Read the table in the first bytes of a disk.

    A GPT needs an 0xEE entry in sector 0 (protective or hybrid); without one its header is stale and is ignored. If
    `sector_size` is None, a GPT is looked for at byte 512 and then at 4096, and the first valid one is taken. An MBR
    does not say its sector size and is then read with 512: call `superblock.mbr_sector_size`, and read again with its
    answer.

    Args:
        window: the first bytes of the disk: 1 MiB, or `TABLE_REACH` to include the entries of any GPT.
        sector_size: 512, 4096, or None if it is not known.

    Returns:
        The table, or None: no 0x55AA, a filesystem without a table, or entries of an MBR that are not plausible.

    Raises:
        TableError: there is a GPT, but its primary copy is damaged.
    """
    head = bytes(window[:HEAD_BYTES])
    if len(head) < mbr.SIZE or head[510:512] != mbr.SIGNATURE:
        return None
    protective = [entry for entry in mbr.entries(head) if entry.kind == mbr.PROTECTIVE]
    if protective:
        sizes = _SECTOR_SIZES if sector_size is None else (sector_size,)
        signed = [size for size in sizes if head[size : size + 8] == gpt.SIGNATURE]
        if signed:
            return _first_whole_gpt(window, signed)
        if any(entry.start_lba == 1 and entry.flag in (0x00, 0x80) for entry in protective):
            raise TableError(_missing_header(head, sizes))
    if sniff_filesystem(head[: mbr.SIZE]) in _BOOT_SECTOR_FILESYSTEMS:
        return None
    return mbr.parse(head, sector_size or 512)


def _first_whole_gpt(window: bytes | memoryview, sizes: list[int]) -> Gpt:
    faults = []
    for size in sizes:
        try:
            return gpt.parse(window, size)
        except TableError as error:
            faults.append(error)
    raise faults[0]


def _missing_header(head: bytes, sizes: tuple[int, ...]) -> str:
    where = " or ".join(str(size) for size in sizes)
    message = f"the MBR announces a GPT, but there is no EFI PART signature at byte {where}"
    for size in _SECTOR_SIZES:
        if head[size : size + 8] == gpt.SIGNATURE:
            message += f"; there is one at byte {size}, for sectors of {size} bytes"
    return message
