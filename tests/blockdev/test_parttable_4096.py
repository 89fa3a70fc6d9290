import os
import subprocess

import pytest

from agent.host.fat import fat_has_file
from agent.host.parttable import PartitionSeen, read_partitions
from agent.units import MiB


@pytest.fixture(params=[512, 4096])
def loop(request, tmp_path):
    """A loop device of 64 MiB: its path and its logical sector size."""
    backing = tmp_path / "disk.img"
    backing.touch()
    os.truncate(backing, 64 * MiB)
    argv = ["losetup", "--sector-size", str(request.param), "--find", "--show", backing]
    device = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    yield device, request.param
    subprocess.run(["losetup", "--detach", device], timeout=30, check=True)


def sfdisk(device, script):
    argv = ["sfdisk", "-q", "--no-reread", "--no-tell-kernel", device]
    subprocess.run(argv, input=script, text=True, timeout=30, check=True, capture_output=True)


def content_of(device) -> bytes:
    with open(device, "rb") as file:  # noqa: PTH123 - a device node
        return file.read()


def test_a_gpt_is_read_in_bytes_whatever_the_sectors(loop):
    device, sector_size = loop
    first, last = 16 * MiB // sector_size, 60 * MiB // sector_size
    sfdisk(
        device,
        f"label: gpt\nstart={first},size={4 * MiB // sector_size},name=root\n"
        f"start={last},size={MiB // sector_size},name=config-2\n",
    )
    report = read_partitions(device)
    assert (report.label, report.sector_size, report.warnings) == ("gpt", sector_size, ())
    assert report.partitions == (
        PartitionSeen(1, 16 * MiB, 4 * MiB, "root"),
        PartitionSeen(2, 60 * MiB, MiB, "config-2"),
    )


def test_an_mbr_is_read_in_bytes_whatever_the_sectors(loop):
    device, sector_size = loop
    sfdisk(device, f"label: dos\nstart={MiB // sector_size},size={MiB // sector_size},type=83\n")
    report = read_partitions(device)
    assert (report.label, report.partitions) == ("msdos", (PartitionSeen(1, MiB, MiB, None),))


def test_an_exclusive_claim_on_the_disk_does_not_stand_in_the_way(loop):
    device, sector_size = loop
    sfdisk(device, f"label: gpt\nstart={MiB // sector_size},size={MiB // sector_size}\n")
    claim = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        assert len(read_partitions(device).partitions) == 1
    finally:
        os.close(claim)


def test_a_table_written_under_the_claim_is_read_and_the_disk_is_not_touched(loop):
    device, sector_size = loop
    claim = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        for count in (1, 2):
            sectors = MiB // sector_size
            lines = [f"start={(n + 1) * sectors},size={sectors}" for n in range(count)]
            sfdisk(device, "\n".join(["label: gpt", *lines, ""]))
            before = content_of(device)
            assert len(read_partitions(device).partitions) == count
            assert content_of(device) == before
    finally:
        os.close(claim)


def test_the_boot_loader_is_found_on_a_device_under_the_claim(loop):
    device, _ = loop
    claim = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        esp = f"{device}@@{MiB}"
        argv = ["mformat", "-i", esp, "-T", str(32 * MiB // 512), "-h", "2", "-s", "16", "::"]
        subprocess.run(argv, timeout=30, check=True)
        subprocess.run(["mmd", "-i", esp, "::/EFI"], timeout=30, check=True)
        subprocess.run(["mcopy", "-i", esp, "-", "::/EFI/X.EFI"], input=b"MZ", timeout=30, check=True)
        assert fat_has_file(device, MiB, "\\efi\\x.efi")
        assert not fat_has_file(device, MiB, "\\efi\\y.efi")
    finally:
        os.close(claim)
