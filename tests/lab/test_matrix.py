"""Each case of the matrix: deployed, started by its firmware from its disk, and asked what it found there."""

from pathlib import Path

import pytest

from agent.aio import run_blocking
from agent.units import MiB
from tests.lab import former
from tests.lab.checks import BOOT_SECONDS, DRIVE, assert_probe, boot_probe, target
from tests.lab.conftest import digest
from tests.lab.deploy import Deployed
from tests.lab.disks import Disk, make_dirty, overlay
from tests.lab.machine import Spec, machine
from tests.lab.matrix import Case
from tests.lab.registry import assert_proven


async def test_a_deployed_disk_boots(probe_case: Case, deployer, job_for, disk_file: Path, record) -> None:
    case = probe_case
    job = await run_blocking(job_for, case, DRIVE)
    await run_blocking(make_dirty, disk_file, case.size)
    await run_blocking(former.make_others, case, disk_file)
    others = [disk.path for disk in former.others(case, disk_file)]
    before = [await run_blocking(digest, path) for path in others]
    with record.timing("deploy"):
        deployed: Deployed = await deployer(case, job, disk_file)
    assert deployed.error_code == "", deployed.status
    assert [await run_blocking(digest, path) for path in others] == before
    if case.registry:
        await run_blocking(assert_proven, deployed.status, disk_file.parent)
    with record.timing("boot"):
        report = await boot_probe(case, target(case, disk_file))
    assert_probe(report, case)


async def test_what_cannot_work_is_refused(
    refused_case: Case, deployer, job_for, disk_file: Path, record
) -> None:
    case = refused_case
    job = await run_blocking(job_for, case, DRIVE)
    await run_blocking(make_dirty, disk_file, case.size)
    before = await run_blocking(digest, disk_file)
    with record.timing("deploy"):
        deployed: Deployed = await deployer(case, job, disk_file)
    assert deployed.error_code == case.refused, deployed.status
    assert (await run_blocking(digest, disk_file) == before) == case.untouched


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
async def test_a_machine_with_an_empty_disk_says_so(firmware: str, disk_file: Path) -> None:
    """What the power cuts rely on: a firmware that finds nothing to boot can be told from one that is slow."""
    await run_blocking(make_dirty, disk_file, 64 * MiB)
    changed = await run_blocking(overlay, disk_file.with_name("disk.qcow2"), disk_file)
    disk = Disk(path=changed, format="qcow2", boots=True)
    async with machine(Spec(firmware=firmware, disks=(disk,), network=False)) as server:
        await server.wait_unbootable(BOOT_SECONDS)
