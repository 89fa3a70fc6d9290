"""The inventory document, read back."""

import copy
import dataclasses
import json

import pytest

from agent.model.contents import Contents, Piece, read_contents
from agent.model.disk_names import Names
from agent.model.disks import Disk, DiskGroup, Holder, select_disks
from agent.model.inventory import read_disk, read_inventory

PIECE = Piece("/dev/sda1", 2**20, "/dev/sda", "ext4", "root", "system")
CONTENTS = Contents("gpt", (PIECE, Piece("/dev/dm-0", 0, "/dev/sda1")), left_out=3)
DISK = Disk(
    "/dev/sda",
    2**30,
    transport="sata",
    by_id=("/dev/disk/by-id/a",),
    serial="S1",
    names=Names(serial=("S1", "M_S1"), hctl=("0:0:0:0",)),
    holders=(Holder("lvm", "/dev/dm-0", "vg/root", "/dev/sda1", stoppable=True),),
)
GROUPS = (DiskGroup(1, (DISK,), target=DISK), DiskGroup(2, (), None, configured=True, missing=("/dev/sdz",)))
DOCUMENT = {
    "disks": [DISK.to_json() | {"contents": CONTENTS.to_json(), "hints": DISK.names.to_json()}],
    "groups": [group.to_json() for group in GROUPS],
}


def test_disks_groups_and_contents_come_back_as_they_were():
    inventory = read_inventory(json.loads(json.dumps(DOCUMENT)))
    assert inventory.disks == (DISK,)
    assert inventory.groups == GROUPS
    assert inventory.contents == {"/dev/sda": CONTENTS}
    assert select_disks(inventory.groups, None) == (DISK,)


def test_a_disk_of_an_older_agent_has_no_further_names():
    assert read_disk(DISK.to_json()) == dataclasses.replace(DISK, names=Names())


@pytest.mark.parametrize(
    "contents", [Contents(), Contents(blank=True), Contents(unread="Permission denied"), CONTENTS]
)
def test_contents_come_back_as_they_were(contents):
    assert read_contents(contents.to_json()) == contents


def test_contents_that_an_older_agent_does_not_tell_are_not_blank():
    contents = read_contents(None)
    assert contents.unread
    assert not contents.blank


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("disks",), None),
        (("groups",), {}),
        (("disks", 0), "sda"),
        (("disks", 0, "size"), "1"),
        (("disks", 0, "readOnly"), None),
        (("disks", 0, "holders", 0), 1),
        (("disks", 0, "hints"), []),
        (("disks", 0, "hints", "serial"), "S1"),
        (("disks", 0, "contents"), []),
        (("disks", 0, "contents", "blank"), None),
        (("disks", 0, "contents", "pieces", 0, "size"), True),
        (("disks", 0, "contents", "pieces", 0, "label"), 1),
        (("groups", 0, "id"), "1"),
        (("groups", 0, "missing"), None),
    ],
)
def test_what_is_no_inventory_is_refused_with_the_member_at_fault(path, value):
    document = copy.deepcopy(DOCUMENT)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"the member \w+ of the|not a JSON object"):
        read_inventory(document)


def test_the_identity_of_a_disk_is_not_told():
    known = dataclasses.replace(DISK, identity=(1, 2))
    hints = {"hints": DISK.names.to_json()}
    assert read_inventory(DOCUMENT | {"disks": [known.to_json() | hints]}).groups[0].target == DISK
