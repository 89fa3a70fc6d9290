"""What an image's first bytes tell about the disk it is: examined before the first write."""

from dataclasses import dataclass

from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.layout import has_boot_code, has_esp, needed_size
from agent.formats.tables.mbr import Mbr
from agent.formats.tables.partition import TABLE_REACH
from agent.formats.tables.read import Partition, TableError, read_table
from agent.formats.tables.superblock import mbr_sector_size

# An MBR tells no sector size; the first filesystem does. With 4096-byte sectors a partition at the customary
# LBA 2048 begins at 8 MiB, so this reaches its superblock, btrfs' at 64 KiB included.
WINDOW_BYTES = TABLE_REACH


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """A guest disk as far as its first bytes tell. Sizes in bytes."""

    content: str
    """What the guest disk is: `raw` for one with a partition table, or the name of what was found instead."""
    size: int | None
    """Size of the guest disk; None where the server does not tell the file's."""
    container: str = "raw"
    """What the file is, without what is around it: `raw`, `qcow2`, `ova`, or what was found instead."""
    table: Gpt | Mbr | None = None
    table_fault: str | None = None
    """Why a partition table that is there cannot be used."""
    chain_fault: str | None = None
    """Why the chain of logical partitions cannot be followed, as far as it has been read."""
    libparted: str | None = None
    """libparted's words where it does not read the table, empty where it does; None where it has not been asked."""
    libparted_missing: bool = False
    """Whether it turned out that libparted cannot be asked on this machine."""
    sector_size: int | None = None
    esp: bool = False
    boot_code: bool = False
    reach: int = 0
    """Where the last partition ends."""
    own_drive: Partition | None = None
    """A partition whose filesystem is labelled config-2, as far as that is known before the first write."""
    root_fault: str | None = None
    """Why what is in the root cannot be in a mirror, as far as that is known before the first write."""
    examined: bool = True
    """False where the first bytes of the guest disk come late in the file: they are examined before the commit."""

    @property
    def libparted_note(self) -> str | None:
        """What the status says where libparted has no say, or does not read the table; None where all is well."""
        if self.libparted_missing:
            return "libparted is not asked about the partition table: pyparted is not installed"
        if not self.libparted:
            return None
        words = f"libparted does not read the image's partition table ({self.libparted})"
        return f"{words}: it is not asked after the commit"


def examine(window: bytes, size: int | None, container: str = "raw") -> ImageFacts:
    """Read the first `WINDOW_BYTES` of a guest disk (all of it where it is shorter)."""
    content = sniff(window[:SNIFF_BYTES])
    if content != "raw":
        return ImageFacts(content, size, container)
    try:
        table = read_table(window, None)
    except TableError as error:
        return ImageFacts(content, size, container, table_fault=str(error))
    if table is None:
        return ImageFacts(content, size, container)
    sector_size: int | None
    if isinstance(table, Gpt):
        sector_size = table.sector_size
    else:
        sector_size = mbr_sector_size(window, window[:512], size)
        if sector_size not in (None, table.sector_size):
            table = read_table(window, sector_size)
            if table is None:
                return ImageFacts(content, size, container, table_fault="the MBR does not hold together")
    return ImageFacts(
        content,
        size,
        container,
        table,
        sector_size=sector_size,
        esp=has_esp(table),
        boot_code=has_boot_code(window[:512]),
        reach=needed_size(table),
    )
