"""The error for an OSError of the target disk: the disk failed, the filesystem that a file is on is full, or the system
ran out of memory or descriptors.
"""

import errno
import os
from pathlib import Path

from agent.errors import DeployError, DiskIo, shortage


def disk_fault(path: str, error: OSError) -> DeployError:
    """The error for an operation on a disk that failed, outside of writing the image."""
    reason = error.strerror or str(error)
    return shortage(error, f"{path}: {reason}") or DiskIo(
        device=path, reason=reason, hint=full_hint(path, error)
    )


def full_hint(path: str, error: OSError) -> str:
    """What to do where there was no room for a file that stands in for a disk; empty for every other fault."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or Path(path).is_block_device():
        return ""
    place = _mount_point(path)
    what = "quota" if error.errno == errno.EDQUOT else "filesystem"
    return f"The {what} that {path} is on (mounted at {place}) is full: make room there, or choose another --disk."


def _mount_point(path: str) -> str:
    place = os.path.realpath(path)
    while not os.path.ismount(place):
        place = str(Path(place).parent)
    return place
