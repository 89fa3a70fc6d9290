"""The partition table as libparted sees it: the check after the commit by a second, independent reader.

libparted runs in a child process (`parttable_child`), never in the agent: a table that it does not like, such
as one with more than 8192 entries, makes it abort its process, it keeps descriptors and devices in caches of
its own, and it is not made for threads. A fresh process reads the disk as it is now. Used by the stage that
verifies. Nothing is ever written.
"""

import errno
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.host import process

Label = Literal["gpt", "msdos"]

_CHILD = Path(__file__).with_name("parttable_child.py")
# A disk that answers takes milliseconds; one that does not must not hold up the report for ever.
_TIMEOUT = 60.0
_LIMITS = process.Limits()


@dataclass(frozen=True)
class PartitionSeen:
    """One partition, `start` and `size` in bytes. An extended partition is listed beside its logical ones."""

    number: int
    start: int
    size: int
    name: str | None
    """The partition's name on GPT (may be empty), None on MBR."""


@dataclass(frozen=True)
class ParttableReport:
    """A whole table; `warnings` are libparted's own words, e.g. on space at the end that is not used."""

    label: Label
    sector_size: int
    partitions: tuple[PartitionSeen, ...]
    warnings: tuple[str, ...]


def read_partitions(path: str | os.PathLike[str]) -> ParttableReport:
    """Read the partition table of a disk, or of a regular file as a disk with sectors of 512 bytes.

    Raises:
        OSError: there is no such path; or libparted finds no sound GPT or MBR there (EINVAL, with its words).
        ProcessFailed: libparted crashed or did not end (an OSError too).
    """
    disk = os.path.abspath(path)  # noqa: PTH100 - the child runs in another directory; links stay as they are
    os.stat(disk)  # noqa: PTH116 - for its FileNotFoundError; libparted knows only texts
    # -I keeps the modules of this directory out of the child; UTF-8 is for the names of partitions.
    argv = [sys.executable, "-I", str(_CHILD), disk]
    answer = json.loads(
        process.run(argv, timeout=_TIMEOUT, env_extra={"LC_ALL": "C.UTF-8"}, limits=_LIMITS).stdout
    )
    if "error" in answer:
        raise OSError(errno.EINVAL, str(answer["error"]), disk)
    return _report(answer, disk)


def _report(answer: dict[str, Any], disk: str) -> ParttableReport:
    label = answer["label"]
    if label not in ("gpt", "msdos"):
        raise OSError(errno.EINVAL, f"the partition table is of type {label}, expected gpt or msdos", disk)
    return ParttableReport(
        label=label,
        sector_size=answer["sector_size"],
        partitions=tuple(PartitionSeen(**partition) for partition in answer["partitions"]),
        warnings=tuple(answer["warnings"]),
    )
