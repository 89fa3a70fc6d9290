"""Eligibility, disk groups and the choice of a disk."""

import json
import random
from dataclasses import replace

import pytest

from agent.errors import DiskBusy, DiskGroupUnknown, DiskIneligible, DiskUnknown
from agent.model.disks import (
    Disk,
    DiskGroup,
    GroupSpec,
    Holder,
    configured_groups,
    describe,
    disk_groups,
    eligibility,
    require_eligible,
    select_disks,
)
from agent.units import GiB, TiB

SSD = Disk("/dev/sda", 480 * GiB, transport="sata", model="MZ7", serial="S1", wwn="0x5002538c00000001")
HDD = Disk("/dev/sdc", 4 * TiB, transport="sas", model="ST4000", serial="Z1", rotational=True)
NVME = Disk("/dev/nvme0n1", 960 * GiB, transport="nvme", model="PM9A3", wwn="eui.0025")


def held(*holders: Holder) -> Disk:
    return replace(SSD, holders=holders)


MOUNT = Holder("mount", "/dev/sda1", "/srv/data", "/dev/sda1", stoppable=False)
SWAP = Holder("swap", "/dev/sda2", "/dev/sda2", "/dev/sda2", stoppable=False)
ARRAY = Holder("md", "/dev/md0", "md0", "/dev/sda1", stoppable=True)
VOLUME = Holder("lvm", "/dev/dm-0", "vg/root", "/dev/md0", stoppable=True)
CACHE = Holder("bcache", "/dev/bcache0", "bcache0", "/dev/sda1", stoppable=False)
LOOP = Holder("other", "/dev/loop3", "/srv/x.img", "/srv/x.img", stoppable=False)


def test_a_plain_disk_is_eligible():
    assert eligibility(SSD, explicit=False) == ()
    require_eligible(SSD, explicit=False)


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (replace(SSD, removable=True), "removable"),
        (replace(SSD, kind="loop", transport="loop"), "not an ordinary disk but of kind loop"),
        (replace(SSD, kind="zram"), "not an ordinary disk but of kind zram"),
        (replace(SSD, transport="iscsi"), "attached over a network (iscsi)"),
    ],
)
def test_naming_the_disk_lifts_only_what_guards_against_guessing(disk, reason):
    assert eligibility(disk, explicit=False) == (reason,)
    assert eligibility(disk, explicit=True) == ()


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (replace(SSD, boot_medium=True), "the rescue system itself runs from it"),
        (replace(SSD, read_only=True), "read-only"),
        (replace(SSD, size=0), "no medium (its size is 0)"),
        (Disk("/tmp/x", 0, kind="file", transport="file"), "an empty file"),
        (held(MOUNT), "mounted at /srv/data (/dev/sda1)"),
        (held(SWAP), "used as swap (/dev/sda2)"),
        (held(CACHE), "held by /dev/bcache0 (/dev/sda1)"),
        (held(LOOP), "attached as /dev/loop3"),
    ],
)
def test_naming_the_disk_never_lifts_what_guards_data(disk, reason):
    assert reason in eligibility(disk, explicit=False)
    assert eligibility(disk, explicit=True) == (reason,)


def test_a_stack_with_nothing_mounted_is_stopped_at_claim_and_is_no_reason():
    assert eligibility(held(ARRAY, VOLUME), explicit=False) == ()


def test_a_mount_on_top_of_a_stack_is_the_reason_and_the_stack_is_not_listed():
    mounted = Holder("mount", "/dev/dm-0", "/", "/dev/dm-0", stoppable=False)
    stuck = (replace(ARRAY, stoppable=False), replace(VOLUME, stoppable=False))
    assert eligibility(held(*stuck, mounted), explicit=True) == ("mounted at / (/dev/dm-0)",)


def test_in_use_and_unfit_are_different_errors_and_all_reasons_are_listed():
    with pytest.raises(DiskBusy) as busy:
        require_eligible(held(MOUNT, SWAP), explicit=False)
    assert busy.value.message == (
        "/dev/sda is in use: mounted at /srv/data (/dev/sda1), used as swap (/dev/sda2)."
    )
    with pytest.raises(DiskIneligible) as unfit:
        require_eligible(replace(held(MOUNT), read_only=True), explicit=True)
    assert unfit.value.message == "/dev/sda cannot be written: read-only, mounted at /srv/data (/dev/sda1)."


def test_a_hostile_mount_point_cannot_command_the_terminal():
    evil = replace(MOUNT, where="/mnt/\x1b[2Jx\n")
    assert eligibility(held(evil), explicit=False) == ("mounted at /mnt/?[2Jx? (/dev/sda1)",)
    assert "\\u001b" not in json.dumps(held(evil).to_json())


def test_the_document_of_a_disk_is_json_in_camel_case():
    document = json.loads(json.dumps(held(ARRAY).to_json()))
    assert document["byId"] == []
    assert document["byPath"] is None
    assert document["logicalSectorSize"] == 512
    assert document["physicalSectorSize"] == 512
    assert document["readOnly"] is False
    assert document["bootMedium"] is False
    assert document["holders"] == [
        {"kind": "md", "name": "/dev/md0", "where": "md0", "via": "/dev/sda1", "stoppable": True}
    ]


def test_one_line_about_a_disk():
    assert describe(SSD) == "/dev/sda: 480.0 GiB sata ssd, MZ7, serial S1, 512-byte sectors"
    assert describe(HDD) == "/dev/sdc: 4.0 TiB sas hdd, ST4000, serial Z1, 512-byte sectors"
    image = Disk("/tmp/x", 20 * GiB, kind="file", transport="file")
    assert describe(image) == "/tmp/x: 20.0 GiB file, 512-byte sectors"


# -- groups --------------------------------------------------------------------------------------------------


def server() -> list[Disk]:
    """Two kinds of SATA disks, SAS disks, NVMe, and things that are in no group."""
    return [
        NVME,
        replace(NVME, path="/dev/nvme1n1", wwn="eui.0024"),
        HDD,
        replace(HDD, path="/dev/sdd", serial="Z0"),
        SSD,
        replace(SSD, path="/dev/sdb", wwn="0x5002538c00000000"),
        replace(SSD, path="/dev/sde", size=3840 * GiB, wwn="0x5002538c00000002"),
        replace(SSD, path="/dev/sdf", rotational=True, wwn="0x5002538c00000003"),
        Disk("/dev/sdg", 16 * GiB, transport="usb", removable=True),
        Disk("/dev/sdh", TiB, transport="fc"),
        Disk("/dev/sdi", 0, transport="scsi"),
        Disk("/dev/zram0", GiB, kind="zram", transport="zram"),
        Disk("/dev/sdj", 32 * GiB, transport="usb"),
    ]


def layout(disks: list[Disk]) -> list[tuple[int, list[str]]]:
    return [(group.id, [disk.path for disk in group.disks]) for group in disk_groups(disks)]


def test_groups_are_numbered_by_transport_then_solid_state_then_size():
    assert layout(server()) == [
        (1, ["/dev/nvme1n1", "/dev/nvme0n1"]),
        (2, ["/dev/sdd", "/dev/sdc"]),
        (3, ["/dev/sdb", "/dev/sda"]),
        (4, ["/dev/sde"]),
        (5, ["/dev/sdf"]),
        (6, ["/dev/sdj"]),
    ]


def test_numbers_do_not_depend_on_the_order_or_the_names_the_kernel_gave():
    disks = server()
    by_serial = {disk.path: (disk.wwn, disk.serial) for disk in disks}
    expected = [[by_serial[path] for path in paths] for _, paths in layout(disks)]
    for seed in range(20):
        names = [disk.path for disk in disks if disk.path.startswith("/dev/sd")]
        random.Random(seed).shuffle(names)
        renamed = [
            replace(disk, path=names.pop()) if disk.path.startswith("/dev/sd") else disk for disk in disks
        ]
        random.Random(seed).shuffle(renamed)
        found = disk_groups(renamed)
        assert [[(disk.wwn, disk.serial) for disk in group.disks] for group in found] == expected


def test_numbers_do_not_depend_on_what_is_mounted_or_booted_from():
    used = [replace(disk, holders=(MOUNT,), boot_medium=True, read_only=True) for disk in server()]
    assert layout(used) == layout(server())


def test_disks_without_any_name_of_their_own_are_ordered_as_the_kernel_names_them():
    names = ["/dev/vdaa", "/dev/vdb", "/dev/vda"]
    (group,) = disk_groups([Disk(name, GiB, transport="virtio") for name in names])
    assert [disk.path for disk in group.disks] == ["/dev/vda", "/dev/vdb", "/dev/vdaa"]


@pytest.mark.parametrize("number", [None, 0, 1])
def test_the_default_is_the_first_group_and_its_first_disk(number):
    assert select_disks(disk_groups(server()), number)[0].path == "/dev/nvme1n1"


@pytest.mark.parametrize("number", [7, -1, 99])
def test_an_unknown_group_is_refused_with_the_known_ones(number):
    with pytest.raises(DiskGroupUnknown) as caught:
        select_disks(disk_groups(server()), number)
    assert f"group {number} does not exist" in caught.value.message
    assert caught.value.detail == "known groups: 1, 2, 3, 4, 5, 6"


def test_a_server_without_disks_has_no_default_group():
    with pytest.raises(DiskGroupUnknown, match="no disk of this server"):
        select_disks((), None)


def test_a_first_disk_in_use_fails_the_job_and_no_other_disk_is_taken():
    disks = [replace(disk, holders=(MOUNT,)) if disk.wwn == "eui.0024" else disk for disk in server()]
    with pytest.raises(DiskBusy, match="/dev/nvme1n1 is in use: mounted at /srv/data"):
        select_disks(disk_groups(disks), 1)


def test_the_document_of_a_group():
    document = json.loads(json.dumps(disk_groups(server())[0].to_json()))
    assert document == {
        "id": 1,
        "disks": ["/dev/nvme1n1", "/dev/nvme0n1"],
        "target": "/dev/nvme1n1",
        "transport": "nvme",
        "rotational": False,
        "size": 960 * GiB,
        "model": "PM9A3",
        "configured": False,
        "missing": [],
    }


# -- groups of the configuration -----------------------------------------------------------------------------

FILE = Disk("/srv/trial.img", GiB, kind="file", transport="file")


def groups_of(*specs: GroupSpec) -> tuple[DiskGroup, ...]:
    return configured_groups(specs, {"/dev/disk/by-id/wwn-1": SSD, "/srv/trial.img": FILE, "/dev/sdc": HDD})


def test_configured_groups_keep_the_order_of_their_disks_and_may_name_files():
    groups = groups_of(GroupSpec(7, ("/dev/sdc", "/dev/disk/by-id/wwn-1")), GroupSpec(2, ("/srv/trial.img",)))
    assert [(group.id, group.target) for group in groups] == [(2, FILE), (7, HDD)]
    assert groups[1].disks == (HDD, SSD)
    assert select_disks(groups, None) == (FILE,)
    assert select_disks(groups, 7) == (HDD,)


def test_a_missing_first_disk_does_not_move_up_the_second():
    groups = groups_of(GroupSpec(1, ("/dev/gone", "/dev/sdc")))
    assert groups[0].disks == (HDD,)
    assert groups[0].to_json()["missing"] == ["/dev/gone"]
    with pytest.raises(DiskUnknown, match="/dev/gone"):
        select_disks(groups, 1)


def test_a_missing_later_disk_does_not_stop_a_deployment():
    groups = groups_of(GroupSpec(1, ("/dev/sdc", "/dev/gone")))
    assert select_disks(groups, 1) == (HDD,)


def test_a_group_of_which_nothing_is_left_can_still_be_shown():
    (group,) = groups_of(GroupSpec(1, ("/dev/gone",)))
    assert (group.transport, group.rotational, group.size, group.model) == ("", False, 0, "")


@pytest.mark.parametrize(
    "specs",
    [
        (GroupSpec(0, ("/dev/sdc",)),),
        (GroupSpec(1, ()),),
        (GroupSpec(1, ("/dev/sdc",)), GroupSpec(1, ("/srv/trial.img",))),
    ],
)
def test_unsound_configured_groups_are_refused(specs):
    with pytest.raises(ValueError, match=f"disk group {specs[0].id}"):
        groups_of(*specs)
