"""Builds the config drive's filesystem in memory, reads one back, and compares the two.

Used by `agent.deploy.target` and the commit stage. Disks with sectors of 4096 bytes get FAT, because Linux cannot mount
ISO 9660 from them; all others get ISO 9660, which most readers support.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from agent.formats.tables.superblock import filesystem_sector_size
from agent.host import fat, iso
from agent.units import align_up

Filesystem = Literal["iso9660", "vfat"]


@dataclass(frozen=True)
class Drive:
    """A config drive's filesystem, to be written at the start of its partition; the `repr` leaves out its content."""

    image: bytes = field(repr=False)
    filesystem: Filesystem
    ready_made: bool = False
    """Whether somebody else made it: what is compared after the commit is its bytes alone."""


def filesystem_for(sector_size: int) -> Filesystem:
    """The filesystem for a disk with this logical sector size in bytes."""
    return "iso9660" if sector_size < 4096 else "vfat"


def build_drive(tree: Mapping[str, bytes], sector_size: int) -> Drive:
    """Build the filesystem of a tree for a disk with this logical sector size (512 or 4096 bytes).

    Raises:
        ToolMissing: mkfs.vfat or mtools is needed and not installed.
        OSError: the filesystem cannot be built.
    """
    filesystem = filesystem_for(sector_size)
    match filesystem:
        case "iso9660":
            return Drive(iso.build_iso(tree), filesystem)
        case "vfat":
            return Drive(fat.build_fat(tree, sector_size), filesystem)
        case _:
            assert_never(filesystem)


def fit_drive(image: bytes, filesystem: Filesystem, sector_size: int) -> tuple[Drive, dict[str, bytes]]:
    """A drive that somebody else made, for a disk with this logical sector size: as it is, or else its files anew.

    Linux mounts no filesystem whose own sectors are smaller than those of the disk; there a FAT is made of its files.

    Args:
        image: the filesystem, of any length.
        filesystem: what it is.
        sector_size: of the disk, in bytes.

    Returns:
        The drive, of whole sectors, and the files in it; no files where it stays as it is.

    Raises:
        ToolMissing: mkfs.vfat or mtools is needed and not installed.
        OSError: its files cannot be read or stored anew.
    """
    own = 2048 if filesystem == "iso9660" else filesystem_sector_size(image[:512]) or 512
    if own >= sector_size:
        padded = image + bytes(align_up(len(image), sector_size) - len(image))
        return Drive(padded, filesystem, ready_made=True), {}
    tree = read_drive(image, filesystem)
    return build_drive(tree, sector_size), tree


def read_drive(data: bytes, filesystem: Filesystem) -> dict[str, bytes]:
    """The content of all files of a drive, by relative path.

    Raises:
        ToolMissing: mtools is needed and not installed.
        OSError: it is not this filesystem, is damaged, or exceeds the bounds of the reader.
    """
    match filesystem:
        case "iso9660":
            return iso.read_iso(data)
        case "vfat":
            return fat.read_fat(data)
        case _:
            assert_never(filesystem)


def verify_drive(data: bytes, drive: Drive, tree: Mapping[str, bytes]) -> str | None:
    """Compare the content of the partition with the drive that was written to it, bytes and files.

    Args:
        data: the partition's content; bytes beyond the length of `drive.image` are ignored.
        drive: what was written.
        tree: the files from which the drive was built.

    Returns:
        None if they are equal, else a description of the first difference, without any content.

    Raises:
        ToolMissing: mtools is needed and not installed.
    """
    size = len(drive.image)
    if len(data) < size:
        return f"the config drive has {size} bytes, but only {len(data)} could be read"
    written = data[:size]
    if written != drive.image:
        offset = next(
            i for i, (got, wanted) in enumerate(zip(written, drive.image, strict=True)) if got != wanted
        )
        return f"the config drive differs from what was written at byte {offset}"
    if drive.ready_made:
        return None
    try:
        found = read_drive(written, drive.filesystem)
    except OSError as error:
        return f"the config drive cannot be read: {error}"
    return _difference(found, tree)


def _difference(found: Mapping[str, bytes], tree: Mapping[str, bytes]) -> str | None:
    for path in sorted(tree.keys() | found.keys()):
        if path not in found:
            return f"the config drive lacks {path}"
        if path not in tree:
            return f"the config drive holds {path}, which does not belong there"
        if found[path] != tree[path]:
            got, wanted = len(found[path]), len(tree[path])
            return f"{path} on the config drive has {got} bytes that are not the {wanted} bytes meant"
    return None
