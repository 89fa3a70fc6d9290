r"""Makes a UEFI boot entry for a disk, by efibootmgr; no code of the image runs for that.

Owns which loader on the ESP is taken, the calls of efibootmgr and their order. Blocks. The disk is only read. What the
firmware had before is kept but for older entries of this label, which led to what the disk held then. Where a step
fails, the entries of before are in their order, perhaps without those; `make_boot_entry` can be called again.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import BootEntryFailed, BootEsp
from agent.formats.tables.existing import read_existing
from agent.formats.tables.partition import Partition
from agent.host import fat, process
from agent.host.faults import disk_fault
from agent.host.readback import ReadBack
from agent.model.boot_entries import (
    ARCHITECTURES,
    BootEntries,
    csv_name,
    fallback_loader,
    label_for,
    loaders_in,
    order_with,
    parse_csv,
    parse_entries,
)
from agent.model.disks import Disk

LABEL = "byoi-agent"
_MAX_VENDORS = 32
_VARIABLES_HINT = (
    "Mount the EFI variables (mount -t efivarfs efivarfs /sys/firmware/efi/efivars), or boot by UEFI."
)


@dataclass(frozen=True, slots=True)
class Loader:
    r"""A loader on a disk: the number of its ESP, and its path there (`\EFI\debian\shimx64.efi`)."""

    partition: int
    path: str


@dataclass(frozen=True, slots=True)
class BootEntryMade:
    """A new boot entry, and the order that the firmware has now."""

    number: str
    """Four hexadecimal digits."""
    label: str
    loader: Loader
    order: tuple[str, ...]
    removed: tuple[str, ...]
    """The numbers of older entries of this label."""
    boot_next: bool
    """Whether it is the entry for the next start, whatever the order."""

    def to_json(self) -> dict[str, Any]:
        """The document of a result."""
        return {
            "number": self.number,
            "label": self.label,
            "partition": self.loader.partition,
            "loader": self.loader.path,
            "order": list(self.order),
            "removed": list(self.removed),
            "bootNext": self.boot_next,
        }


def make_boot_entry(
    disk: Disk,
    loader: Loader,
    *,
    prefix: str = LABEL,
    network_first: bool = True,
    boot_next: bool = False,
    tool: process.Tool = process.output,
) -> BootEntryMade:
    """Make a boot entry for a disk, in place of the older one for it, and put it into the boot order.

    Args:
        disk: the whole disk.
        loader: what `find_loader` found.
        prefix: how the label begins; the disk's serial number, WWN or path follows.
        network_first: whether entries that boot from the network stay in front, if they are in front of every disk.
        boot_next: whether the next start is from this entry, whatever the order.
        tool: runs efibootmgr.

    Raises:
        BootEntryFailed: the firmware has no variables or did not take the entry.
        ToolMissing: efibootmgr is not installed.
    """
    label = label_for(prefix, (disk.serial, disk.wwn, disk.path))
    firmware = _Firmware(disk.path, tool)
    before = firmware.read()
    removed = tuple(entry.number for entry in before.labelled(label))
    for number in removed:
        # First: there may be room for one entry only.
        firmware.call("--bootnum", number, "--delete-bootnum")
    at = ("--disk", disk.path, "--part", str(loader.partition), "--loader", loader.path)
    firmware.call("--create-only", *at, "--label", label)
    made = [entry.number for entry in firmware.read().labelled(label)]
    if not made:
        raise BootEntryFailed(device=disk.path, reason="it does not keep the new entry")
    number = made[-1]
    order = order_with(before, number, removed, network_first=network_first)
    firmware.call("--bootorder", ",".join(order))
    if boot_next:
        firmware.call("--bootnext", number)
    kept = firmware.read()
    if number not in kept.order:
        raise BootEntryFailed(
            device=disk.path, reason=f"it does not keep the entry {number} in its boot order"
        )
    return BootEntryMade(number, label, loader, kept.order, removed, boot_next=kept.next == number)


class _Firmware:
    """The firmware's boot entries, by efibootmgr."""

    def __init__(self, disk_path: str, tool: process.Tool) -> None:
        self._disk_path = disk_path
        self._tool = tool

    def read(self) -> BootEntries:
        return parse_entries(self._run("--verbose"))

    def call(self, *arguments: str) -> None:
        self._run("--quiet", *arguments)

    def _run(self, *arguments: str) -> str:
        try:
            return self._tool(("efibootmgr", *arguments)).decode("utf-8", "replace")
        except process.ProcessFailed as error:
            hint = _VARIABLES_HINT if "not supported" in error.stderr_tail else ""
            reason = error.strerror or error.what
            raise BootEntryFailed(device=self._disk_path, reason=reason, hint=hint) from error


# -- the loader ----------------------------------------------------------------------------------------------


def find_loader(disk: Disk, wanted: str | None = None, machine: str | None = None) -> Loader:
    r"""The loader on a disk that a boot entry should name.

    Without one that is wanted: what a BOOT*.CSV of a distribution names, else the shim or loader of a directory below
    `\EFI`, else the one that firmware looks for by itself (`\EFI\BOOT\BOOTX64.EFI`).

    Args:
        disk: the whole disk, or a regular file.
        wanted: a path on the ESP, with slashes or backslashes.
        machine: the machine's architecture as `uname -m` has it; this machine's by default.

    Raises:
        BootEsp: there is no ESP, it cannot be read, or has no such loader.
        DiskIo: the disk fails.
        ToolMissing: mtools is not installed.
    """
    architecture = ARCHITECTURES.get(machine or os.uname().machine, "X64")
    try:
        esps = _esps(disk)
        if not esps:
            raise BootEsp(detail=f"{disk.path} has no EFI system partition")
        for esp in esps:
            path = _loader_on(disk.path, esp.start, wanted, architecture)
            if path is not None:
                return Loader(esp.number, path)
    except fat.FatUnsound as error:
        detail = f"the ESP of {disk.path} cannot be read: {error.strerror}"
        raise BootEsp(detail=detail, hint="Check the image's ESP (fsck.vfat) and upload it again.") from error
    except OSError as error:
        raise disk_fault(disk.path, error) from error
    what = wanted or f"a loader for {architecture}"
    hint = "Name a file that is on the ESP." if wanted else ""
    raise BootEsp(detail=f"the ESP of {disk.path} does not have {what}", hint=hint)


def _esps(disk: Disk) -> Sequence[Partition]:
    with ReadBack(disk.path) as opened:
        sector_size = None if disk.kind == "file" else disk.logical_sector_size
        table = read_existing(opened.read, opened.size, sector_size)
    return [partition for partition in table.partitions if partition.is_esp]


def _loader_on(disk_path: str, offset: int, wanted: str | None, architecture: str) -> str | None:
    if wanted is not None:
        found = fat.fat_has_file(disk_path, offset, wanted)
        return "\\" + wanted.replace("/", "\\").removeprefix("\\") if found else None
    candidates = [*_of_distributions(disk_path, offset, architecture), fallback_loader(architecture)]
    return next((path for path in candidates if fat.fat_has_file(disk_path, offset, path)), None)


def _of_distributions(disk_path: str, offset: int, architecture: str) -> Sequence[str]:
    r"""What the directories below \EFI may offer, the best first; most of it does not exist."""
    vendors = [name for name in fat.fat_directories(disk_path, offset, r"\EFI") if name.casefold() != "boot"]
    vendors = sorted(vendors, key=str.casefold)[:_MAX_VENDORS]
    named = [path for vendor in vendors for path in _by_csv(disk_path, offset, vendor, architecture)]
    return [*named, *(path for vendor in vendors for path in loaders_in(vendor, architecture))]


def _by_csv(disk_path: str, offset: int, vendor: str, architecture: str) -> Sequence[str]:
    csv = rf"\EFI\{vendor}\{csv_name(architecture)}"
    if not fat.fat_has_file(disk_path, offset, csv):
        return ()
    name = parse_csv(fat.fat_file(disk_path, offset, csv))
    return (rf"\EFI\{vendor}\{name}",) if fat.is_name(name) else ()
