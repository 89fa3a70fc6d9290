"""Each case of the matrix: deployed, started by its firmware from its disk, and asked what it found there."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.aio import run_blocking
from agent.units import MiB
from tests.integration.conftest import SSH_KEYS, USER_DATA
from tests.lab import probe
from tests.lab.conftest import digest
from tests.lab.deploy import Deployed, make_job
from tests.lab.disks import Disk, make_dirty, overlay
from tests.lab.images import image
from tests.lab.machine import Spec, machine
from tests.lab.matrix import Case

BOOT_SECONDS = 300
DRIVE = {"hostname": "web1.example.net", "sshKey": SSH_KEYS.splitlines()[0], "userData": USER_DATA}
Publish = Callable[[Case], dict[str, Any]]


@pytest.fixture
def job_for(web) -> Publish:
    """Serve the image of a case, and give the job for it."""

    def make(case: Case) -> dict[str, Any]:
        found = image(case.system, case.table, case.sector_size, case.form, esp=case.esp)
        return make_job(found, web.publish(found.path, found.path.name), DRIVE)

    return make


def assert_config_drive(report: probe.Report, case: Case) -> None:
    """The drive says what the job said, in a filesystem that its readers know, at the very end of the disk."""
    drive = max(report.partitions, key=lambda partition: partition["start"])
    assert report.said["drive"] == drive["node"]
    end = drive["start"] + drive["size"]
    assert case.size - 2 * MiB <= end <= case.size
    assert report.said["drive_type"] == ("vfat" if case.sector_size == 4096 else "iso9660")
    assert report.meta_data["hostname"] == DRIVE["hostname"]
    assert list(report.meta_data["public_keys"].values()) == [DRIVE["sshKey"]]
    assert report.said["user_data_sha256"] == hashlib.sha256(USER_DATA.encode()).hexdigest()
    assert "./openstack/latest/meta_data.json" in report.decoded("drive_files").splitlines()


def assert_table(report: probe.Report, case: Case) -> None:
    checked = report.decoded("table_check")
    assert "No errors detected" in checked, checked
    if case.table == "gpt":
        assert "No problems found" in checked, checked


async def test_a_deployed_disk_boots(probe_case: Case, deployer, job_for, disk_file: Path, record) -> None:
    case = probe_case
    job = await run_blocking(job_for, case)
    await run_blocking(make_dirty, disk_file, case.size)
    with record.timing("deploy"):
        deployed: Deployed = await deployer(case, job, disk_file)
    assert deployed.error_code == "", deployed.status

    disk = Disk(path=disk_file, bus=case.bus, sector_size=case.sector_size, boots=True)
    with record.timing("boot"):
        async with machine(Spec(firmware=case.firmware, disks=(disk,), isolated=True)) as server:
            await server.serial.wait_for(probe.END, BOOT_SECONDS)
            assert await server.wait_off(BOOT_SECONDS) == "guest-shutdown"
            report = probe.read_report(server.serial.text)
    assert report.faults == []
    assert report.said["firmware"] == case.firmware
    assert report.number("sector_size") == case.sector_size
    assert report.number("disk_bytes") == case.size
    assert report.said["files"].startswith("ok "), "the system is not the image's, to the last byte"
    assert report.number("boots") == 1
    assert_table(report, case)
    assert_config_drive(report, case)


async def test_what_cannot_work_is_refused(
    refused_case: Case, deployer, job_for, disk_file: Path, record
) -> None:
    case = refused_case
    job = await run_blocking(job_for, case)
    await run_blocking(make_dirty, disk_file, case.size)
    before = await run_blocking(digest, disk_file)
    with record.timing("deploy"):
        deployed: Deployed = await deployer(case, job, disk_file)
    assert deployed.error_code == case.refused, deployed.status
    assert (await run_blocking(digest, disk_file) == before) == case.untouched


async def test_a_machine_with_an_empty_disk_says_so(disk_file: Path) -> None:
    """What the tests of power cuts rely on: a firmware that finds nothing to boot can be told from one that is slow."""
    await run_blocking(make_dirty, disk_file, 64 * MiB)
    changed = await run_blocking(overlay, disk_file.with_name("disk.qcow2"), disk_file)
    async with machine(Spec(disks=(Disk(path=changed, format="qcow2", boots=True),))) as server:
        await server.wait_unbootable(BOOT_SECONDS)
