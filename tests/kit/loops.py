"""Loop devices: files as disks with sectors of 512 or 4096 bytes. Root only.

Loop devices belong to the whole machine: one with another file behind it by now is somebody else's, and is left alone.
"""

import fcntl
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.kit.commands import attempt, run

LOOP_MAJOR = 7
LOOP_CTL_GET_FREE = 0x4C82  # linux/loop.h
DETACH_SECONDS = 10.0


@dataclass(frozen=True)
class Loop:
    """An attached device, and which file was behind it then."""

    device: Path
    backing: str

    def detach(self) -> None:
        """Detach it and see that it goes: one that stays is held open by a left-over of a test."""
        if backing_of(self.device) != self.backing:
            return
        run("losetup", "--detach", self.device)
        deadline = time.monotonic() + DETACH_SECONDS
        while backing_of(self.device) == self.backing:
            assert time.monotonic() < deadline, f"{self.device} is still in use after its test"
            time.sleep(0.02)


def attach(file: Path, sector_size: int = 512, *, read_only: bool = False, direct_io: bool = False) -> Loop:
    """Make a file a disk. Its size has to be a multiple of the sector size."""
    _make_free_node()
    flags = ["--read-only"] * read_only + ["--direct-io=on"] * direct_io
    shown = run("losetup", "--find", "--show", "--sector-size", sector_size, *flags, file)
    device = Path(shown.strip())
    return Loop(device, backing_of(device))


def backing_of(device: Path) -> str:
    """The inode and the filesystem of the file behind a loop device; empty where there is none."""
    columns = "BACK-INO,BACK-MAJ:MIN"
    return attempt("losetup", "--noheadings", "--raw", "--output", columns, device).stdout.strip()


def sector_size_of(device: Path) -> int:
    """Bytes of a logical sector of a block device."""
    return int(run("blockdev", "--getss", device))


def _make_free_node() -> None:
    """Where nothing fills /dev (a chroot, a container) the kernel's next free loop device has no node yet."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    with suppress(FileExistsError):
        os.mknod(f"/dev/loop{number}", stat.S_IFBLK | 0o660, os.makedev(LOOP_MAJOR, number))
