"""The inventory as a document: the disks, their groups, and why a disk is not eligible."""

from collections.abc import Sequence
from typing import Any

from agent.deploy.target import read_inventory
from agent.host.contents import read_contents
from agent.host.faults import disk_fault
from agent.model.disks import Disk, DiskGroup, GroupSpec, eligibility
from agent.model.selector import hint_values


def inventory_document(specs: Sequence[GroupSpec] = (), *, contents: bool = False) -> dict[str, Any]:
    """What `byoi disks` shows and `/v1/disks` answers. Blocking.

    Args:
        specs: the configured groups; none means those that like disks make.
        contents: whether the disks of the groups are read, to tell what is on them; else none is opened.

    Raises:
        DiskIo: the inventory cannot be read.
        ToolMissing: there is no libudev.
    """
    try:
        disks, groups = read_inventory(specs)
    except OSError as error:
        raise disk_fault(error.filename or "the inventory", error) from error
    return {
        "disks": [_disk_document(disk, groups, contents=contents) for disk in disks],
        "groups": [group.to_json() for group in groups],
    }


def _disk_document(disk: Disk, groups: Sequence[DiskGroup], *, contents: bool) -> dict[str, Any]:
    group = next((group for group in groups if disk.path in {other.path for other in group.disks}), None)
    reasons = eligibility(disk, explicit=group is not None and group.configured)
    document = disk.to_json() | {
        "diskGroupId": None if group is None else group.id,
        "eligible": not reasons,
        "reasons": list(reasons),
        "hints": hint_values(disk),
    }
    if contents:
        # Disks without a group are not read: no job goes there, and virtual media and disks of a network may hang.
        document["contents"] = None if group is None else read_contents(disk).to_json()
    return document
