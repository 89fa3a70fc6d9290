"""Stacks on disks, as captured from the kernel: who holds what, and in which order it is stopped.

A sample is a sysfs tree as text: `path = content` and `path -> target of a link`. They were taken in a
virtual machine (Linux 6.1) in which each stack was built with mdadm, LVM and dmsetup.
"""

import errno
from pathlib import Path

import pytest

from agent.host.blocktree import BlockTree, Node, read_tree
from agent.host.holders import (
    assert_free,
    holders_of,
    loops_of,
    mount_devices,
    plan_release,
    release,
    uses,
)
from agent.host.mounts import Mount, Swap
from agent.model.disks import Disk

SAMPLES = Path(__file__).parent / "samples"
RAID, VOLUMES, CONTAINER = "raid1-lvm-crypt.sysfs", "lvm-raid-snapshot.sysfs", "ddf-container.sysfs"


@pytest.fixture
def sysfs(tmp_path):
    def build(name: str) -> str:
        for line in (SAMPLES / name).read_text().splitlines():
            path, kind, value = line.replace(" -> ", " L ", 1).replace(" = ", " F ", 1).split(" ", 2)
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "L":
                target.symlink_to(value)
            else:
                target.write_text(f"{value}\n")
        return str(tmp_path)

    return build


def commands(disk: str, root: str) -> list[str]:
    return [" ".join(step.command) for step in plan_release(disk, root)]


def numbers(**devices: str):
    return {f"/dev/{name}": dev for name, dev in devices.items()}.get


def on(dev: str, point: str = "/mnt", fs_type: str = "ext4", source: str = "") -> Mount:
    return Mount(dev, point, fs_type, source, ("rw",))


@pytest.mark.parametrize(("disk", "partition"), [("sda", "sda1"), ("sdb", "sdb1")])
def test_an_encrypted_volume_on_a_mirror_is_stopped_from_the_top(sysfs, disk, partition):
    steps = plan_release(disk, sysfs(RAID))
    assert [step.command for step in steps] == [
        ("dmsetup", "remove", "--retry", "secret"),
        ("dmsetup", "remove", "--retry", "vg--one-root"),
        ("mdadm", "--stop", "/dev/md0"),
    ]
    assert [step.device for step in steps] == ["dm-1", "dm-0", "md0"]
    assert str(steps[1]) == (
        "dmsetup remove --retry vg--one-root: the logical volume vg-one/root sits on /dev/md0"
    )
    assert steps[2].why == f"the array md0 sits on /dev/{partition}"


def test_a_disk_beside_the_stack_needs_nothing(sysfs):
    assert plan_release("sdc", sysfs(RAID)) == ()


def test_an_unknown_disk_is_refused(sysfs):
    with pytest.raises(OSError, match="/dev/sdz") as caught:
        plan_release("sdz", sysfs(RAID))
    assert caught.value.errno == errno.ENODEV


def test_the_hidden_parts_of_volumes_come_after_the_volumes(sysfs):
    root = sysfs(VOLUMES)
    names = [command.rsplit(" ", 1)[1] for command in commands("sdc", root)]
    assert sorted(names) == [
        "big-mirror",
        "big-mirror_rimage_0",
        "big-mirror_rmeta_0",
        "big-orig",
        "big-orig-real",
        "big-snap",
        "big-snap-cow",
    ]
    assert len(names) == len(set(names))
    for upper, lower in (
        ("big-mirror", "big-mirror_rimage_0"),
        ("big-mirror", "big-mirror_rmeta_0"),
        ("big-orig", "big-orig-real"),
        ("big-snap", "big-orig-real"),
        ("big-snap", "big-snap-cow"),
    ):
        assert names.index(upper) < names.index(lower)


def test_only_what_lies_on_the_disk_is_stopped_of_a_volume_group_on_two(sysfs):
    names = [command.rsplit(" ", 1)[1] for command in commands("sdd", sysfs(VOLUMES))]
    assert names[0] == "big-mirror"
    assert sorted(names[1:]) == ["big-mirror_rimage_1", "big-mirror_rmeta_1"]


def test_an_array_in_a_container_is_stopped_before_the_container(sysfs):
    assert commands("sdc", sysfs(CONTAINER)) == ["mdadm --stop /dev/md126", "mdadm --stop /dev/md127"]


def test_holders_are_listed_from_the_bottom_with_what_they_sit_on(sysfs):
    found = holders_of("sda", read_tree(sysfs(RAID)), {})
    assert [(h.kind, h.name, h.where, h.via, h.stoppable) for h in found] == [
        ("md", "/dev/md0", "md0", "/dev/sda1", True),
        ("lvm", "/dev/dm-0", "vg-one/root", "/dev/md0", True),
        ("dm", "/dev/dm-1", "secret", "/dev/dm-0", True),
    ]


def test_a_mount_on_top_makes_all_below_unstoppable(sysfs):
    tree = read_tree(sysfs(RAID))
    found = holders_of("sda", tree, uses([on("253:1")], [], tree))
    assert [(h.kind, h.name, h.stoppable) for h in found] == [
        ("md", "/dev/md0", False),
        ("lvm", "/dev/dm-0", False),
        ("dm", "/dev/dm-1", False),
        ("mount", "/dev/dm-1", False),
    ]
    assert found[3].where == "/mnt"


def test_a_mount_in_the_middle_leaves_what_is_above_it_stoppable(sysfs):
    tree = read_tree(sysfs(VOLUMES))
    found = {h.where: h.stoppable for h in holders_of("sdc", tree, uses([on("253:4")], [], tree))}
    assert found["big/mirror"] is False
    assert found["big/mirror_rimage_0"] is False
    assert found["big/snap"] is True


def test_mounts_and_swap_on_partitions_belong_to_the_disk(sysfs):
    tree = read_tree(sysfs(RAID))
    in_use = uses(
        [on("8:2", "/srv"), on("8:32", "/other")],
        [Swap("/dev/sda2", "partition"), Swap("/srv/swap", "file")],
        tree,
        numbers(sda2="8:2"),
    )
    found = holders_of("sda", tree, in_use)
    assert [(h.kind, h.where, h.via) for h in found if h.kind in ("mount", "swap")] == [
        ("mount", "/srv", "/dev/sda2"),
        ("swap", "/dev/sda2", "/dev/sda2"),
    ]


def test_a_btrfs_holds_all_the_disks_that_it_spans(sysfs, tmp_path):
    root = sysfs(RAID)
    members = tmp_path / "fs/btrfs/2f6d1b2e-5a53-4a6d-8c07-0123456789ab/devices"
    members.mkdir(parents=True)
    for name in ("sdc", "sdd"):
        (members / name).symlink_to(f"../../../../class/block/{name}")
    (tmp_path / "fs/btrfs/features").mkdir()
    tree = read_tree(root)
    mount = on("0:32", "/", "btrfs", "/dev/sdd")
    assert sorted(mount_devices(mount, tree, numbers(sdd="8:48"))) == ["8:32", "8:48"]
    assert mount_devices(on("0:33", "/x", "btrfs", "/dev/sda2"), tree, numbers(sda2="8:2")) == ("8:2",)
    assert mount_devices(on("0:25", "/run", "tmpfs", "tmpfs"), tree, numbers()) == ()


def test_a_filesystem_that_names_several_devices_holds_them_all(sysfs):
    tree = read_tree(sysfs(RAID))
    mount = on("0:40", "/", "bcachefs", "/dev/sdc:/dev/sdd")
    assert mount_devices(mount, tree, numbers(sdc="8:32", sdd="8:48")) == ("8:32", "8:48")


def test_the_disks_below_a_volume_are_found(sysfs):
    tree = read_tree(sysfs(RAID))
    assert tree.disks_below(["253:1"]) == {"sda", "sdb"}
    assert tree.disks_below(["8:2", "8:32"]) == {"sda", "sdc"}
    assert tree.disks_below(["0:25", "999:1"]) == frozenset()


# -- what no sample has --------------------------------------------------------------------------------------


def tree_of(*nodes: Node) -> BlockTree:
    return BlockTree({node.name: node for node in nodes})


def test_a_cache_is_a_foreign_holder_and_blocks_the_stack_below_it():
    tree = tree_of(
        Node("sda", "8:0", "sda", holders=("md0",)),
        Node("md0", "9:0", "md0", holders=("bcache0",), slaves=("sda",)),
        Node("bcache0", "252:0", "bcache0", slaves=("md0",)),
    )
    array, cache = holders_of("sda", tree, {})
    assert (array.kind, array.stoppable) == ("md", False)
    assert (cache.kind, cache.reason()) == ("bcache", "held by /dev/bcache0 (/dev/md0)")


def test_a_loop_device_on_a_partition_and_one_in_a_mounted_file_are_told_apart():
    tree = tree_of(
        Node("sda", "8:0", "sda"),
        Node("sda1", "8:1", "sda"),
        Node("loop0", "7:0", "loop0", backing_file="/dev/sda1", backing_dev="8:1", on_device=True),
        Node("loop1", "7:1", "loop1", backing_file="/srv/x.img", backing_dev="8:1"),
    )
    (holder,) = holders_of("sda", tree, {})
    assert (holder.kind, holder.name, holder.via) == ("other", "/dev/loop0", "/dev/sda1")
    assert tree.disks_below(["7:0"]) == {"sda"}
    assert tree.disks_below(["7:1"]) == {"sda"}


def test_a_partitioned_array_is_stopped_once_after_what_is_on_its_partition():
    tree = tree_of(
        Node("sda", "8:0", "sda", holders=("md0",)),
        Node("md0", "9:0", "md0", slaves=("sda",)),
        Node("md0p1", "259:0", "md0", holders=("dm-0",)),
        Node("dm-0", "253:0", "dm-0", slaves=("md0p1",), dm_name="x", dm_uuid="CRYPT-LUKS2-1"),
    )
    assert [upper.name for upper, _ in tree.top_down("sda")] == ["dm-0", "md0p1", "md0"]
    assert [node.name for node in tree.all_below(["253:0"])] == ["dm-0", "md0p1", "md0", "sda"]


def test_a_stack_without_end_is_refused():
    nodes = [Node(f"dm-{i}", f"253:{i}", f"dm-{i}", holders=(f"dm-{i + 1}",)) for i in range(50)]
    with pytest.raises(OSError, match="stacked without end"):
        tree_of(*nodes).top_down("dm-0")


def test_a_ring_of_devices_ends():
    tree = tree_of(
        Node("dm-0", "253:0", "dm-0", holders=("dm-1",), slaves=("dm-1",)),
        Node("dm-1", "253:1", "dm-1", holders=("dm-0",), slaves=("dm-0",)),
    )
    assert tree.disks_below(["253:0"]) == frozenset()
    with pytest.raises(OSError, match="stacked without end"):
        tree.top_down("dm-0")


def test_names_with_a_slash_in_dev():
    assert Node("cciss!c0d0", "104:0", "cciss!c0d0").path == "/dev/cciss/c0d0"


def test_an_empty_sysfs_holds_nothing(tmp_path):
    assert read_tree(str(tmp_path)).nodes == {}


def test_a_file_is_free_and_needs_no_release(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    assert_free(str(path))
    assert release(Disk(str(path), 4096, kind="file", transport="file")) == ()
    assert loops_of(str(path), read_tree()) == ()
