"""Lists the disks of this server, from sysfs and udev; the only module that uses pyudev.

Used by the daemon, the commands and preflight. Blocks. It only reads, and works without a running udevd: properties are
then taken from sysfs, links from /dev/disk. Texts that come from the firmware of disks are cut and made
printable. A disk that is removed while it is read is left out.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyudev

from agent.errors import DiskUnknown, ToolMissing
from agent.host import holders, mounts
from agent.host.blocktree import BlockTree, read_attribute, read_tree
from agent.host.disk_names import clean, read_names, vpd_serial
from agent.host.holders import Uses
from agent.model.disks import Disk, Holder

_MAX_LINKS = 65536
_KINDS = (
    ("loop", "loop"),
    ("zram", "zram"),
    ("ram", "ram"),
    ("sr", "optical"),
    ("fd", "floppy"),
    ("dm-", "dm"),
    ("md", "md"),
    ("bcache", "bcache"),
    ("mtdblock", "other"),
)
_EMMC_EXTRA = re.compile(r"mmcblk\d+(boot\d+|rpmb|gp\d+)")
# A directory in the device's sysfs path, and the transport that it means. USB first: USB disks are SCSI disks too.
_BUSES = (
    (re.compile(r"/usb\d+/"), "usb"),
    (re.compile(r"/ata\d+/"), "sata"),
    (re.compile(r"/session\d+/"), "iscsi"),
    (re.compile(r"/rport-"), "fc"),
    (re.compile(r"/end_device-"), "sas"),
)
_NAMES = (
    ("vd", "virtio"),
    ("mmcblk", "mmc"),
    ("xvd", "xen"),
    ("pmem", "pmem"),
    ("nbd", "nbd"),
    ("rbd", "rbd"),
    ("loop", "loop"),
    ("zram", "zram"),
    ("ram", "ram"),
    ("dm-", "dm"),
    ("md", "md"),
    ("sd", "scsi"),
    ("sr", "scsi"),
)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The state of the server that all disks of one listing are compared with."""

    tree: BlockTree
    in_use: Uses
    boot_media: frozenset[str]
    links: Mapping[str, tuple[str, ...]]


def list_disks() -> tuple[Disk, ...]:
    """All whole disks, sorted by path; loop, zram and ram devices only if they have a size.

    md and dm devices are not listed: they appear as holders of their disks. `describe_path` accepts them.

    Raises:
        OSError: sysfs or /proc cannot be read.
        ToolMissing: libudev is not installed.
    """
    snapshot = _take_snapshot()
    disks = []
    for device in _context().list_devices(subsystem="block", DEVTYPE="disk"):
        with suppress(OSError, pyudev.DeviceNotFoundError):
            disk = _describe(device, snapshot)
            hidden = read_attribute(Path(device.sys_path, "hidden")) == "1"
            listed = disk.kind not in ("md", "dm") and (disk.size or disk.kind not in ("loop", "zram", "ram"))
            if listed and not hidden:
                disks.append(disk)
    return tuple(sorted(disks, key=lambda disk: (len(disk.path), disk.path)))


def describe_path(path: str) -> Disk:
    """The disk at a path: a whole block device or a regular file; links (/dev/disk/by-id/*) are followed.

    Raises:
        DiskUnknown: the path does not exist, or is a partition or anything else.
        OSError: sysfs or /proc cannot be read.
        ToolMissing: libudev is not installed.
    """
    try:
        info = Path(path).stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DiskUnknown(path=path, detail=reason or "") from error
    if stat.S_ISREG(info.st_mode):
        return _describe_file(os.path.abspath(path), info)  # noqa: PTH100 - keep the name as given
    if not stat.S_ISBLK(info.st_mode):
        raise DiskUnknown(path=path, detail="neither a block device nor a file")
    try:
        device = pyudev.Devices.from_device_number(_context(), "block", info.st_rdev)
    except pyudev.DeviceNotFoundError as error:
        raise DiskUnknown(path=path, detail="the kernel has no such block device") from error
    if device.device_type != "disk":
        whole = Path(device.sys_path).parent.name
        raise DiskUnknown(path=path, detail=f"it is a partition of /dev/{whole}")
    return _describe(device, _take_snapshot())


def _context() -> "pyudev.Context":
    try:
        return pyudev.Context()
    except ImportError as error:
        raise ToolMissing(tool="libudev") from error


def _take_snapshot() -> _Snapshot:
    tree = read_tree()
    mounted = mounts.read_mounts()
    system: set[str] = set()
    for mount in mounts.system_mounts(mounted):
        system.update(holders.mount_devices(mount, tree))
    system.update(_backing_devices(system, mounted, tree))
    return _Snapshot(
        tree, holders.uses(mounted, mounts.read_swaps(), tree), tree.disks_below(system), _read_links()
    )


def _backing_devices(devs: Iterable[str], mounted: tuple[mounts.Mount, ...], tree: BlockTree) -> set[str]:
    """The devices below loop devices whose file is on a filesystem without a device number of its own (btrfs)."""
    found: set[str] = set()
    for dev in devs:
        node = tree.by_dev(dev)
        if node is not None and node.backing_file:
            below = mounts.covering(mounted, node.backing_file)
            found.update(holders.mount_devices(below, tree) if below is not None else ())
    return found


def _read_links() -> dict[str, tuple[str, ...]]:
    """The links in /dev/disk/by-id and by-path, by the device that they lead to."""
    found: dict[str, list[str]] = {}
    for directory in ("/dev/disk/by-id", "/dev/disk/by-path"):
        with suppress(OSError):
            for name in sorted(os.listdir(directory))[:_MAX_LINKS]:  # noqa: PTH208 - names are wanted
                link = f"{directory}/{name}"
                found.setdefault(os.path.realpath(link), []).append(link)
    return {device: tuple(links) for device, links in found.items()}


def _describe(device: "pyudev.Device", snapshot: _Snapshot) -> Disk:
    name: str = device.sys_name.replace("/", "!")
    path: str = device.device_node or f"/dev/{device.sys_name}"
    links = {*device.device_links, *snapshot.links.get(path, ())}
    disk = disk_from_sysfs(Path(device.sys_path), path, dict(device.properties), links)
    known = name in snapshot.tree.nodes
    return replace(
        disk,
        holders=holders.holders_of(name, snapshot.tree, snapshot.in_use) if known else (),
        boot_medium=name in snapshot.boot_media,
    )


def _describe_file(path: str, info: os.stat_result) -> Disk:
    tree = read_tree()
    loops = holders.loops_of(path, tree)
    attached = tuple(Holder("other", loop, path, path, stoppable=False) for loop in loops)
    swapped = tuple(
        Holder("swap", path, path, path, stoppable=False)
        for swap in mounts.read_swaps()
        if swap.kind == "file" and os.path.realpath(path) == swap.path
    )
    writable = os.access(path, os.W_OK)
    return Disk(
        path,
        info.st_size,
        kind="file",
        transport="file",
        read_only=not writable,
        holders=attached + swapped,
        identity=(info.st_dev, info.st_ino),
    )


# -- one disk by its directory in sysfs ------------------------------------------------------------------


def disk_from_sysfs(
    directory: Path, path: str, properties: Mapping[str, str], links: Iterable[str] = ()
) -> Disk:
    """A disk without its holders.

    Args:
        directory: the device's own directory in sysfs, links resolved (`/sys/devices/.../block/sda`).
        path: path of its node in /dev.
        properties: udev's properties, if there are any.
        links: paths of links to its node.
    """
    name = directory.name
    transport = transport_of(directory)
    in_path = sorted(link for link in links if link.startswith("/dev/disk/by-path/"))
    return Disk(
        path=path,
        # sysfs gives it in units of 512 bytes, whatever the sector size is.
        size=_number(directory / "size") * 512,
        kind=_device_kind(directory),
        transport=transport,
        by_id=tuple(sorted(link for link in links if link.startswith("/dev/disk/by-id/"))),
        by_path=in_path[0] if in_path else "",
        wwn=_wwn(directory, properties),
        serial=_serial(directory, properties),
        model=_first(directory, ("device/model",), properties, "ID_MODEL"),
        vendor=_vendor(directory, properties),
        logical_sector_size=_number(directory / "queue/logical_block_size") or 512,
        physical_sector_size=_number(directory / "queue/physical_block_size") or 512,
        rotational=_number(directory / "queue/rotational") == 1
        and not name.startswith(("nvme", "loop", "zram")),
        # libata also sets the flag for disks in hot-plug bays, which are not removable media.
        removable=_number(directory / "removable") == 1 and (transport != "sata" or name.startswith("sr")),
        read_only=_number(directory / "ro") == 1,
        names=read_names(directory, properties, in_path),
        identity=_identity(directory),
    )


def _identity(directory: Path) -> tuple[int, ...]:
    """The same as `agent.host.disk.identity_of` for the opened device."""
    major, _, minor = read_attribute(directory / "dev").partition(":")
    number = os.makedev(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else 0
    return number, _number(directory / "diskseq")


def transport_of(directory: Path) -> str:
    """The transport of a disk (`nvme`, `sata`, `usb`, ...), by its directory in sysfs."""
    name = directory.name
    if name.startswith("nvme"):
        return _nvme_transport(directory)
    for pattern, transport in _BUSES:
        if pattern.search(str(directory)):
            # A SATA disk on a SAS controller has the vendor ATA (SAT translation).
            is_ata = transport == "sas" and read_attribute(directory / "device/vendor") == "ATA"
            return "sata" if is_ata else transport
    return next((transport for prefix, transport in _NAMES if name.startswith(prefix)), "other")


def _nvme_transport(directory: Path) -> str:
    # With native multipath the disk belongs to the NVMe subsystem, and its controllers are links there.
    candidates = [directory / "device/transport", *sorted(directory.glob("device/nvme*/transport"))]
    found = next(filter(None, map(read_attribute, candidates)), "pcie")
    return "nvme" if found == "pcie" else f"nvme-{clean(found)}"


def _device_kind(directory: Path) -> str:
    name = directory.name
    if read_attribute(directory / "queue/zoned") == "host-managed":
        return "zoned"  # takes only sequential writes
    if _EMMC_EXTRA.fullmatch(name):
        return "other"
    return next((kind for prefix, kind in _KINDS if name.startswith(prefix)), "disk")


def _wwn(directory: Path, properties: Mapping[str, str]) -> str:
    # The kernel's own WWID first: it is the same with and without udev. Those that begin with "t10." are only model and
    # serial number.
    for attribute in ("wwid", "device/wwid"):
        wwid = clean(read_attribute(directory / attribute))
        if wwid.startswith("naa."):
            return f"0x{wwid[4:]}"
        if wwid and not wwid.startswith("t10."):
            return wwid
    return clean(properties.get("ID_WWN_WITH_EXTENSION") or properties.get("ID_WWN") or "")


def _serial(directory: Path, properties: Mapping[str, str]) -> str:
    serial = _first(directory, ("serial", "device/serial"), properties, "ID_SERIAL_SHORT")
    return serial or vpd_serial(directory)


def _vendor(directory: Path, properties: Mapping[str, str]) -> str:
    vendor = _first(directory, ("device/vendor",), properties, "ID_VENDOR")
    # Two values that are not vendors: "ATA" for any SATA disk, and the PCI vendor number of a virtio disk.
    return "" if vendor == "ATA" or vendor.startswith("0x") else vendor


def _first(directory: Path, attributes: Iterable[str], properties: Mapping[str, str], key: str) -> str:
    values = (clean(read_attribute(directory / attribute)) for attribute in attributes)
    return next(filter(None, values), "") or clean(properties.get(key, ""))


def _number(path: Path) -> int:
    text = read_attribute(path)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
