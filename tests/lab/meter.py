"""Sent into a machine and run there by its own Python: what an agent takes, a line of JSON a second.

    ssh MACHINE python3 - UNIT DISK <meter.py

UNIT is the agent's, DISK a name such as vda. Of each line: `total`, `available` and `staged` (what lies in tmpfs) in
bytes; `written`, bytes that the disk has taken; `peaks`, the most that each program of the unit has had resident.
"""

import json
import sys
import time
from pathlib import Path

SECTOR = 512
"""The unit of /sys/block/*/stat, whatever the disk's own is."""
_NAMES = {"MemTotal": "total", "MemAvailable": "available", "Shmem": "staged"}


def _memory() -> dict[str, int]:
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in _NAMES:
            found[_NAMES[name]] = int(value.split()[0]) * 1024
    return found


def _peaks(unit: str) -> dict[str, int]:
    peaks: dict[str, int] = {}
    try:
        pids = Path(f"/sys/fs/cgroup/system.slice/{unit}/cgroup.procs").read_text().split()
    except OSError:  # it does not run
        return peaks
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        of = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if "VmHWM" in of:
            peaks[of["Name"]] = max(peaks.get(of["Name"], 0), int(of["VmHWM"].split()[0]) * 1024)
    return peaks


def main(unit: str, disk: str) -> None:
    """Tell it until nobody listens."""
    while True:
        written = int(Path(f"/sys/block/{disk}/stat").read_text().split()[6]) * SECTOR
        print(json.dumps({**_memory(), "written": written, "peaks": _peaks(unit)}), flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
