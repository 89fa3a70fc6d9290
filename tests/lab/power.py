"""Power cuts: a deployment whose disks lose their power at some instant, and the verdict on what is left.

A disk is a qcow2 overlay over another system's disk. QEMU writes the tables of such a file at a flush only, so a
killed one loses all that was not flushed. What may be left is: the old disk, a disk without a first sector, or the
whole verified system. Anything else is half a system.
"""

import asyncio
import random
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent.aio import run_blocking
from agent.units import MiB
from tests.lab.checks import BOOT_SECONDS, assert_probe, boot_probe, target
from tests.lab.deploy import Deployed
from tests.lab.disks import flatten, make_dirty, overlay
from tests.lab.machine import Spec, machine
from tests.lab.matrix import Case

STAGE_SECONDS = 300


class Victim(Protocol):
    """A deployment at work on disks that can lose their power."""

    async def wait_stage(self, name: str) -> None:
        """Wait until a stage has begun."""

    async def finish(self) -> Deployed:
        """Wait for the end of the deployment."""

    async def cut_power(self) -> str:
        """Now; gives the stage that had been reached, by the agent's last word before.

        Nothing writes to the disks any more when this returns.
        """


Start = Callable[[Case, dict[str, Any], Sequence[Path]], AbstractAsyncContextManager[Victim]]
"""Begins a deployment onto qcow2 files."""


@dataclass(frozen=True)
class Remains:
    """What a power cut came to: the stage that had been reached, and what it left on the disk, or on each."""

    reached: str
    left: str


@dataclass(frozen=True)
class Instant:
    """When the power is cut: so many seconds after a stage has begun."""

    stage: str
    seconds: float


def choose_instants(number: int, lengths: dict[str, float], chance: random.Random) -> list[Instant]:
    """Random instants; the first two thirds anywhere in a deployment, the others around the commit.

    Args:
        number: how many.
        lengths: how long each stage took in a deployment that was let live, in seconds.
        chance: where the randomness comes from, so that a run can be repeated.
    """
    stages = list(lengths)
    late = [stage for stage in stages if stage in ("verify", "finish", "commit")]
    instants = []
    for count in range(number):
        among = stages if count < number * 2 // 3 else late
        at = chance.uniform(0, sum(lengths[stage] for stage in among))
        for stage in among:
            if at <= lengths[stage] or stage == among[-1]:
                instants.append(Instant(stage, at))
                break
            at -= lengths[stage]
    return instants


def check_file(disk: Path) -> None:
    """The file itself has survived: space may be lost in it, but nothing is wrong.

    Raises:
        AssertionError: the lab's disk is broken, which says nothing of the agent.
    """
    done = subprocess.run(["qemu-img", "check", "-q", str(disk)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: clusters leaked


def what_is_left(content: Path, old: Path) -> str:
    """Old: nothing was written. Blank: both ends are zero. Headless: the first sector is. System: anything else."""
    size = content.stat().st_size
    with content.open("rb") as file:
        head = file.read(MiB)
        file.seek(size - MiB)
        tail = file.read(MiB)
    if subprocess.run(["cmp", "-s", str(content), str(old)], check=False).returncode == 0:
        return "old"
    if not any(head) and not any(tail):
        return "blank"
    return "system" if any(head[:512]) else "headless"


async def judge(case: Case, disk: Path, old: Path) -> str:
    """Examine what a cut has left on a disk, and start a machine from it; gives what it is.

    Raises:
        AssertionError: it is half a system, or not what the firmware takes it for.
    """
    await run_blocking(check_file, disk)
    content = await run_blocking(flatten, disk, disk.with_suffix(".left"))
    try:
        left = await run_blocking(what_is_left, content, old)
    finally:
        content.unlink()
    trial = await run_blocking(overlay, disk.with_suffix(".trial"), disk, "qcow2")
    try:
        if left == "system":
            assert_probe(await boot_probe(case, target(case, trial, "qcow2")), case)
        else:
            spec = Spec(firmware=case.firmware, disks=(target(case, trial, "qcow2"),), network=False)
            async with machine(spec) as server:
                await server.wait_unbootable(BOOT_SECONDS)
    finally:
        trial.unlink()
    return left


async def cut(
    case: Case, job: dict[str, Any], directory: Path, start: Start, instant: Instant, number: int = 1
) -> Remains:
    """One power cut on disks of its own, the verdict, and the deployment once more, on the same disks, to its end.

    The instant is planned from the lengths of another deployment's stages, and this one may be faster or slower: what
    counts is the stage that it had reached. Of several disks each is judged, and started from, by itself.
    """
    disks = Disks(directory, number)
    await run_blocking(disks.make, case.size)
    try:
        async with start(case, job, disks.paths) as victim:
            async with asyncio.timeout(STAGE_SECONDS):
                await victim.wait_stage(instant.stage)
            await asyncio.sleep(instant.seconds)
            reached = await victim.cut_power()
        left = [await judge(case, path, disks.old) for path in disks.paths]
        async with start(case, job, disks.paths) as survivor:
            deployed = await survivor.finish()
        assert deployed.error_code == "", deployed.status
        for path in disks.paths:
            assert_probe(await boot_probe(case, target(case, path, "qcow2")), case)
        return Remains(reached, ", ".join(left))
    finally:
        disks.remove()


class Disks:
    """Disks that hold another system, and lose what was not flushed."""

    def __init__(self, directory: Path, number: int) -> None:
        self.old = directory / "old.raw"
        self.paths = [directory / f"disk-{count}.qcow2" for count in range(number)]

    def make(self, size: int) -> None:
        """Blocks."""
        make_dirty(self.old, size)
        for path in self.paths:
            overlay(path, self.old)

    def remove(self) -> None:
        """They are large."""
        for path in (*self.paths, self.old):
            path.unlink(missing_ok=True)
