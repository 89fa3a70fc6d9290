"""The inventory against this machine and its kernel: loop devices, mounts, swap, partitions. Needs root."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from agent.errors import DiskBusy, DiskIneligible, DiskNotSelected, DiskUnknown, Fault
from agent.host.disk import TargetDisk, read_identity
from agent.host.holders import assert_free, release
from agent.host.inventory import describe_path, list_disks
from agent.model.disks import eligibility, require_eligible
from agent.model.selector import parse_selector
from agent.units import MiB
from tests.kit.partitions import add_partition, remove_partition

SIZE = 64 * MiB


def tool(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@pytest.fixture
def attach(image):
    """Attach the image as a loop device; detached again after the test."""
    attached = []

    def _attach(*options: str) -> str:
        attached.append(tool("losetup", "--find", "--show", *options, str(image)))
        return attached[-1]

    yield _attach
    for device in attached:
        tool("losetup", "--detach", device)
        # Detaching ends when the last reader closes; a later test would otherwise see the old device.
        deadline = time.monotonic() + 5
        while Path("/sys/block", Path(device).name, "loop").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_loop_device_tells_its_size_and_sector_size(attach, sector_size):
    device = attach("--sector-size", str(sector_size))
    disk = describe_path(device)
    assert (disk.path, disk.kind, disk.transport) == (device, "loop", "loop")
    assert (disk.size, disk.logical_sector_size) == (SIZE, sector_size)
    assert disk.holders == ()
    assert eligibility(disk, explicit=False) == ("not an ordinary disk but of kind loop",)
    assert eligibility(disk, explicit=True) == ()
    assert_free(device)
    assert release(disk) == ()


def test_links_are_followed_to_the_device(attach, tmp_path):
    device = attach()
    (tmp_path / "link").symlink_to(device)
    assert describe_path(str(tmp_path / "link")).path == device


def test_a_loop_device_is_selected_by_its_name_alone(attach):
    device = attach()
    attach()
    disks = list_disks()
    found: list[Fault] = []
    exact, vague = (parse_selector({"name": hint}, "disk", found) for hint in (device, f"<in> {device}"))
    assert exact is not None
    assert vague is not None
    assert exact.select(disks)[0].path == device
    with pytest.raises(DiskNotSelected) as caught:
        vague.select(disks)
    assert f"{device}: fits, cannot be written: not an ordinary disk but of kind loop" in caught.value.detail


def test_the_list_has_attached_loop_devices_only(attach):
    device = attach()
    listed = {disk.path: disk for disk in list_disks()}
    assert listed[device].size == SIZE
    assert all(disk.size for disk in listed.values() if disk.kind == "loop")


def test_a_read_only_device_is_not_eligible(attach):
    assert eligibility(describe_path(attach("--read-only")), explicit=True) == ("read-only",)


def test_a_mounted_device_names_its_mount_point_and_is_not_released(attach, tmp_path):
    device = attach()
    point = tmp_path / "mount point"
    point.mkdir()
    tool("mkfs.ext4", "-q", device)
    tool("mount", device, str(point))
    try:
        disk = describe_path(device)
        assert eligibility(disk, explicit=True) == (f"mounted at {point} ({device})",)
        with pytest.raises(DiskBusy, match="in use: mounted at"):
            require_eligible(disk, explicit=True)
        with pytest.raises(OSError, match="mounted at") as caught:
            release(disk)
        assert caught.value.filename == device
        with pytest.raises(OSError, match="mounted at"):
            assert_free(device)
    finally:
        tool("umount", str(point))
    assert eligibility(describe_path(device), explicit=True) == ()
    assert_free(device)


def test_a_swap_area_is_a_reason(attach):
    device = attach()
    tool("mkswap", device)
    if subprocess.run(["swapon", device], check=False, capture_output=True).returncode:
        pytest.skip("this kernel does not swap")
    try:
        assert eligibility(describe_path(device), explicit=True) == (f"used as swap ({device})",)
    finally:
        tool("swapoff", device)


def test_a_file_with_a_loop_device_attached_is_in_use(attach, image):
    assert describe_path(str(image)).holders == ()
    device = attach()
    disk = describe_path(str(image))
    assert eligibility(disk, explicit=True) == (f"attached as {device}",)
    with pytest.raises(OSError, match=f"attached as {device}"):
        assert_free(str(image))


def test_a_loop_device_on_a_device_holds_it(attach):
    device = attach()
    upper = tool("losetup", "--find", "--show", device)
    try:
        assert eligibility(describe_path(device), explicit=True) == (f"attached as {upper}",)
        with pytest.raises(OSError, match=f"attached as {upper}"):
            release(describe_path(device))
    finally:
        tool("losetup", "--detach", upper)


def test_an_exclusive_user_that_sysfs_does_not_show_is_noticed(attach):
    device = attach()
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(OSError, match="held by something") as caught:
            assert_free(device)
        assert caught.value.filename == device
    finally:
        os.close(fd)
    assert_free(device)


def test_a_partition_is_refused_and_its_mount_holds_the_disk(attach, partition_node, tmp_path):
    device = attach()
    add_partition(device, 1, MiB, 32 * MiB)
    partition, point = str(partition_node(Path(device), 1)), tmp_path / "mnt"
    point.mkdir()
    try:
        with pytest.raises(DiskUnknown) as caught:
            describe_path(partition)
        assert caught.value.detail == f"it is a partition of {device}"
        tool("mkfs.ext4", "-q", partition)
        tool("mount", partition, str(point))
        try:
            reasons = eligibility(describe_path(device), explicit=True)
            assert reasons == (f"mounted at {point} ({partition})",)
        finally:
            tool("umount", str(point))
        assert_free(device)
    finally:
        remove_partition(device, 1)


def test_the_disk_under_the_root_is_the_boot_medium():
    root = Path("/").stat().st_dev
    if os.major(root) == 0:
        pytest.skip("the root of this machine is on no disk of its own")
    disks = [disk for disk in list_disks() if disk.boot_medium]
    assert disks
    for disk in disks:
        with pytest.raises(DiskIneligible, match="the rescue system itself runs from it"):
            require_eligible(disk, explicit=True)


def test_a_device_has_one_identity_for_each_medium_seen_or_opened(attach, image):
    device = attach()
    seen = describe_path(device)
    disk = TargetDisk(device)
    assert disk.identity == seen.identity == read_identity(device)
    disk.close()
    tool("losetup", "--detach", device)
    tool("losetup", device, str(image))
    assert describe_path(device).identity != seen.identity
    assert describe_path(str(image)).identity == read_identity(str(image))
    assert "identity" not in seen.to_json()
