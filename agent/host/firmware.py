"""Which firmware started the running system; read by the preflight, once."""

from pathlib import Path
from typing import Literal

Firmware = Literal["uefi", "bios"]


def detect(sysfs: str = "/sys/firmware/efi") -> Firmware:
    """`uefi` where the kernel was started by UEFI, else `bios`; the directory exists in no other case."""
    return "uefi" if Path(sysfs).is_dir() else "bios"
