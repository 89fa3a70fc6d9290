"""`measure.py REPORT COMMAND...`: run a command and write its wall clock, processor time and peak memory as JSON.

In a small process of its own, for two reasons. A process that is forked starts with the peak memory of the one that
forked it. And `tee >(sha256sum)` leaves a process behind that the shell does not wait for: here it is adopted and
waited for, and its processor time counts.
"""

import ctypes
import json
import os
import resource
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> int:
    report, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    began = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    status = 1
    while True:
        try:
            pid, result = os.wait()
        except ChildProcessError:
            break
        if pid == child:
            status = os.waitstatus_to_exitcode(result)
    wall = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    document = {
        "wall": wall,
        "ended": time.time(),
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }
    Path(report).write_text(json.dumps(document))
    return abs(status)


if __name__ == "__main__":
    sys.exit(main())
