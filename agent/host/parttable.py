"""The partition table as libparted sees it: a second, independent reader, of the disk after the commit and, before,
of the bytes that it is to get.

libparted runs in a child process (`parttable_child`), never in the agent: a table that it does not like, such
as one with more than 8192 entries, makes it abort its process, it keeps descriptors and devices in caches of
its own, and it is not made for threads. A fresh process reads the disk as it is now. Nothing is ever written to a disk.
"""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.host import process

Label = Literal["gpt", "msdos"]

_CHILD = Path(__file__).with_name("parttable_child.py")
# A disk that answers takes milliseconds; one that does not must not hold up the report for ever.
_TIMEOUT = 60.0
_LIMITS = process.Limits()


class TableRefused(OSError):
    """libparted finds no sound GPT or MBR there, or fails on it; in its own words."""


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
        TableRefused: libparted does not read it.
        OSError: there is no such path, or libparted did not end in time (ProcessFailed).
    """
    disk = os.path.abspath(path)  # noqa: PTH100 - the child runs in another directory; links stay as they are
    os.stat(disk)  # noqa: PTH116 - for its FileNotFoundError; libparted knows only texts
    answer = _ask(disk)
    if "error" in answer:
        raise TableRefused(errno.EINVAL, str(answer["error"]), disk)
    return _report(answer, disk)


def read_written(writes: Iterable[tuple[int, bytes]], size: int) -> ParttableReport:
    """What libparted would read on a disk of `size` bytes with these writes (offset, bytes) on it and zeros elsewhere.

    Its sectors have 512 bytes: libparted takes a file for nothing else.

    Raises:
        TableRefused: libparted does not read it.
        OSError: there is no room for a sparse file of that size, or libparted did not end in time.
    """
    with tempfile.NamedTemporaryFile(prefix="byoi-table-", buffering=0) as file:
        os.truncate(file.fileno(), size)
        for offset, data in writes:
            os.pwrite(file.fileno(), data, offset)
        return read_partitions(file.name)


def _ask(disk: str) -> dict[str, Any]:
    # -I keeps the modules of this directory out of the child; UTF-8 is for the names of partitions.
    argv = [sys.executable, "-I", str(_CHILD), disk]
    environment = {"LC_ALL": "C.UTF-8"}
    try:
        done = process.run(argv, timeout=_TIMEOUT, env_extra=environment, limits=_LIMITS)
    except process.ProcessFailed as error:
        if error.errno == errno.ETIMEDOUT:
            raise
        raise TableRefused(errno.EINVAL, f"libparted fails on it: {error.what}", disk) from error
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _report(answer: dict[str, Any], disk: str) -> ParttableReport:
    label = answer["label"]
    if label not in ("gpt", "msdos"):
        raise TableRefused(
            errno.EINVAL, f"the partition table is of type {label}, expected gpt or msdos", disk
        )
    return ParttableReport(
        label=label,
        sector_size=answer["sector_size"],
        partitions=tuple(PartitionSeen(**partition) for partition in answer["partitions"]),
        warnings=tuple(answer["warnings"]),
    )
