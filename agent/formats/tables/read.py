"""Which partition table a disk or an image has: the one entry to `gpt` and `mbr`.

Pure. Whoever has the first bytes may ask. A table that is there but damaged raises; no table is None.
"""

from agent.formats.tables import gpt, mbr
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.mbr import Mbr
from agent.formats.tables.partition import HEAD, Partition, TableError
from agent.formats.tables.superblock import sniff_filesystem

__all__ = ["HEAD", "Gpt", "Mbr", "Partition", "Table", "TableError", "read_table"]

Table = Gpt | Mbr

_SECTOR_SIZES = (512, 4096)
# A bare filesystem of these has 0x55AA at the end of its first sector as well.
_BOOT_SECTOR_FILESYSTEMS = ("vfat", "ntfs", "exfat")


def read_table(window: bytes | memoryview, sector_size: int | None) -> Table | None:
    """Read the table in the first bytes of a disk.

    A GPT needs an 0xEE entry in sector 0, protective or hybrid; a header without one is stale and does not
    count. With `sector_size` None a GPT is looked for at 512 and then at 4096, and the first whole one is
    taken; an MBR does not tell its sector size and is read with 512: ask `superblock.mbr_sector_size`, and
    read again with that.

    Args:
        window: the first bytes of the disk: 1 MiB, or as far as the entries of its GPT reach (`TABLE_REACH`).
        sector_size: 512, 4096, or None where it is not known.

    Returns:
        The table, or None where there is none: no 0x55AA, a bare filesystem, or entries that make no sense.

    Raises:
        TableError: there is a GPT, but its primary copy is damaged.
    """
    head = bytes(window[:HEAD])
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
