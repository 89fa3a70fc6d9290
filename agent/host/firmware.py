"""Detects whether the running system was started by UEFI or BIOS firmware. Called in preflight."""

from pathlib import Path
from typing import Literal

Firmware = Literal["uefi", "bios"]


def detect(sysfs: str = "/sys/firmware/efi") -> Firmware:
    """`uefi` if the kernel was started by UEFI, else `bios`; the kernel makes the directory in the first case only."""
    return "uefi" if Path(sysfs).is_dir() else "bios"
