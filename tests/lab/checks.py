"""What must hold of a deployed disk, by the word of the system that booted from it."""

import hashlib
from pathlib import Path

from agent.units import MiB
from tests.kit.deployments import SSH_KEYS, USER_DATA
from tests.lab import probe
from tests.lab.disks import Disk
from tests.lab.machine import Spec, machine
from tests.lab.matrix import Case

BOOT_SECONDS = 300
DRIVE = {"hostname": "web1.example.net", "sshKey": SSH_KEYS.splitlines()[0], "userData": USER_DATA}


def target(case: Case, path: Path, image_format: str = "raw") -> Disk:
    """The disk of a case as its machine has it."""
    return Disk(path=path, format=image_format, bus=case.bus, sector_size=case.disk_sector_size, boots=True)


async def boot_probe(case: Case, disk: Disk) -> probe.Report:
    """Start the machine of a case from its disk; gives the probe's report, once the machine has powered itself off."""
    async with machine(Spec(firmware=case.firmware, disks=(disk,), isolated=True)) as server:
        await server.serial.wait_for(probe.END, BOOT_SECONDS)
        assert await server.wait_off(BOOT_SECONDS) == "guest-shutdown"
        return probe.read_report(server.serial.text)


def assert_probe(report: probe.Report, case: Case, boots: int = 1) -> None:
    """The system is whole, on the disk that it was deployed to, and its config drive is the job's."""
    assert report.faults == []
    assert report.said["firmware"] == case.firmware
    assert report.number("sector_size") == case.sector_size
    assert report.number("disk_bytes") == case.size
    assert report.said["files"].startswith("ok "), f"not the image's files: {report.said['files']}"
    assert report.number("boots") == boots
    _assert_table(report, case)
    _assert_config_drive(report, case)


def _assert_config_drive(report: probe.Report, case: Case) -> None:
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


def _assert_table(report: probe.Report, case: Case) -> None:
    checked = report.decoded("table_check")
    assert "No errors detected" in checked, checked
    if case.table == "gpt":
        assert "No problems found" in checked, checked
