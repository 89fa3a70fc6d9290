"""Disks and disk groups: their documents, the rules for which disk may be written, and the numbering of groups.

`agent.host.inventory` creates the disks; everything else only reads them. The image goes to the first disk of the
chosen group, or to the first ones. If one of them may not be written, the job fails with the reasons; no other disk is
chosen instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.errors import DiskBusy, DiskGroupUnknown, DiskIneligible, DiskUnknown, RaidDisks
from agent.model.disk_names import NO_NAMES, Names
from agent.text import printable
from agent.units import format_size

HolderKind = Literal["mount", "swap", "md", "lvm", "dm", "bcache", "other"]

# The order in which groups are numbered; a transport that is not listed comes after all of these.
TRANSPORT_ORDER = ("nvme", "sas", "sata", "scsi", "virtio")
# Disks that other machines may use too: they are in no group, and are only written if their path is given.
NETWORK_TRANSPORTS = frozenset({"fc", "iscsi", "nvme-fc", "nvme-rdma", "nvme-tcp", "nbd", "rbd"})
_STACK_KINDS = frozenset({"md", "lvm", "dm"})


@dataclass(frozen=True, slots=True)
class Holder:
    """One use of a disk: a mount, a swap area, or a device that is built on it."""

    kind: HolderKind
    name: str
    """Path of the device that is mounted, swapped to or stacked (`/dev/md0`)."""
    where: str
    """Mount point, name of the array, `vg/lv`, name of the mapping."""
    via: str
    """Path of the partition or device below it (`/dev/sda1`)."""
    stoppable: bool
    """Whether the claim stage may stop it: an md, LVM or dm device with nothing mounted or used as swap above."""

    def reason(self) -> str | None:
        """Why the disk must not be written, for people; None for md, LVM and dm, whose uses are holders themselves."""
        via = printable(self.via)
        match self.kind:
            case "mount":
                return f"mounted at {printable(self.where)} ({printable(self.name)})"
            case "swap":
                return f"used as swap ({via})"
            case "other" if self.name.startswith("/dev/loop"):
                return f"attached as {printable(self.name)}"
            case "bcache" | "other":
                return f"held by {printable(self.name)} ({via})"
            case "md" | "lvm" | "dm":
                return None

    def to_json(self) -> dict[str, Any]:
        """The holder in the inventory document."""
        return {
            "kind": self.kind,
            "name": printable(self.name),
            "where": printable(self.where),
            "via": printable(self.via),
            "stoppable": self.stoppable,
        }


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole block device, or a regular file in its place. Sizes are in bytes; unknown texts are empty."""

    path: str
    size: int
    kind: str = "disk"
    """disk, zoned, loop, zram, ram, optical, floppy, dm, md, bcache, file, other."""
    transport: str = "other"
    """nvme, sas, sata, scsi, virtio, usb, mmc, xen, pmem, loop, file, one of NETWORK_TRANSPORTS, or other."""
    by_id: tuple[str, ...] = ()
    by_path: str = ""
    wwn: str = ""
    serial: str = ""
    model: str = ""
    vendor: str = ""
    logical_sector_size: int = 512
    physical_sector_size: int = 512
    rotational: bool = False
    removable: bool = False
    read_only: bool = False
    holders: tuple[Holder, ...] = ()
    boot_medium: bool = False
    """Whether the running system's root filesystem, or a layer of it, is on this disk."""
    names: Names = NO_NAMES
    """What else it is called, for a disk selector. In the inventory document only, as its `hints`."""
    identity: tuple[int, ...] = ()
    """Differs if the same path leads to another disk later (`agent.host.disk.identity_of`). Not in the document: it has
    no meaning after a reboot."""

    def to_json(self) -> dict[str, Any]:
        """The disk in the inventory document; unknown texts are null."""
        return {
            "path": self.path,
            "size": self.size,
            "kind": self.kind,
            "transport": self.transport,
            "byId": list(self.by_id),
            "byPath": self.by_path or None,
            "wwn": self.wwn or None,
            "serial": self.serial or None,
            "model": self.model or None,
            "vendor": self.vendor or None,
            "logicalSectorSize": self.logical_sector_size,
            "physicalSectorSize": self.physical_sector_size,
            "rotational": self.rotational,
            "removable": self.removable,
            "readOnly": self.read_only,
            "holders": [holder.to_json() for holder in self.holders],
            "bootMedium": self.boot_medium,
        }


@dataclass(frozen=True, slots=True)
class DiskGroup:
    """Disks under one number. `target` gets the image: the first disk, or None if that is missing."""

    id: int
    disks: tuple[Disk, ...]
    target: Disk | None
    configured: bool = False
    """Whether the configuration names its disks; they may then be of a kind that is not chosen otherwise."""
    missing: tuple[str, ...] = ()
    """Configured paths without a disk."""

    @property
    def _sample(self) -> Disk | None:
        return self.target or next(iter(self.disks), None)

    @property
    def transport(self) -> str:
        """Transport of the target. In a configured group other disks may differ in this and the following."""
        return self._sample.transport if self._sample else ""

    @property
    def rotational(self) -> bool:
        """Whether the target rotates."""
        return self._sample is not None and self._sample.rotational

    @property
    def size(self) -> int:
        """Size of the target in bytes."""
        return self._sample.size if self._sample else 0

    @property
    def model(self) -> str:
        """Model of the target."""
        return self._sample.model if self._sample else ""

    def to_json(self) -> dict[str, Any]:
        """The group in the inventory document, with the paths of its disks."""
        return {
            "id": self.id,
            "disks": [disk.path for disk in self.disks],
            "target": self.target.path if self.target else None,
            "transport": self.transport or None,
            "rotational": self.rotational,
            "size": self.size,
            "model": self.model or None,
            "configured": self.configured,
            "missing": list(self.missing),
        }


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A `[[disk_group]]` of the configuration file."""

    id: int
    disks: tuple[str, ...]


def describe(disk: Disk) -> str:
    """One line for people: `/dev/sda: 3.6 TiB sata hdd, ST4000NM, serial Z1, 512-byte sectors`."""
    spin = {"disk": " hdd" if disk.rotational else " ssd"}.get(disk.kind, "")
    what = disk.transport if disk.kind in ("disk", disk.transport) else f"{disk.transport} {disk.kind}"
    parts = [f"{disk.path}: {format_size(disk.size)} {what}{spin}"]
    name = " ".join(part for part in (disk.vendor, disk.model) if part)
    parts += [name] if name else []
    parts += [f"serial {disk.serial}"] if disk.serial else []
    return ", ".join([*parts, f"{disk.logical_sector_size}-byte sectors"])


def is_same_disk(first: Disk, second: Disk) -> bool:
    """Whether two entries of the inventory are one disk: by the kernel's number, or by the WWN, where two ways lead to
    it (multipath).
    """
    same_number = bool(first.identity) and first.identity == second.identity
    return same_number or (bool(first.wwn) and first.wwn == second.wwn)


# -- eligibility ---------------------------------------------------------------------------------------------


def eligibility(disk: Disk, *, explicit: bool) -> tuple[str, ...]:
    """The reasons why the disk must not be written, for people; empty if it may be.

    md, LVM and dm devices with nothing mounted or used as swap above are no reason: the claim stage stops them.

    Args:
        disk: just read from the inventory, because mounts change.
        explicit: whether the disk was named: by its path, on the command line or in the configuration, or by an exact
            selector. Then it may be removable, of an unusual kind, or attached over a network; data in use is a reason
            in any case.
    """
    return _hardware_reasons(disk, explicit=explicit) + _use_reasons(disk)


def require_eligible(disk: Disk, *, explicit: bool) -> None:
    """Refuse a disk that must not be written.

    Raises:
        DiskBusy: it is in use, and there is no other reason.
        DiskIneligible: there are other reasons; all reasons are listed.
    """
    hardware, use = _hardware_reasons(disk, explicit=explicit), _use_reasons(disk)
    if hardware:
        raise DiskIneligible(path=disk.path, reasons=", ".join(hardware + use), detail=describe(disk))
    if use:
        raise DiskBusy(device=disk.path, holder=", ".join(use), detail=describe(disk))


def _hardware_reasons(disk: Disk, *, explicit: bool) -> tuple[str, ...]:
    reasons: list[str] = []
    if disk.boot_medium:
        reasons.append("the rescue system itself runs from it")
    if disk.read_only:
        reasons.append("read-only")
    if disk.size <= 0:
        reasons.append("an empty file" if disk.kind == "file" else "no medium (its size is 0)")
    if not explicit:
        reasons += _unusual_reasons(disk)
    return tuple(reasons)


def _unusual_reasons(disk: Disk) -> list[str]:
    reasons = []
    if disk.removable:
        reasons.append("removable")
    if disk.kind != "disk":
        reasons.append(f"not an ordinary disk but of kind {disk.kind}")
    if disk.transport in NETWORK_TRANSPORTS:
        reasons.append(f"attached over a network ({disk.transport})")
    return reasons


def _use_reasons(disk: Disk) -> tuple[str, ...]:
    reasons = (holder.reason() for holder in disk.holders)
    return tuple(dict.fromkeys(reason for reason in reasons if reason is not None))


# -- groups --------------------------------------------------------------------------------------------------


def disk_groups(disks: Iterable[Disk]) -> tuple[DiskGroup, ...]:
    """Divide disks into groups of equal disks, numbered from 1.

    Disks of a group are equal in transport, rotation, size and model. Groups have ordinary local disks only, which are
    not removable and have a medium. The numbers depend on the hardware alone, so that they are the same at every boot,
    in whatever order the kernel finds the disks and whatever is mounted; a disk in use keeps its position and is
    refused when it is chosen.

    Groups are sorted by transport (`TRANSPORT_ORDER`, then others by name), solid state before rotating, smaller before
    larger (servers with two sizes have the small disks for the system), then by model. Within a group disks are sorted
    by the first of these that is known: WWN, serial number, by-path name, kernel path.
    """
    alike: dict[tuple[Any, ...], list[Disk]] = {}
    for disk in disks:
        if not _unusual_reasons(disk) and disk.size > 0:
            alike.setdefault(_group_key(disk), []).append(disk)
    return tuple(
        DiskGroup(number, members, target=members[0])
        for number, (_, found) in enumerate(sorted(alike.items()), start=1)
        for members in [tuple(sorted(found, key=_disk_key))]
    )


def in_stable_order(disks: Iterable[Disk]) -> tuple[Disk, ...]:
    """The disks in the order of the groups, which depends on the hardware alone."""
    return tuple(sorted(disks, key=lambda disk: (_group_key(disk), _disk_key(disk))))


def _group_key(disk: Disk) -> tuple[Any, ...]:
    known = disk.transport in TRANSPORT_ORDER
    rank = TRANSPORT_ORDER.index(disk.transport) if known else len(TRANSPORT_ORDER)
    return rank, disk.transport, disk.rotational, disk.size, disk.model


def _disk_key(disk: Disk) -> tuple[Any, ...]:
    # The length of the path before the path: sdb comes before sdaa. This also orders two paths to one disk (one WWN).
    return disk.wwn or disk.serial or disk.by_path, disk.by_path, len(disk.path), disk.path


def configured_groups(specs: Sequence[GroupSpec], disks: Mapping[str, Disk]) -> tuple[DiskGroup, ...]:
    """The groups of the configuration, which replace those of the inventory.

    Args:
        specs: the groups as configured; their disks keep their order.
        disks: the disk at each configured path; paths without a disk are left out.

    Returns:
        Groups sorted by id. If the first disk of a group is missing, the group has no target, and not the next disk.

    Raises:
        ValueError: an id is not positive or not unique, or a group has no disks.
    """
    groups: dict[int, DiskGroup] = {}
    for spec in specs:
        if spec.id < 1 or spec.id in groups or not spec.disks:
            raise ValueError(
                f"disk group {spec.id}: ids are positive and unique, and each group names its disks"
            )
        groups[spec.id] = DiskGroup(
            spec.id,
            tuple(disks[path] for path in spec.disks if path in disks),
            target=disks.get(spec.disks[0]),
            configured=True,
            missing=tuple(path for path in spec.disks if path not in disks),
        )
    return tuple(groups[number] for number in sorted(groups))


def select_disks(groups: Sequence[DiskGroup], disk_group_id: int | None, count: int = 1) -> tuple[Disk, ...]:
    """The disks that the image goes to: the first ones of the group, never others instead.

    Args:
        groups: the groups of the inventory or of the configuration.
        disk_group_id: None or 0 for the default group, which is the first.
        count: how many disks get the image.

    Raises:
        DiskGroupUnknown: the group does not exist.
        DiskUnknown: the first configured disk of the group does not exist.
        RaidDisks: the group has fewer disks.
        DiskBusy, DiskIneligible: one of these disks must not be written.
    """
    group = next((g for g in groups if not disk_group_id or g.id == disk_group_id), None)
    if group is None:
        known = ", ".join(str(g.id) for g in groups)
        detail = f"known groups: {known}" if known else "no disk of this server can be in a group"
        raise DiskGroupUnknown(group=disk_group_id or "0 (the default)", detail=detail)
    if group.target is None:
        path = group.missing[0] if group.missing else f"the first disk of group {group.id}"
        raise DiskUnknown(path=path, detail=f"it is configured as the first disk of group {group.id}")
    targets = group.disks[:count]
    if len(targets) < count or (count > 1 and group.missing):
        raise too_few(count, f"group {group.id} has {len(group.disks)}", group.missing)
    for target in targets:
        require_eligible(target, explicit=group.configured)
    return targets


def too_few(count: int, found: str, missing: Sequence[str] = ()) -> RaidDisks:
    """The error for a job that wants more disks than there are; `found` tells how many there are."""
    absent = f"; {', '.join(missing)} of its configuration is not there" if missing else ""
    return RaidDisks(reason=f"the job wants {count} disks, {found}{absent}")
