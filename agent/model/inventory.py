"""Reads the inventory document of a daemon: its groups with their disks, and what is on each disk. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from agent.model.contents import Contents, Members, read_contents
from agent.model.disk_names import NO_NAMES, Names
from agent.model.disks import Disk, DiskGroup, Holder, HolderKind


@dataclass(frozen=True, slots=True)
class Inventory:
    """The disks and groups from which a disk is chosen, and what is on the disks, by their paths."""

    disks: tuple[Disk, ...]
    groups: tuple[DiskGroup, ...]
    contents: Mapping[str, Contents]


def read_inventory(document: object) -> Inventory:
    """The inventory from its document.

    Raises:
        ValueError: it is not such a document; the text names the member at fault.
    """
    member = Members(document, "inventory")
    items = member.items("disks")
    disks = {disk.path: disk for disk in map(read_disk, items)}
    return Inventory(
        tuple(disks.values()),
        tuple(_read_group(item, disks) for item in member.items("groups")),
        {item["path"]: read_contents(item.get("contents")) for item in items},
    )


def read_disk(document: object) -> Disk:
    """A disk from its document, without its identity, which is not in there.

    Raises:
        ValueError: it is not such a document.
    """
    member = Members(document, "disks")
    return Disk(
        path=member.text("path"),
        size=member.count("size"),
        kind=member.text("kind"),
        transport=member.text("transport"),
        by_id=tuple(map(str, member.items("byId"))),
        by_path=member.text("byPath"),
        wwn=member.text("wwn"),
        serial=member.text("serial"),
        model=member.text("model"),
        vendor=member.text("vendor"),
        logical_sector_size=member.count("logicalSectorSize"),
        physical_sector_size=member.count("physicalSectorSize"),
        rotational=member.flag("rotational"),
        removable=member.flag("removable"),
        read_only=member.flag("readOnly"),
        holders=tuple(map(_read_holder, member.items("holders"))),
        boot_medium=member.flag("bootMedium"),
        names=_read_names(document),
    )


def _read_names(document: object) -> Names:
    hints = document.get("hints") if isinstance(document, Mapping) else None
    return NO_NAMES if hints is None else Names.read(hints)  # an older agent does not tell them


def _read_holder(document: object) -> Holder:
    member = Members(document, "holders")
    kind = member.text("kind")
    known = cast("HolderKind", kind if kind in get_args(HolderKind) else "other")
    return Holder(
        known, member.text("name"), member.text("where"), member.text("via"), member.flag("stoppable")
    )


def _read_group(document: object, disks: Mapping[str, Disk]) -> DiskGroup:
    member = Members(document, "groups")
    return DiskGroup(
        member.count("id"),
        tuple(disks[path] for path in map(str, member.items("disks")) if path in disks),
        target=disks.get(member.text("target")),
        configured=member.flag("configured"),
        missing=tuple(map(str, member.items("missing"))),
    )
