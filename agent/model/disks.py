"""Disks as the agent knows them: what they are, whether they may be written, and how they fall into groups.

Owns the `Disk` document, the rules of eligibility, and the numbering of disk groups. Pure:
`agent.host.inventory` makes the disks, everything else only reads them. Nothing here ever chooses a second-
best disk: the image goes to the first disk of the chosen group, and if that disk may not be written, the job
fails with the reasons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.errors import DiskBusy, DiskGroupUnknown, DiskIneligible, DiskUnknown
from agent.text import printable
from agent.units import format_size

HolderKind = Literal["mount", "swap", "md", "lvm", "dm", "bcache", "other"]

# The order in which groups are numbered; a transport that is not listed comes after all of these.
TRANSPORT_ORDER = ("nvme", "sas", "sata", "scsi", "virtio")
# Disks that other machines may share: never chosen unless they are named.
NETWORK_TRANSPORTS = frozenset({"fc", "iscsi", "nvme-fc", "nvme-rdma", "nvme-tcp", "nbd", "rbd"})
_STACK_KINDS = frozenset({"md", "lvm", "dm"})


@dataclass(frozen=True, slots=True)
class Holder:
    """One thing that sits on a disk."""

    kind: HolderKind
    name: str
    """Path of the device that is mounted, swapped to or stacked (`/dev/md0`)."""
    where: str
    """Mount point, name of the array, `vg/lv`, name of the mapping."""
    via: str
    """Path of the partition or device that it sits on (`/dev/sda1`)."""
    stoppable: bool
    """Whether claiming the disk may stop it: an md, LVM or dm device with nothing mounted above."""

    def reason(self) -> str | None:
        """Why the disk must not be written, in words; None for a stack: what blocks that has its own."""
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
        """The holder as it stands in the inventory's document."""
        return {
            "kind": self.kind,
            "name": printable(self.name),
            "where": printable(self.where),
            "via": printable(self.via),
            "stoppable": self.stoppable,
        }


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole block device, or a file that stands in for one. Sizes are bytes; unknown texts are empty."""

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
    """Whether the running system's root, or what it is made of, lies on it."""
    identity: tuple[int, ...] = ()
    """What tells it from another disk that comes to bear its name; not in the document, for it means nothing after a
    reboot. See `agent.host.disk.identity_of`."""

    def to_json(self) -> dict[str, Any]:
        """The disk as it stands in the inventory's document; unknown texts are null."""
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
    """Like disks under one number. `target` gets the image: the first disk, or None where it is missing."""

    id: int
    disks: tuple[Disk, ...]
    target: Disk | None
    configured: bool = False
    """Whether the disks were named in the configuration: reasons that guard against guessing are lifted."""
    missing: tuple[str, ...] = ()
    """Configured paths that lead to no disk."""

    @property
    def _sample(self) -> Disk | None:
        return self.target or next(iter(self.disks), None)

    @property
    def transport(self) -> str:
        """Of the target, as are the three below; the disks of a configured group may differ."""
        return self._sample.transport if self._sample else ""

    @property
    def rotational(self) -> bool:
        """Whether the target rotates."""
        return self._sample is not None and self._sample.rotational

    @property
    def size(self) -> int:
        """Bytes of the target."""
        return self._sample.size if self._sample else 0

    @property
    def model(self) -> str:
        """Of the target."""
        return self._sample.model if self._sample else ""

    def to_json(self) -> dict[str, Any]:
        """The group as it stands in the inventory's document: its disks by their paths."""
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


# -- eligibility ---------------------------------------------------------------------------------------------


def eligibility(disk: Disk, *, explicit: bool) -> tuple[str, ...]:
    """Why the disk must not be written, in words for people; empty if it may be.

    Args:
        disk: fresh from the inventory: mounts come and go.
        explicit: the disk was named by its path, on the command line or in the configuration. That lifts the
            reasons that guard against guessing (removable, not an ordinary disk, attached over a network),
            never those that guard data in use.

    md, LVM and dm stacks with nothing mounted or swapped to above are no reason: claiming the disk stops
    them.
    """
    return _nature_reasons(disk, explicit=explicit) + _use_reasons(disk)


def require_eligible(disk: Disk, *, explicit: bool) -> None:
    """Refuse a disk that must not be written.

    Raises:
        DiskBusy: it is in use, and nothing else is wrong with it.
        DiskIneligible: any other reason; all of them are listed.
    """
    nature, use = _nature_reasons(disk, explicit=explicit), _use_reasons(disk)
    if nature:
        raise DiskIneligible(path=disk.path, reasons=", ".join(nature + use), detail=describe(disk))
    if use:
        raise DiskBusy(device=disk.path, holder=", ".join(use), detail=describe(disk))


def _nature_reasons(disk: Disk, *, explicit: bool) -> tuple[str, ...]:
    reasons: list[str] = []
    if disk.boot_medium:
        reasons.append("the rescue system itself runs from it")
    if disk.read_only:
        reasons.append("read-only")
    if disk.size <= 0:
        reasons.append("an empty file" if disk.kind == "file" else "no medium (its size is 0)")
    if not explicit:
        reasons += _guessing_reasons(disk)
    return tuple(reasons)


def _guessing_reasons(disk: Disk) -> list[str]:
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
    """Number the groups of like disks, from 1.

    Disks are alike when transport, rotation, size and model are equal. Only what the hardware is counts, so
    that a number means the same disks at every boot, whatever the kernel found first and whatever is mounted:
    ordinary local disks that are not removable and have a medium. A disk in use keeps its place (and is
    refused when chosen).

    Groups are ordered by transport (TRANSPORT_ORDER, then the others by name), solid state before rotating,
    then smaller before larger (where a server has two sizes, the small pair is made for the system), then by
    model. In a group the disks are ordered by WWN, or serial number, or by-path name, or kernel path,
    whichever is the first that is known.
    """
    alike: dict[tuple[Any, ...], list[Disk]] = {}
    for disk in disks:
        if not _guessing_reasons(disk) and disk.size > 0:
            alike.setdefault(_group_key(disk), []).append(disk)
    return tuple(
        DiskGroup(number, members, target=members[0])
        for number, (_, found) in enumerate(sorted(alike.items()), start=1)
        for members in [tuple(sorted(found, key=_disk_key))]
    )


def _group_key(disk: Disk) -> tuple[Any, ...]:
    known = disk.transport in TRANSPORT_ORDER
    rank = TRANSPORT_ORDER.index(disk.transport) if known else len(TRANSPORT_ORDER)
    return rank, disk.transport, disk.rotational, disk.size, disk.model


def _disk_key(disk: Disk) -> tuple[Any, ...]:
    # The path's length first: sdb comes before sdaa. It also decides between two paths to one disk of the
    # same WWN.
    return disk.wwn or disk.serial or disk.by_path, disk.by_path, len(disk.path), disk.path


def configured_groups(specs: Sequence[GroupSpec], disks: Mapping[str, Disk]) -> tuple[DiskGroup, ...]:
    """The groups of the configuration file, which replace those of the inventory.

    Args:
        specs: as configured; their disks keep their order.
        disks: what each configured path leads to; a path that leads nowhere is left out.

    Returns:
        Groups ordered by id. A missing disk does not move up the next one: such a group has no target.

    Raises:
        ValueError: an id that is no positive number or stands twice, or a group without disks.
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


def select_disk(groups: Sequence[DiskGroup], disk_group_id: int | None) -> Disk:
    """The disk that the image goes to: the first of the group, and never silently another one.

    Args:
        groups: of the inventory or of the configuration.
        disk_group_id: absent or 0 means the default group: the first.

    Raises:
        DiskGroupUnknown: there is no such group.
        DiskUnknown: the first configured disk of the group does not exist.
        DiskBusy, DiskIneligible: the first disk of the group must not be written.
    """
    group = next((g for g in groups if not disk_group_id or g.id == disk_group_id), None)
    if group is None:
        known = ", ".join(str(g.id) for g in groups)
        detail = f"known groups: {known}" if known else "no disk of this server can be in a group"
        raise DiskGroupUnknown(group=disk_group_id or "0 (the default)", detail=detail)
    if group.target is None:
        path = group.missing[0] if group.missing else f"the first disk of group {group.id}"
        raise DiskUnknown(path=path, detail=f"it is configured as the first disk of group {group.id}")
    require_eligible(group.target, explicit=group.configured)
    return group.target
