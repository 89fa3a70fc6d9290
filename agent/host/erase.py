"""Erases disks: what they boot and are known by, what can be erased in moments, or all that they hold.

Every function refuses a disk that must not be written (`agent.model.disks.require_eligible`) or is not the one that was
examined, stops the md, LVM and dm stacks on it, claims it, and zeroes both its ends first: whatever fails afterwards,
and whenever the power is cut, nothing on it boots. Everything blocks. A disk is released when a function ends.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agent.errors import DiskBusy, DiskIo, JobCancelled
from agent.host import process, udev
from agent.host.descriptor import UNSUPPORTED
from agent.host.disk import ZERO_STEP, TargetDisk
from agent.host.faults import disk_fault
from agent.host.self_erase import let_erase, unlock
from agent.host.taking import take
from agent.host.wipe import wipe_ends, wipe_metadata
from agent.model.disks import Disk, require_eligible
from agent.model.self_erasure import CannotEraseItself, Method
from agent.units import GiB

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""

# A device forgets this much in one step, so that it answers others in between.
_DISCARD_STEP = 64 * GiB
_FAILED_HINT = (
    "Erase it again, or let it be overwritten instead; a disk that cannot erase itself may be failing."
)


@dataclass(frozen=True, slots=True)
class Erased:
    """What was done to one disk."""

    path: str
    serial: str
    """Empty where it is not known."""
    method: Method
    command: str
    """The command line of the program, or the kernel's operation."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What else was done, and why nothing better was, for people."""

    def to_json(self) -> dict[str, Any]:
        """The document of a result; an unknown serial number is null."""
        return {
            "path": self.path,
            "serial": self.serial or None,
            "method": self.method,
            "command": self.command,
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
        }


def erase_metadata(disk: Disk, *, explicit: bool = False) -> Erased:
    """Zero both ends of a disk and the signatures of its old partitions: nothing on it boots or is found any more.

    Args:
        disk: just read from the inventory.
        explicit: whether it was named by its path; see `agent.model.disks.eligibility`.

    Raises:
        DiskIneligible, DiskBusy: it must not be written; nothing was.
        DiskIo: it is another disk by now (nothing was written), or fails.
        ToolMissing: the rescue system lacks what stops a stack.
    """
    with _working(disk, explicit=explicit) as work:
        return work.done("metadata", work.disk.zeroed_by)


def erase_express(disk: Disk, *, explicit: bool = False, tool: process.Tool = process.output) -> Erased:
    """Erase what can be erased in moments: an NVMe format, else a discard, with the metadata in any case.

    A discard makes no promise of what is read afterwards; both ends and the old signatures are zero all the same.
    Arguments and errors are those of `erase_metadata`; a disk that can neither be formatted nor discarded is no error.
    """
    with _working(disk, explicit=explicit) as work:
        if disk.transport == "nvme":
            try:
                return _erase_itself(work, tool, overwrite_after_failure=True)
            except CannotEraseItself as why:
                work.notes.append(f"not formatted, because {why}")
        return _discard(work)


def erase(
    disk: Disk,
    progress: Progress,
    cancelled: Callable[[], bool],
    *,
    explicit: bool = False,
    by_itself: bool = True,
    overwrite_after_failure: bool = True,
    tool: process.Tool = process.output,
) -> Erased:
    """Erase all that a disk holds: by itself (NVMe format, ATA secure erase) where it can, else overwritten with zeros.

    Sectors that a disk has taken out of use are reached by itself only. That cannot be stopped, tells no progress, and
    takes seconds on most solid-state disks, hours on rotating ones.

    Args:
        disk: just read from the inventory.
        progress: called after each piece of 128 MiB, and at the end.
        cancelled: asked before each piece.
        explicit: whether it was named by its path; see `agent.model.disks.eligibility`.
        by_itself: whether it may erase itself.
        overwrite_after_failure: whether a disk that failed to erase itself is overwritten; else that is an error.
        tool: runs nvme and hdparm.

    Raises:
        DiskIneligible, DiskBusy: it must not be written; nothing was.
        DiskIo: it is another disk by now (nothing was written), is locked, or fails; the detail says how far it was.
        JobCancelled: `cancelled` said so; the detail says how far it was. Nothing on the disk boots.
        ToolMissing: the rescue system lacks what stops a stack. Without nvme or hdparm the disk is overwritten.
    """
    # A locked disk can be neither read nor written.
    prepare = (lambda: unlock(disk, tool)) if by_itself else _nothing
    with _working(disk, explicit=explicit, prepare=prepare) as work:
        if by_itself and not cancelled():
            try:
                erased = _erase_itself(work, tool, overwrite_after_failure=overwrite_after_failure)
            except CannotEraseItself as why:
                work.notes.append(f"overwritten, because {why}")
            else:
                progress(disk.size, disk.size)
                return erased
        return _overwrite(work, progress, cancelled)


# -- the disk ------------------------------------------------------------------------------------------------


@dataclass
class _Work:
    """The erasure of one disk, which is claimed."""

    examined: Disk
    disk: TargetDisk
    notes: list[str]
    begun: float = field(default_factory=time.monotonic)

    def done(self, method: Method, command: str) -> Erased:
        seconds = time.monotonic() - self.begun
        return Erased(self.examined.path, self.examined.serial, method, command, seconds, tuple(self.notes))

    def wipe(self) -> None:
        wipe_metadata(self.disk, udev.settle)


def _nothing() -> None:
    """What is done before the first write to most disks."""


@contextmanager
def _working(disk: Disk, *, explicit: bool, prepare: Callable[[], None] = _nothing) -> Iterator[_Work]:
    """Claim a disk and wipe its metadata; `prepare` runs between the two. OSErrors become errors of the disk."""
    require_eligible(disk, explicit=explicit)
    begun = time.monotonic()
    try:
        taken, stopped = take(disk)
        try:
            work = _Work(disk, taken, list(stopped), begun)
            prepare()
            work.wipe()
            yield work
        finally:
            taken.close()
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskBusy(device=disk.path, holder=error.strerror or "something holds it") from error
        raise disk_fault(disk.path, error) from error


# -- discarded and overwritten -------------------------------------------------------------------------------


def _discard(work: _Work) -> Erased:
    methods: tuple[tuple[Method, bool, str], ...] = (
        ("secure_discard", True, "BLKSECDISCARD"),
        ("discard", False, "BLKDISCARD"),
    )
    for method, secure, command in methods:
        try:
            for offset in range(0, work.disk.size, _DISCARD_STEP):
                length = min(_DISCARD_STEP, work.disk.size - offset)
                work.disk.discard(offset, length, secure=secure)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            # Some devices show the old content again after a discard, or anything else.
            _wipe_again(work)
            return work.done(method, command)
    work.notes.append("only the metadata, because the disk cannot discard")
    return work.done("metadata", work.disk.zeroed_by)


def _wipe_again(work: _Work) -> None:
    work.disk.drop_cache()
    work.wipe()


def _overwrite(work: _Work, progress: Progress, cancelled: Callable[[], bool]) -> Erased:
    disk, done = work.disk, 0
    try:
        while done < disk.size:
            if cancelled():
                raise JobCancelled(detail=_how_far(disk, done))
            length = min(ZERO_STEP, disk.size - done)
            disk.zero(done, length)
            done += length
            progress(done, disk.size)
        disk.flush()
    except OSError as error:
        fault = disk_fault(disk.path, error)
        fault.detail = _how_far(disk, done)
        raise fault from error
    return work.done("overwrite", disk.zeroed_by)


def _how_far(disk: TargetDisk, done: int) -> str:
    return f"{done} of {disk.size} bytes of {disk.path} were overwritten"


# -- erased by itself ----------------------------------------------------------------------------------------


def _erase_itself(work: _Work, tool: process.Tool, *, overwrite_after_failure: bool) -> Erased:
    """Let the disk erase itself, then zero both its ends: after some erasures anything is read.

    Raises:
        CannotEraseItself: it cannot, or failed and `overwrite_after_failure`.
        DiskIo: it failed otherwise.
    """
    try:
        method, command = let_erase(work.examined, tool)
    except OSError as error:
        reason = error.strerror or str(error)
        if overwrite_after_failure:
            raise CannotEraseItself(f"it failed to erase itself: {reason}") from error
        raise DiskIo(device=work.examined.path, reason=reason, hint=_FAILED_HINT) from error
    work.disk.drop_cache()
    wipe_ends(work.disk)
    if work.disk.reread_partitions():
        udev.settle()
    return work.done(method, command)
