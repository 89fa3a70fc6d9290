"""Reads a partition table with libparted, as a check that is independent of `agent.formats.tables`.

The finish stage checks the bytes that it is going to write, the commit stage the disk after the write. libparted runs
in a child process (`parttable_child`), never in the agent: it aborts its process on some tables (such as one with
more than 8192 entries), caches descriptors and devices, and is not safe with threads. A new process reads the disk as
it is now. Nothing is written to a disk.
"""

import errno
import json
import os
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.host import process

Label = Literal["gpt", "msdos"]

_CHILD = Path(__file__).with_name("parttable_child.py")
# Seconds. A disk that works takes milliseconds; one that hangs must not delay the report for ever.
_TIMEOUT = 60.0
_LIMITS = process.ChildLimits()


class TableRefused(OSError):
    """libparted finds no valid GPT or MBR, or fails while it reads one; the text is libparted's."""


class PartedMissing(OSError):
    """There is no pyparted that libparted could be asked by, or it cannot be loaded; the text says which."""


@dataclass(frozen=True)
class PartitionSeen:
    """One partition, `start` and `size` in bytes. An extended partition is listed as well as its logical ones."""

    number: int
    start: int
    size: int
    name: str | None
    """The partition's name in a GPT (may be empty), None in an MBR."""


@dataclass(frozen=True)
class ParttableReport:
    """A partition table; `warnings` are libparted's messages, for example about unused space at the disk's end."""

    label: Label
    sector_size: int
    partitions: tuple[PartitionSeen, ...]
    warnings: tuple[str, ...]


def read_partitions(path: str | os.PathLike[str]) -> ParttableReport:
    """Read the partition table of a disk, or of a regular file, which is taken for a disk with sectors of 512 bytes.

    Raises:
        PartedMissing: libparted cannot be asked.
        TableRefused: libparted cannot read it.
        OSError: the path does not exist, or libparted did not end within 60 s (ProcessFailed).
    """
    disk = os.path.abspath(path)  # noqa: PTH100 - the child runs in another directory; links are not resolved
    os.stat(disk)  # noqa: PTH116 - for its FileNotFoundError; libparted has only messages
    return _report(_ask(disk), disk)


def read_written(writes: Iterable[tuple[int, bytes]], size: int) -> ParttableReport:
    """Read the partition table that a disk of `size` bytes, zeros but for these writes (offset, bytes), would have.

    The disk is simulated by a sparse file in memory, for which libparted always assumes sectors of 512 bytes. It has no
    name that an agent which is killed could leave behind.

    Raises:
        PartedMissing: libparted cannot be asked.
        TableRefused: libparted cannot read it.
        OSError: a sparse file of that size cannot be made, or libparted did not end within 60 s (ProcessFailed).
    """
    descriptor = os.memfd_create("byoi-table")
    try:
        os.truncate(descriptor, size)
        for offset, data in writes:
            os.pwrite(descriptor, data, offset)
        path = f"/proc/self/fd/{descriptor}"
        return _report(_ask(path, (descriptor,)), path)
    finally:
        os.close(descriptor)


def _ask(disk: str, files: Collection[int] = ()) -> dict[str, Any]:
    # -I: the child imports no modules from this directory. UTF-8 is for the names of partitions.
    argv = [sys.executable, "-I", str(_CHILD), disk]
    environment = {"LC_ALL": "C.UTF-8"}
    try:
        done = process.run(argv, timeout=_TIMEOUT, env_extra=environment, limits=_LIMITS, files=files)
    except process.ProcessFailed as error:
        if error.errno == errno.ETIMEDOUT:
            raise
        raise TableRefused(errno.EINVAL, f"libparted fails on it: {error.what}", disk) from error
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _report(answer: dict[str, Any], disk: str) -> ParttableReport:
    if "missing" in answer:
        raise PartedMissing(errno.ENOPKG, f"pyparted is not installed ({answer['missing']})")
    if "error" in answer:
        raise TableRefused(errno.EINVAL, str(answer["error"]), disk)
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
