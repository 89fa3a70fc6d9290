"""The kernel's lists of mounts and swaps; the samples are modelled on a live and an installed system."""

from pathlib import Path

import pytest

from agent.host.mounts import (
    Mount,
    Swap,
    covering,
    parse_mountinfo,
    parse_swaps,
    read_mounts,
    read_swaps,
    system_mounts,
)

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> tuple[Mount, ...]:
    return parse_mountinfo((SAMPLES / name).read_text())


def points(mounts) -> list[str]:
    return [mount.mount_point for mount in mounts]


def test_a_line_is_taken_apart():
    line = "36 35 98:1 /sub /mnt/a rw,noatime shared:1 master:2 - ext4 /dev/sdb1 rw,errors=continue\n"
    assert parse_mountinfo(line) == (Mount("98:1", "/mnt/a", "ext4", "/dev/sdb1", ("rw", "errors=continue")),)


def test_escaped_blanks_and_backslashes_come_back():
    line = r"36 35 8:1 / /mnt/a\040b\134c\011d\012e rw - ext4 /dev/disk\040one rw"
    (mount,) = parse_mountinfo(line)
    assert mount.mount_point == "/mnt/a b\\c\td\ne"
    assert mount.source == "/dev/disk one"


def test_an_empty_source_is_no_fault():
    (mount,) = parse_mountinfo("36 35 0:40 / /mnt rw - tmpfs  rw\n")
    assert mount.source == ""


@pytest.mark.parametrize(
    "line", ["nonsense", "36 35 98:0 / /mnt rw ext4 /dev/sda rw", "36 35 - ext4 /dev/sda rw", " - "]
)
def test_a_line_of_another_shape_is_refused_and_not_skipped(line):
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        parse_mountinfo(f"36 35 98:1 / / rw - ext4 /dev/sdb1 rw\n{line}\n")


def test_swap_areas_and_swap_files():
    text = (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/sda2                               partition\t32764\t\t0\t\t-2\n"
        "/var/swap\\040file                       file\t\t32764\t\t0\t\t-3\n"
    )
    assert parse_swaps(text) == (Swap("/dev/sda2", "partition"), Swap("/var/swap file", "file"))
    assert parse_swaps("Filename Type Size Used Priority\n") == ()
    assert parse_swaps("") == ()


def test_this_machine_can_be_read():
    assert any(mount.mount_point == "/" for mount in read_mounts())
    assert len(set(read_mounts())) == len(read_mounts())
    assert isinstance(read_swaps(), tuple)


def test_a_path_lies_on_the_longest_mount_point_above_it():
    mounts = sample("live.mountinfo")
    found = covering(mounts, "/run/live/medium/live/filesystem.squashfs")
    assert found is not None
    assert (found.mount_point, found.dev) == ("/run/live/medium", "8:17")
    assert covering(mounts, "/run/livestock").mount_point == "/run"
    assert covering(mounts, "/etc").mount_point == "/"
    assert covering((), "/etc") is None


def test_the_last_of_two_mounts_at_one_place_is_the_one_that_counts():
    lines = "1 0 8:1 / /mnt rw - ext4 /dev/sda1 rw\n2 0 8:2 / /mnt rw - ext4 /dev/sda2 rw\n"
    assert covering(parse_mountinfo(lines), "/mnt/x").dev == "8:2"


def test_a_live_system_is_made_of_its_overlay_its_image_and_its_medium():
    found = points(system_mounts(sample("live.mountinfo")))
    assert sorted(found) == [
        "/",
        "/run/live/medium",
        "/run/live/overlay",
        "/run/live/rootfs/filesystem.squashfs",
    ]


def test_the_layers_of_an_overlay_are_followed_wherever_they_are():
    lines = (
        "1 0 0:30 / / rw - overlay overlay rw,lowerdir=/deep/lower:/other,upperdir=/up/u,workdir=/up/w\n"
        "2 1 8:1 / /deep rw - ext4 /dev/sda1 rw\n"
        "3 1 8:17 / /other rw - ext4 /dev/sdb1 rw\n"
        "4 1 8:33 / /up rw - ext4 /dev/sdc1 rw\n"
        "5 1 8:49 / /srv/data rw - ext4 /dev/sdd1 rw\n"
    )
    found = system_mounts(parse_mountinfo(lines))
    assert sorted(points(found)) == ["/", "/deep", "/other", "/up"]


def test_an_overlay_that_names_itself_ends():
    line = "1 0 0:30 / / rw - overlay overlay rw,lowerdir=/a:/b\n"
    assert points(system_mounts(parse_mountinfo(line))) == ["/"]


def test_an_ordinary_system_is_made_of_root_and_boot():
    found = points(system_mounts(sample("btrfs-root.mountinfo")))
    assert sorted(found) == ["/", "/boot", "/boot/efi"]
