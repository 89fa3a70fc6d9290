"""Power cuts at random instants of a deployment. `sh tests/lab/power-cuts N` makes N of them.

And a quarter as many, at least one, between the first sectors of two disks, which cannot be one write.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.aio import run_blocking
from tests.lab import daemon, power
from tests.lab.checks import DRIVE
from tests.lab.conftest import Record
from tests.lab.matrix import Case

CUTS = int(os.environ.get("BYOI_LAB_CUTS", "2"))
CUTS_OF_TWO = max(1, CUTS // 4)
SEED = os.environ.get("BYOI_LAB_SEED", str(random.SystemRandom().randrange(10**9)))
CASE = Case(firmware="bios", form="qcow2-zstd", bus="virtio")


@pytest.fixture
def start() -> power.Start:
    """How deployments are begun."""
    return daemon.victim


@pytest.fixture(scope="module")
def lengths() -> dict[str, float]:
    """How long each stage takes; filled by the first test that needs it."""
    return {}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for file in tmp_path.iterdir():
        file.unlink()


async def measure(job: dict, directory: Path, start: power.Start, number: int = 1) -> dict[str, float]:
    """The stages of a deployment that is left alone, in seconds."""
    disks = power.Disks(directory, number)
    await run_blocking(disks.make, CASE.size)
    async with start(CASE, job, disks.paths) as victim:
        deployed = await victim.finish()
    assert deployed.error_code == "", deployed.status
    disks.remove()
    return deployed.stage_seconds


@pytest.mark.parametrize("number", range(CUTS))
async def test_a_power_cut_never_leaves_half_a_system(
    number: int, job_for, directory: Path, start: power.Start, lengths: dict[str, float], record: Record
) -> None:
    job = await run_blocking(job_for, CASE, DRIVE)
    if not lengths:
        lengths.update(await measure(job, directory, start))
    instant = power.choose_instants(CUTS, lengths, random.Random(SEED))[number]
    record.notes |= {
        "cut": number,
        "seed": SEED,
        "planned": f"{instant.stage} + {instant.seconds:.3f} s",
    }
    remains = await power.cut(CASE, job, directory, start, instant)
    record.notes |= {"reached": remains.reached, "left": remains.left}


@pytest.fixture(scope="module")
def lengths_of_two() -> dict[str, float]:
    """The same of two disks."""
    return {}


@pytest.mark.parametrize("number", range(CUTS_OF_TWO))
async def test_a_power_cut_while_two_disks_are_committed_leaves_each_blank_or_whole(
    number: int,
    job_for,
    directory: Path,
    start: power.Start,
    lengths_of_two: dict[str, float],
    record: Record,
) -> None:
    job = await run_blocking(job_for, CASE, DRIVE)
    job |= {"disks": 2, "disk": {"name": "<in> /dev/vd"}}
    if not lengths_of_two:
        lengths_of_two.update(await measure(job, directory, start, 2))
    chance = random.Random(f"{SEED} {number}")
    instant = power.Instant("commit", chance.uniform(0, lengths_of_two["commit"]))
    record.notes |= {"cut": number, "seed": SEED, "planned": f"{instant.stage} + {instant.seconds:.3f} s"}
    remains = await power.cut(CASE, job, directory, start, instant, 2)
    record.notes |= {"reached": f"{remains.reached}, of two disks", "left": remains.left}
