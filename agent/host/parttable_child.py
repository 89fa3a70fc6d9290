"""The program that `agent.host.parttable` runs: reads a partition table with pyparted and prints it as JSON.

Started as `python -I parttable_child.py DISK`, it imports nothing of this package. libparted offers to repair tables
while it reads them; all such questions are answered with "leave it as it is". pyparted may be absent (it is an extra of
the Python package), and what it is linked with: that is an answer too.
"""

import json
import sys
from collections.abc import Iterator

try:
    # Not `parted`, the layer above it: to import that takes as long as an interpreter takes to start.
    import _ped
except ImportError as error:
    _ped, missing = None, str(error)


def read(path: str) -> dict[str, object]:
    """The table of the disk at `path`, `{"error": text}`, or `{"missing": text}` where there is no pyparted."""
    if _ped is None:
        return {"missing": missing}
    warnings: list[str] = []

    def leave_as_is(kind: int, options: int, message: str) -> int:
        answers = [_ped.EXCEPTION_RESOLVE_CANCEL, _ped.EXCEPTION_RESOLVE_NO]
        if kind in (_ped.EXCEPTION_TYPE_INFORMATION, _ped.EXCEPTION_TYPE_WARNING):
            warnings.append(message)
            # Not for errors: to ignore a failed read would mean to go on with bytes that are not on the disk.
            answers.insert(0, _ped.EXCEPTION_RESOLVE_IGNORE)
        return int(next((a for a in answers if options & a), _ped.EXCEPTION_RESOLVE_UNHANDLED))

    _ped.register_exn_handler(leave_as_is)
    try:
        device = _ped.device_get(path)
        disk = _ped.disk_new(device)
        return {
            "label": disk.type.name,
            "sector_size": device.sector_size,
            "partitions": [describe(partition, disk, device.sector_size) for partition in partitions(disk)],
            "warnings": warnings,
        }
    except (_ped.DeviceException, _ped.DiskException, _ped.IOException) as error:
        return {"error": str(error)}


def partitions(disk: "_ped.Disk") -> Iterator["_ped.Partition"]:
    """The partitions of a disk, without what libparted lists as well: free space, and the table itself."""
    others = _ped.PARTITION_FREESPACE | _ped.PARTITION_METADATA | _ped.PARTITION_PROTECTED
    partition = disk.next_partition()
    while partition is not None:
        if not partition.type & others:
            yield partition
        partition = disk.next_partition(partition)


def describe(partition: "_ped.Partition", disk: "_ped.Disk", sector_size: int) -> dict[str, object]:
    """One partition as JSON, with offsets in bytes; libparted's are in sectors."""
    named = disk.type.check_feature(_ped.DISK_TYPE_PARTITION_NAME)
    return {
        "number": partition.num,
        "start": partition.geom.start * sector_size,
        "size": partition.geom.length * sector_size,
        "name": partition.get_name() or "" if named else None,
    }


if __name__ == "__main__":
    json.dump(read(sys.argv[1]), sys.stdout)
