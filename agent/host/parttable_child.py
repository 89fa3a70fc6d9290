"""The program that `agent.host.parttable` runs: reads a partition table with pyparted and prints it as JSON.

Started as `python -I parttable_child.py DISK`, it imports nothing of this package. libparted offers to repair tables
while it reads them; all such questions are answered with "leave it as it is". pyparted may be absent (it is an extra of
the Python package), and what it is linked with: that is an answer too.
"""

import json
import sys
from typing import Any

try:
    import parted
except ImportError as error:
    parted, missing = None, str(error)


def read(path: str) -> dict[str, Any]:
    """The table of the disk at `path`, `{"error": text}`, or `{"missing": text}` where there is no pyparted."""
    if parted is None:
        return {"missing": missing}
    warnings: list[str] = []

    def leave_as_is(kind: int, options: int, message: str) -> int:
        answers = [parted.EXCEPTION_RESOLVE_CANCEL, parted.EXCEPTION_RESOLVE_NO]
        if kind in (parted.EXCEPTION_TYPE_INFORMATION, parted.EXCEPTION_TYPE_WARNING):
            warnings.append(message)
            # Not for errors: to ignore a failed read would mean to go on with bytes that are not on the disk.
            answers.insert(0, parted.EXCEPTION_RESOLVE_IGNORE)
        return int(next((a for a in answers if options & a), parted.EXCEPTION_RESOLVE_UNHANDLED))

    parted.register_exn_handler(leave_as_is)
    try:
        device = parted.getDevice(path)
        disk = parted.newDisk(device)
        return {
            "label": disk.type,
            "sector_size": device.sectorSize,
            "partitions": [describe(partition, device.sectorSize) for partition in disk.partitions],
            "warnings": warnings,
        }
    except (parted.DeviceException, parted.DiskException, parted.IOException) as error:
        return {"error": str(error)}


def describe(partition: Any, sector_size: int) -> dict[str, Any]:
    """One partition as JSON, with offsets in bytes; libparted's are in sectors."""
    named = partition.disk.supportsFeature(parted.DISK_TYPE_PARTITION_NAME)
    return {
        "number": partition.number,
        "start": partition.geometry.start * sector_size,
        "size": partition.geometry.length * sector_size,
        "name": partition.name or "" if named else None,
    }


if __name__ == "__main__":
    json.dump(read(sys.argv[1]), sys.stdout)
