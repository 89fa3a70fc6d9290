"""The hardware of this machine, as OpenStack Ironic keeps it after an inspection.

Members and their meaning are those of ironic-python-agent 13 ("Hardware Inventory" in its documentation) and of what
Ironic 39's inspection hooks read. Everything comes from sysfs, /proc and the kernel's network, and no program is
started: what those do not tell is null or empty, so all that is asked of a BMC (`bmc_address`, `bmc_v6address`).
Blocks, and only reads.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.formats.lldp import Tlv
from agent.formats.smbios import installed_memory
from agent.host import firmware
from agent.host.addresses import interface_addresses
from agent.host.blocktree import read_attribute
from agent.host.interfaces import Interface, list_interfaces
from agent.model.disks import Disk
from agent.units import KiB, MiB

_MAX_FILE = 16 * MiB
_DISK_KINDS = ("disk", "zoned")
_BOOTIF = re.compile(r"(?:^|\s)BOOTIF=(\S+)")


def hardware_inventory(
    disks: Iterable[Disk],
    root: str = "/",
    *,
    addresses: Mapping[str, Iterable[str]] | None = None,
    heard: Mapping[str, Iterable[Tlv]] | None = None,
) -> dict[str, Any]:
    """The inventory: `interfaces`, `cpu`, `disks`, `memory`, `system_vendor`, `boot`, `hostname` and the BMC's members.

    Args:
        disks: what `agent.host.inventory.list_disks` found; those that no system can be written to are left out.
        root: the directory that has `proc` and `sys`.
        addresses: IP addresses by interface; the kernel is asked by default.
        heard: what was heard of switches (`agent.host.lldp`), by interface; None: nobody has listened.

    Raises:
        OSError: sysfs cannot be read, or the kernel does not tell addresses.
    """
    known = interface_addresses() if addresses is None else addresses
    return {
        "interfaces": [_interface(interface, heard) for interface in list_interfaces(root, known)],
        "cpu": _cpu(Path(root)),
        "disks": [disk_entry(disk) for disk in disks if disk.kind in _DISK_KINDS and disk.size > 0],
        "memory": _memory(Path(root)),
        "bmc_address": None,
        "bmc_v6address": None,
        "system_vendor": _system_vendor(Path(root, "sys/class/dmi/id")),
        "boot": {
            "current_boot_mode": firmware.detect(str(Path(root, "sys/firmware/efi"))),
            "pxe_interface": _boot_interface(Path(root)),
        },
        "hostname": read_attribute(Path(root, "proc/sys/kernel/hostname")),
    }


def inspection_data(inventory: Mapping[str, Any], root_disk: Disk | None) -> dict[str, Any]:
    """What a ramdisk posts to Ironic's `continue_inspection`: the inventory, and what is called plugin data there.

    Args:
        inventory: by `hardware_inventory`.
        root_disk: the disk that a deployment without hints goes to, if there is one.
    """
    return {
        "inventory": dict(inventory),
        "boot_interface": inventory["boot"]["pxe_interface"],
        "error": None,
    } | ({} if root_disk is None else {"root_disk": disk_entry(root_disk)})


# -- its parts -----------------------------------------------------------------------------------------------


def _interface(interface: Interface, heard: Mapping[str, Iterable[Tlv]] | None) -> dict[str, Any]:
    tlvs = None if heard is None else [[kind, value.hex()] for kind, value in heard.get(interface.name, ())]
    return {
        "name": interface.name,
        "mac_address": interface.mac,
        "ipv4_address": interface.ipv4 or None,
        "ipv6_address": interface.ipv6 or None,
        "has_carrier": interface.has_carrier,
        "lldp": tlvs,
        "vendor": interface.vendor or None,
        "product": interface.product or None,
        "client_id": None,
        "biosdevname": None,
        "speed_mbps": interface.speed,
        "pci_address": interface.pci_address or None,
        "driver": interface.driver or None,
    }


def disk_entry(disk: Disk) -> dict[str, Any]:
    """A disk in the inventory. Ironic compares its root device hints with these members, and a disk selector of ours
    knows each of their values (`agent.model.selector`).
    """
    names = disk.names
    return {
        "name": disk.path,
        "model": disk.model or None,
        "size": disk.size,
        "rotational": disk.rotational,
        "wwn": (names.wwn[0] if names.wwn_vendor_extension and names.wwn else disk.wwn) or None,
        "serial": disk.serial or None,
        "vendor": disk.vendor or _first(names.vendor),
        "wwn_with_extension": disk.wwn or None,
        "wwn_vendor_extension": _first(names.wwn_vendor_extension),
        "hctl": _first(names.hctl),
        "by_path": disk.by_path or None,
        "logical_sectors": disk.logical_sector_size,
        "physical_sectors": disk.physical_sector_size,
        "tran": disk.transport,
    }


def _first(known: tuple[str, ...]) -> str | None:
    return next(iter(known), None)


def _cpu(root: Path) -> dict[str, Any]:
    """Counts are of logical processors and of sockets; the frequency is in MHz, as text."""
    text = _read(root / "proc/cpuinfo").decode("utf-8", "replace")
    processors = [dict(_fields(section)) for section in text.split("\n\n") if "processor" in section]
    first = processors[0] if processors else {}
    cpus = root / "sys/devices/system/cpu"
    maximum = read_attribute(cpus / "cpu0/cpufreq/cpuinfo_max_freq")  # kHz
    frequency = f"{int(maximum) / 1000:.4f}" if maximum.isdecimal() else first.get("cpu MHz", "")
    numbers = (name for name in _names(cpus) if re.fullmatch(r"cpu\d+", name))
    sockets = {read_attribute(cpus / name / "topology/physical_package_id") for name in numbers}
    return {
        "model_name": first.get("model name", ""),
        "frequency": frequency,
        "count": len(processors),
        "architecture": os.uname().machine,
        "flags": first.get("flags", first.get("Features", "")).split(),
        "socket_count": len(sockets - {"", "-1"}) or 1,
    }


def _fields(section: str) -> Iterable[tuple[str, str]]:
    for line in section.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _memory(root: Path) -> dict[str, Any]:
    """`total` is what the kernel has, in bytes; `physical_mb` what is installed, in MiB."""
    match = re.search(rb"^MemTotal: *(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    total = int(match[1]) * KiB if match else None
    installed = installed_memory(_read(root / "sys/firmware/dmi/tables/DMI")) or _memory_blocks(root) or total
    return {"total": total, "physical_mb": installed and installed // MiB}


def _memory_blocks(root: Path) -> int:
    """What the kernel's memory blocks hold in bytes, where the firmware does not tell; 0 if it has none."""
    directory = root / "sys/devices/system/memory"
    size = read_attribute(directory / "block_size_bytes")  # hexadecimal
    blocks = [name for name in _names(directory) if re.fullmatch(r"memory\d+", name)]
    return int(size, 16) * len(blocks) if re.fullmatch(r"[0-9a-fA-F]{1,15}", size) else 0


def _system_vendor(dmi: Path) -> dict[str, Any]:
    return {
        "product_name": read_attribute(dmi / "product_name"),
        "serial_number": read_attribute(dmi / "product_serial"),
        "manufacturer": read_attribute(dmi / "sys_vendor"),
        "firmware": {
            "vendor": read_attribute(dmi / "bios_vendor"),
            "version": read_attribute(dmi / "bios_version"),
            "build_date": read_attribute(dmi / "bios_date"),
        },
    }


def _boot_interface(root: Path) -> str | None:
    """What the boot loader put on the kernel's command line: `01-52-54-00-12-34-56` by pxelinux, or a MAC address."""
    match = _BOOTIF.search(_read(root / "proc/cmdline").decode("utf-8", "replace"))
    return None if match is None else match[1]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return b""


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return []
