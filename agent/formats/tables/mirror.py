"""Decides whether an image can become a mirror (RAID1) of its root, and what its table is then.

The root is the image's last partition. It is widened to the room that the disk has and becomes a member of the array;
the partitions before it are copied to each disk once, so only what no system writes to in daily life may be there. The
rules are judged by the table (`layout_fault`), by the first bytes of the root (`root_fault`) and by the size of a disk
(`room_fault`); the texts are the reasons of `raid.layout` and `raid.disks`. All offsets and sizes are in bytes.

Types of partitions are from the UEFI specification 2.10 (section 5.3.3), the Discoverable Partitions Specification and
the kernel's and vendors' own documentation.
"""

import uuid

from agent.formats.tables import gpt as gpt_format
from agent.formats.tables import mbr as mbr_format
from agent.formats.tables.gpt import ESP_TYPE, Gpt
from agent.formats.tables.layout import DriveSlot, is_named_drive, mbr_end
from agent.formats.tables.mbr import Mbr
from agent.formats.tables.md import ALIGNMENT, least_member
from agent.formats.tables.partition import Partition
from agent.formats.tables.superblock import sniff_filesystem
from agent.units import KiB, MiB, align_down

RAID_TYPE_GUID = uuid.UUID("A19D880F-05FC-4D3B-A006-743F0F84911E")
RAID_TYPE_MBR = 0xFD
HEAD_BYTES = 256 * KiB
"""How many first bytes of the root `root_fault` needs."""

# Types of an MBR are two digits. The second: GRUB's BIOS boot partition; the third: an MBR's EFI system partition.
_BESIDE = {ESP_TYPE, "21686148-6449-6E6F-744E-656564454649", "EF"}
# Of these types a root may be; what it really is, its first bytes tell. The second is what parted gave to Linux once.
_ROOT_TYPES = {
    "0FC63DAF-8483-4772-8E79-3D69D8477DE4",  # Linux filesystem data
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",  # basic data
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",  # root, x86-64
    "44479540-F297-41B2-9AF7-D131D5F0458A",  # root, x86
    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",  # root, 64-bit ARM
    "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3",  # root, 32-bit ARM
    "72EC70A6-CF74-40E6-BD49-4BDA08E8F224",  # root, 64-bit RISC-V
    "83",  # Linux, in an MBR
}
_NAMES = {
    ESP_TYPE: "an EFI system partition",
    "21686148-6449-6E6F-744E-656564454649": "a BIOS boot partition",
    "0FC63DAF-8483-4772-8E79-3D69D8477DE4": "a Linux filesystem",
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "basic data (of Windows, or of any system)",
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": "a Linux root",
    "44479540-F297-41B2-9AF7-D131D5F0458A": "a Linux root",
    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE": "a Linux root",
    "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3": "a Linux root",
    "72EC70A6-CF74-40E6-BD49-4BDA08E8F224": "a Linux root",
    "933AC7E1-2EB4-4F13-B844-0E14E2AEF915": "a Linux /home",
    "3B8F8425-20E0-4F3B-907F-1A25A76F98E8": "a Linux /srv",
    "4D21B016-B534-45C2-A9FB-5C16E091FD2D": "a Linux /var",
    "7EC6F557-3BC5-4ACA-B293-16EF5DF639D1": "a Linux /var/tmp",
    "8484680C-9521-48C6-9C11-B0720656F69E": "a Linux /usr (x86-64)",
    "BC13C2FF-59E6-4262-A352-B275FD6F7172": "an extended boot partition (/boot)",
    "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": "swap",
    "E6D6D379-F507-44C2-A23C-238F2A3DF928": "an LVM volume",
    "CA7D7CCB-63ED-4C53-861C-1742536059CC": "LUKS",
    "A19D880F-05FC-4D3B-A006-743F0F84911E": "a member of a RAID",
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE": "reserved by Windows",
    "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC": "a Windows recovery partition",
    "05": "an extended partition",
    "0F": "an extended partition",
    "85": "an extended partition",
    "07": "of Windows",
    "82": "swap",
    "83": "a Linux filesystem",
    "8E": "an LVM volume",
    "EF": "an EFI system partition",
    "FD": "a member of a RAID",
}
_CONTENTS = {
    "crypto_LUKS": "encrypted (LUKS)",
    "linux_raid_member": "a member of an array (md) already",
    "LVM2_member": "an LVM volume",
    "zfs_member": "a member of a ZFS pool",
    "btrfs": "btrfs, which looks for its own devices and would find the members beside the array",
    "swap": "swap",
}
# One driver of Linux reads all three, journal or not, and none of them has a word of the device that it is on.
_ROOTS = {"ext2", "ext3", "ext4", "xfs"}


def root_of(table: Gpt | Mbr) -> Partition:
    """The partition that becomes a member of the array: the last one on the disk.

    Raises:
        ValueError: there is no partition; `layout_fault` says so.
    """
    return max(table.partitions, key=lambda partition: partition.start)


def layout_fault(table: Gpt | Mbr | None, drive: Partition | None = None) -> str | None:
    """Why the image's partitions do not fit a mirror, all reasons in one text; None: they do.

    Args:
        table: the image's.
        drive: the image's own config drive, where it was found by its content. By its name it is known here.
    """
    if table is None:
        return "it has no partition table"
    if not table.partitions:
        return "its partition table is empty"
    root = root_of(table)
    drives = {partition.number for partition in table.partitions if is_named_drive(partition)}
    drives |= {drive.number} if drive is not None else set()
    faults = [
        f"partition {partition.number} is {_name(partition)}, of which each disk would have a copy of its own"
        for partition in table.partitions
        if partition != root and partition.number not in drives and partition.type not in _BESIDE
    ]
    if root.number in drives or root.type not in _ROOT_TYPES:
        name = "a config drive" if root.number in drives else _name(root)
        faults.append(f"partition {root.number} is the last one on the disk and no root, but {name}")
    return "; ".join(faults) or None


def root_fault(head: bytes | memoryview) -> str | None:
    """Why what is in the root partition cannot be in a mirror; None: it can. It is ext2, ext3, ext4 or XFS.

    Args:
        head: its first `HEAD_BYTES`, or all where it is smaller.
    """
    kind = sniff_filesystem(head)
    if kind in _ROOTS:
        return None
    found = "of a kind that is not known" if kind is None else _CONTENTS.get(kind, kind)
    return f"its root has to be ext4 or XFS, and is {found}"


def widened(table: Gpt | Mbr, end: int) -> Gpt | Mbr:
    """The table with the root widened to `end`, or a little less, and made a Linux RAID partition.

    The root's size becomes a multiple of 4 KiB, as its start may be none. The table is not relocated by this.

    Args:
        table: the image's, without a `layout_fault`.
        end: of the room for the root on this disk: where the config drive begins, or the last usable sector ends.

    Raises:
        TableError: `end` lies behind the start of another partition, or not behind the root's own.
    """
    root = root_of(table)
    size = align_down(end - root.start, ALIGNMENT)
    if isinstance(table, Mbr):
        return mbr_format.resized(table, number=root.number, size=size, kind=RAID_TYPE_MBR)
    return gpt_format.resized(table, root.number, size=size, type_guid=RAID_TYPE_GUID)


def renewed(table: Gpt | Mbr) -> Gpt | Mbr:
    """The table with new GUIDs, or a new disk signature, of which the PARTUUIDs are made."""
    if isinstance(table, Mbr):
        return mbr_format.renewed(table, uuid.uuid4().bytes[:4])
    return gpt_format.renewed(table, uuid.uuid4)


def root_end(table: Gpt | Mbr, disk_size: int, slot: DriveSlot | None) -> int:
    """Where the root may end on a disk of `disk_size` bytes: before a new config drive, or at the last usable byte.

    In an MBR a MiB before the disk's end: what md keeps at the end of a partition is to be none of the disk's own.
    """
    if slot is not None and slot.kind == "new":
        return slot.start
    if isinstance(table, Mbr):
        return mbr_end(table, disk_size - MiB)
    return (gpt_format.last_usable_lba(table, disk_size) + 1) * table.sector_size


def room_fault(table: Gpt | Mbr, end: int) -> str | None:
    """Why a member does not fit before `end` (see `widened`): the array's own data lie behind all of the root.

    The text names the numbers, not the disk.
    """
    root = root_of(table)
    room = align_down(end - root.start, ALIGNMENT)
    needed = least_member(root.size)
    if room >= needed:
        return None
    return (
        f"the image's root of {root.size} bytes and the array's own data need {needed} bytes from byte"
        f" {root.start} on, and there are {max(0, room)}"
    )


def _name(partition: Partition) -> str:
    return _NAMES.get(partition.type, f"of the unknown type {partition.type}")
