"""How many disks get the image, and what they make together: the members `disks` and `raid` of a job."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent.model.object_reader import ObjectReader

RAID_LEVELS = ("raid1",)
MAX_DISKS = 16
MIRROR_DISKS = 2
# As everybody writes one, or as mdadm does.
UUID_TEXT = re.compile(
    r"[0-9A-Fa-f]{8}((-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{4}|(:[0-9A-Fa-f]{8}){2}:)[0-9A-Fa-f]{8}"
)


@dataclass(frozen=True, slots=True)
class Raid:
    """A mirror to be made of the image's root."""

    disks: int = MIRROR_DISKS
    uuid: UUID | None = None
    """Of the array; None: one of its own each time."""

    def document(self) -> dict[str, Any]:
        """As it is posted."""
        document: dict[str, Any] = {"level": "raid1", "disks": self.disks}
        return document if self.uuid is None else document | {"uuid": str(self.uuid)}


def read_disk_count(reader: ObjectReader) -> int:
    """The number of disks that a job names, 1 where it names none."""
    count = reader.integer("disks")
    if count is not None and not 1 <= count <= MAX_DISKS:
        reader.fault("disks", f"must be from 1 to {MAX_DISKS}")
    if count is not None and reader.has("raid"):
        reader.fault("disks", "stands beside raid, which has its own number of disks")
    return count or 1


def read_raid(reader: ObjectReader) -> Raid:
    """The mirror that the object of the member `raid` describes."""
    level, count, name = reader.text("level", required=True), reader.integer("disks"), reader.text("uuid")
    if level is not None and level not in RAID_LEVELS:
        reader.fault("level", f"must be {' or '.join(RAID_LEVELS)}")
    if count is not None and count != MIRROR_DISKS:
        reader.fault("disks", f"must be {MIRROR_DISKS}: a mirror has so many disks")
    if name is not None and not UUID_TEXT.fullmatch(name):
        reader.fault("uuid", "is no UUID")
        name = None
    reader.refuse_unknown()
    return Raid(count or MIRROR_DISKS, None if name is None else UUID(name.replace(":", "")))
