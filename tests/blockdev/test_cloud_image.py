"""The main job on real input: a Debian cloud image that boots by BIOS and UEFI, onto a dirty block device."""

import hashlib
import json
import os
import subprocess

import pytest

from agent.formats.tables.read import read_table
from agent.units import GiB, MiB
from tests.kit.commands import run
from tests.kit.deployments import DRIVE, USER_DATA

SIZE = 6 * GiB


@pytest.fixture
def device(loop_device, tmp_path):
    """A disk of another system: dirty at both ends and in the middle, sparse between."""
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, SIZE)
    with path.open("r+b") as file:
        for offset in (0, GiB, SIZE - 4 * MiB):
            file.seek(offset)
            file.write(b"\xa5" * (4 * MiB))
    yield loop_device(path)
    path.unlink()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make_image(raw, kind, tmp_path):
    if kind == "raw":
        return raw
    path = tmp_path / "image.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, path)
    return path


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_debian_cloud_image_is_deployed_ready_to_boot(
    cloud_image, byoi, device, tmp_path, read_drive, kind
):
    image = make_image(cloud_image, kind, tmp_path)
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    job = tmp_path / "job.json"
    job.write_text(
        json.dumps(
            {
                "URL": image.as_uri(),
                "type": kind,
                "checkSum": digest,
                "checkSumType": "sha256",
                "efiBootloaderPath": "\\EFI\\BOOT\\BOOTX64.EFI",
                "configdrive": DRIVE,
            }
        )
    )
    outcome = byoi("write", job, "--disk", device, "--firmware", "uefi", "--json", "--quiet")
    assert outcome.status == 0, outcome.err

    assert "No problems found" in run("sgdisk", "-v", device)
    with device.open("rb") as disk, cloud_image.open("rb") as source:
        table = read_table(disk.read(MiB), 512)
        drive = next(part for part in table.partitions if part.name == "config-2")
        disk.seek(0)
        # The code that a BIOS starts.
        assert disk.read(440) == source.read(440)
        source.seek(0)
        for part in read_table(source.read(MiB), 512).partitions:
            for offset in range(part.start, part.end, 4 * MiB):
                length = min(4 * MiB, part.end - offset)
                disk.seek(offset)
                source.seek(offset)
                # Digests, for a difference of megabytes is no message.
                assert sha256(disk.read(length)) == sha256(source.read(length)), (part, offset)
        root = max(table.partitions, key=lambda part: part.size)
        disk.seek(drive.start)
        (tmp_path / "drive.iso").write_bytes(disk.read(drive.size))
    # The root filesystem can grow up to the config drive, which ends just before the backup table.
    assert root.end < drive.start < drive.start + drive.size <= SIZE - 33 * 512
    fsck = subprocess.run(
        ["e2fsck", "-fn", f"{device}?offset={root.start}"], capture_output=True, check=False
    )
    assert fsck.returncode == 0, fsck.stdout
    assert read_drive(tmp_path / "drive.iso", "iso9660")["openstack/latest/user_data"] == USER_DATA.encode()
