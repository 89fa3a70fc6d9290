"""What a deployment has left on a machine's disk, in a few words for people."""

from pathlib import Path

from agent.aio import run_blocking
from agent.units import MiB
from tests.lab import power, probe
from tests.lab.disks import Disk, make_dirty, overlay
from tests.lab.machine import UEFI_GIVES_UP, Spec, machine
from tests.lab.serial import KernelPanic, SerialClosed

BOOT_SECONDS = 240
EDGE = MiB
"""The ends of an image hold its partition tables, which are fitted to the disk."""
WORDS = {"old": "as it was before", "blank": "both ends zero: does not boot", "headless": "first sector zero"}


async def verdict(disk: Path, image: Path | None) -> str:
    """Compare with the image where there is one; else start a machine from it: a probe is on it, or half of one."""
    left = await run_blocking(_left, disk)
    if left != "system":
        return WORDS[left]
    if image is not None:
        return "the image" if await run_blocking(_same, disk, image) else "**not the image**"
    return await _booted(disk)


def _left(disk: Path) -> str:
    before = make_dirty(disk.with_name("before.raw"), disk.stat().st_size)
    return power.what_is_left(disk, before)


def _same(disk: Path, image: Path) -> bool:
    """Whether the disk begins with the image, but for the ends of it."""
    with disk.open("rb") as left, image.open("rb") as right:
        left.seek(EDGE)
        right.seek(EDGE)
        todo = image.stat().st_size - 2 * EDGE
        while todo:
            length = min(todo, 8 * MiB)
            if left.read(length) != right.read(length):
                return False
            todo -= length
    return True


async def _booted(disk: Path) -> str:
    trial = await run_blocking(overlay, disk.with_suffix(".trial"), disk)
    spec = Spec(firmware="uefi", disks=(Disk(path=trial, format="qcow2", boots=True),), isolated=True)
    try:
        async with machine(spec) as server:
            found = await server.serial.wait_for(f"{probe.END}|{UEFI_GIVES_UP}", BOOT_SECONDS)
    except KernelPanic:
        return "**starts, and its kernel panics**"
    except (TimeoutError, SerialClosed):
        return "**starts, and does not come up**"
    if not found[0].startswith("PROBE"):
        return "does not boot"
    files = probe.read_report(server.serial.text).said.get("files", "")
    return "boots, every file whole" if files.startswith("ok ") else "**boots, with damaged files**"
