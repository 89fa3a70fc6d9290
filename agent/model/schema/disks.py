"""The schemas of one disk, and of the inventory of all."""

from collections.abc import Sequence
from typing import get_args

from agent.model.disk_names import NAME_KEYS
from agent.model.disks import HolderKind
from agent.model.schema.blocks import Schema, a_count, an_object, nullable, of


def disks_schema() -> Schema:
    """The inventory: every disk, and the groups that `diskGroupId` names."""
    listed = disk_schema()
    listed["properties"] |= {
        "diskGroupId": nullable(of("integer", minimum=1)),
        "eligible": of("boolean", "Whether an image may go there."),
        "reasons": of("array", "Why it may not.", items=of("string")),
    }
    listed["properties"]["contents"] = nullable(_contents())  # only where it was asked for
    listed["properties"]["hints"] = _hints()
    listed["required"] += ["diskGroupId", "eligible", "reasons", "hints"]
    group = {
        "id": of("integer", minimum=1),
        "disks": of("array", "Their paths.", items=of("string")),
        "target": nullable(of("string", "The disk that the image goes to: the first of the group.")),
        "transport": nullable(of("string")),
        "rotational": of("boolean"),
        "size": a_count("Bytes of the target."),
        "model": nullable(of("string")),
        "configured": of("boolean", "Whether the configuration names its disks."),
        "missing": of("array", "Configured paths that lead to no disk.", items=of("string")),
    }
    return an_object({"disks": of("array", items=listed), "groups": of("array", items=an_object(group))})


def _hints() -> Schema:
    names = {key: of("array", items=of("string")) for key in NAME_KEYS}
    rest = {"size": a_count("GiB, rounded down."), "rotational": of("boolean")}
    return an_object(
        names | rest, text="What the members of a job's `disk` are compared with; one name is enough."
    )


def _contents() -> Schema:
    """What is on a disk, and lost where an image is written to it."""
    piece = {
        "path": of("string", "Of its node; of a partition of a regular file: FILE#NUMBER."),
        "size": a_count("Bytes."),
        "on": nullable(of("string", "The path of what it is on. null: it is the disk itself.")),
        "type": nullable(of("string", "What it holds, as blkid names it. null: not known.")),
        "label": nullable(of("string", "Of its filesystem; the name of its array, volume group or pool.")),
        "name": nullable(of("string", "Of the partition, in a GPT; of the volume, array or mapping.")),
    }
    properties = {
        "blank": of("boolean", "Whether nothing is on it."),
        "table": nullable(of("string", enum=["gpt", "mbr"])),
        "pieces": of("array", "Partitions, and what is built on them.", items=an_object(piece)),
        "leftOut": a_count("How many more there are."),
        "unread": nullable(of("string", "Why it could not be read. null: it was.")),
    }
    return an_object(properties)


def disk_schema(required: Sequence[str] | None = None) -> Schema:
    """One disk; all members are required unless `required` lists fewer."""
    unknown = nullable(of("string", "null: not known."))
    holder = {
        "kind": of("string", enum=list(get_args(HolderKind))),
        "name": of("string"),
        "where": of("string", "Mount point, name of the array, of the volume."),
        "via": of("string", "The partition or device that it sits on."),
        "stoppable": of("boolean", "Whether claiming the disk may stop it."),
    }
    properties = {
        "path": of("string"),
        "size": a_count("Bytes."),
        "kind": of("string"),
        "transport": of("string"),
        "byId": of("array", items=of("string")),
        "byPath": unknown,
        "wwn": unknown,
        "serial": unknown,
        "model": unknown,
        "vendor": unknown,
        "logicalSectorSize": a_count("Bytes."),
        "physicalSectorSize": a_count("Bytes."),
        "rotational": of("boolean"),
        "removable": of("boolean"),
        "readOnly": of("boolean"),
        "holders": of("array", "What sits on it.", items=an_object(holder)),
        "bootMedium": of("boolean", "Whether the running system lies on it."),
    }
    return an_object(properties, required=required)
