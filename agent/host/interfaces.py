"""The network interfaces of this machine, from sysfs: for an inventory, and to be known by their MAC addresses.

Blocks, and only reads. Interfaces of hardware are listed, bonds, and VLANs that are named so (`eth0.100`), as
ironic-python-agent does; where there are none of these (a container, a network namespace), whatever has an Ethernet
address. InfiniBand is left out: its addresses are no MAC addresses. sysfs shows the network namespace that it was
mounted in.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.host.blocktree import read_attribute

_ETHERNET = "1"  # ARPHRD_ETHER
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NO_MAC = "00:00:00:00:00:00"
_VLAN = re.compile(r".+\.\d+")
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_MAX_INTERFACES = 4096


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface. Texts that are not known are empty."""

    name: str
    mac: str
    """Its own address, in lower case, also while a bond has given it the bond's."""
    has_carrier: bool = False
    speed: int | None = None
    """Of the link, in Mbit/s; None where it is not known, as without a carrier."""
    vendor: str = ""
    product: str = ""
    """Both as the bus has them: `0x8086`."""
    pci_address: str = ""
    driver: str = ""
    ipv4: str = ""
    ipv6: str = ""
    """The first address of each kind; one that is for the link only where there is no other."""


def list_interfaces(
    root: str = "/", addresses: Mapping[str, Iterable[str]] | None = None
) -> tuple[Interface, ...]:
    """The interfaces, sorted by name.

    Args:
        root: the directory that has sysfs at `sys`.
        addresses: IP addresses by interface, see `agent.host.addresses.interface_addresses`.

    Raises:
        OSError: sysfs cannot be read.
    """
    directory = Path(root, "sys/class/net")
    paths = sorted(entry for entry in directory.iterdir() if entry.is_dir())[:_MAX_INTERFACES]
    found = [path for path in paths if _is_listed(path)] or paths
    interfaces = (_read(path, tuple((addresses or {}).get(path.name, ()))) for path in found)
    return tuple(interface for interface in interfaces if interface is not None)


def mac_addresses(root: str = "/") -> tuple[str, ...]:
    """The MAC addresses by which a machine is looked up, each once, in the order of the interfaces' names.

    Raises:
        OSError: sysfs cannot be read.
    """
    return tuple(dict.fromkeys(interface.mac for interface in list_interfaces(root)))


def _is_listed(path: Path) -> bool:
    return (path / "device").exists() or (path / "bonding").is_dir() or _VLAN.fullmatch(path.name) is not None


def _read(path: Path, addresses: tuple[str, ...]) -> Interface | None:
    if read_attribute(path / "type") != _ETHERNET:
        return None
    mac = (read_attribute(path / "bonding_slave/perm_hwaddr") or read_attribute(path / "address")).lower()
    if _MAC.fullmatch(mac) is None or mac == _NO_MAC:
        return None
    speed = read_attribute(path / "speed")
    return Interface(
        path.name,
        mac,
        # A read fails while the interface is down.
        has_carrier=read_attribute(path / "carrier") == "1",
        speed=int(speed) if re.fullmatch(r"[1-9]\d{0,8}", speed) else None,
        vendor=read_attribute(path / "device/vendor"),
        product=read_attribute(path / "device/device"),
        pci_address=_pci_address(path),
        driver=_target(path / "device/driver").name,
        ipv4=next((address for address in addresses if ":" not in address), ""),
        ipv6=next((address for address in addresses if ":" in address), ""),
    )


def _pci_address(path: Path) -> str:
    """Of the PCI device that the interface is on; a virtio device is on one, a USB device on its controller's."""
    parts = _target(path / "device").parts
    return next((part for part in reversed(parts) if _PCI.fullmatch(part)), "")


def _target(link: Path) -> Path:
    """What a link leads to; empty where there is none."""
    with suppress(OSError):
        return link.resolve(strict=True)
    return Path()
