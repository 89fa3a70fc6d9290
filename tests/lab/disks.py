"""Disks of a machine: how QEMU is told of them, and files for them.

A raw file keeps all that the guest's device had completed when QEMU is killed. A qcow2 file loses what was not
flushed, since its tables are written at a flush only: it is the honest disk for power cuts.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.units import GiB, MiB

BUSES = ("virtio", "scsi", "sata", "nvme")
DIRT = bytes([0xA5]) * (4 * MiB)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A disk, and what it says of itself.

    Attributes:
        name: its serial number, unique in a machine.
        log: a file that gets all that the disk is told, see logwrites.py.
        boots: the firmware starts from it.
    """

    path: Path
    name: str = "disk0"
    format: str = "raw"
    bus: str = "virtio"
    sector_size: int = 512
    wwn: int | None = None
    boots: bool = False
    log: Path | None = None

    def blockdev(self) -> dict[str, Any]:
        """For -blockdev and blockdev-add."""
        file = {"driver": "file", "filename": str(self.path), "discard": "unmap"}
        node = {"driver": self.format, "file": file, "discard": "unmap"}
        if self.log is not None:
            node = {
                "driver": "blklogwrites",
                "file": node,
                "log": {"driver": "file", "filename": str(self.log)},
            }
        return node | {"node-name": self.name}

    def device(self, number: int, *, bus: str | None = None) -> dict[str, Any]:
        """For -device and device_add; `number` is the disk's place in its machine, `bus` where to plug it."""
        device: dict[str, Any] = {"id": f"dev-{self.name}", "drive": self.name, "serial": self.name}
        if self.bus == "scsi":
            device |= {"driver": "scsi-hd", "bus": "scsi0.0", "vendor": "BYOI", "product": "LAB DISK"}
            device |= {"rotation_rate": 7200} | ({"wwn": self.wwn} if self.wwn is not None else {})
        elif self.bus == "sata":
            device |= {"driver": "ide-hd", "bus": f"ide.{number}"}
            device |= {"wwn": self.wwn} if self.wwn is not None else {}
        else:
            device |= {"driver": {"virtio": "virtio-blk-pci", "nvme": "nvme"}[self.bus]}
            device |= {"bus": bus} if bus else {}
        if self.sector_size != 512:
            device |= {"logical_block_size": self.sector_size, "physical_block_size": self.sector_size}
        return device | ({"bootindex": 1} if self.boots else {})


def make_dirty(path: Path, size: int) -> Path:
    """A raw disk that another system was on: dirty at both ends and at every GiB, sparse between."""
    path.touch()
    os.truncate(path, size)
    with path.open("r+b") as file:
        for offset in (*range(0, size - 8 * MiB, GiB), size - len(DIRT)):
            file.seek(offset)
            file.write(DIRT)
    return path


def overlay(path: Path, backing: Path, backing_format: str = "raw") -> Path:
    """A qcow2 file that holds what is changed on a disk; the disk itself stays as it is."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", backing_format, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def flatten(disk: Path, path: Path) -> Path:
    """What a machine would read from a qcow2 disk now, as a raw file."""
    subprocess.run(
        ["qemu-img", "convert", "-O", "raw", str(disk), str(path)], check=True, capture_output=True
    )
    return path
