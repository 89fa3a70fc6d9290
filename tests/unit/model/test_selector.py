"""The disk selector: which disk it takes, what it refuses, and what it says then."""

import json
from dataclasses import replace

import pytest

from agent.errors import Blame, DiskNotSelected, Fault
from agent.model.disk_names import Names
from agent.model.disks import Disk, DiskGroup, Holder
from agent.model.inventory import read_disk
from agent.model.selector import ANY, KEYS, DiskSelector, hint_values, parse_selector
from agent.units import GiB, TiB

SSD = Disk("/dev/sda", 480 * GiB, transport="sata", model="MZ7KM480", serial="S1", wwn="0x5002538c00000001")
TWIN = replace(SSD, path="/dev/sdb", serial="S2", wwn="0x5002538c00000002")
HDD = Disk("/dev/sdc", 4 * TiB, transport="sas", model="ST4000", serial="Z1", rotational=True)
NVME = Disk(
    "/dev/nvme0n1",
    960 * GiB + 12345,
    transport="nvme",
    model="SAMSUNG PM9A3",
    serial="S64",
    wwn="eui.0025",
    by_id=("/dev/disk/by-id/nvme-eui.0025",),
    by_path="/dev/disk/by-path/pci-0000:01:00.0-nvme-1",
)
LUN = Disk(
    "/dev/sdd",
    100 * GiB,
    transport="fc",
    wwn="0x600508b1001c79ade5178f0626caaa9c",
    vendor="HP",
    names=Names(
        wwn=("0x600508b1001c79ad",),
        wwn_vendor_extension=("0xe5178f0626caaa9c",),
        serial=("600508b1001c79ade5178f0626caaa9c", "3600508b1001c79ade5178f0626caaa9c"),
        hctl=("2:0:0:1",),
    ),
)
STICK = Disk("/dev/sde", 32 * GiB, transport="usb", removable=True, serial="U1")
SERVER = (HDD, STICK, TWIN, LUN, NVME, SSD)
MOUNT = Holder("mount", "/dev/sda1", "/srv/data", "/dev/sda1", stoppable=False)


def selector(**members: object) -> DiskSelector:
    faults: list[Fault] = []
    found = parse_selector(members, "disk", faults)
    assert faults == []
    assert found is not None
    return found


def faults_of(document: object) -> list[tuple[str, str]]:
    faults: list[Fault] = []
    assert parse_selector(document, "disk", faults) is None
    return [(fault.path, fault.message) for fault in faults]


# -- choosing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "disk"),
    [
        ({"serial": "s2"}, TWIN),
        ({"serial": "s== 3600508B1001C79ADE5178F0626CAAA9C"}, LUN),
        ({"wwn": "0x5002538C00000001"}, SSD),
        ({"wwn": "0x600508b1001c79ad"}, LUN),
        ({"wwn": LUN.wwn}, LUN),
        ({"wwn_with_extension": LUN.wwn}, LUN),
        ({"wwn_vendor_extension": "0xe5178f0626caaa9c", "serial": LUN.names.serial[0]}, LUN),
        ({"model": "<in> pm9"}, NVME),
        ({"model": "<or> ST4000 <or> ST8000"}, HDD),
        ({"size": 960}, NVME),
        ({"size": ">= 1000"}, HDD),
        ({"size": "<range-in> [ 900 1000 ]"}, NVME),
        ({"rotational": True}, HDD),
        ({"rotational": "yes"}, HDD),
        ({"rotational": False, "size": "> 500"}, NVME),
        ({"name": "/dev/sdc"}, HDD),
        ({"name": "/dev/disk/by-id/nvme-eui.0025"}, NVME),
        ({"name": NVME.by_path}, NVME),
        ({"by_path": f"s== {NVME.by_path}"}, NVME),
        ({"hctl": "2:0:0:1", "wwn": LUN.wwn}, LUN),
        ({"tran": "nvme"}, NVME),
        ({"model": "MZ7KM480", "serial": "s!= S1"}, TWIN),
        ({"model": "MZ7KM480", "any": True}, SSD),
        ({"size": ">= 1", "any": "true"}, NVME),  # the first group
    ],
)
def test_the_one_disk_that_fits_is_taken_in_whatever_order_they_are_found(members, disk):
    for found in (SERVER, SERVER[::-1]):
        assert selector(**members).select(found) == (disk,)


def test_every_key_has_a_value_to_be_compared_with():
    for disk in SERVER:
        assert set(hint_values(disk)) == set(KEYS)


@pytest.mark.parametrize("disk", SERVER, ids=lambda disk: disk.path)
def test_what_the_inventory_shows_of_a_disk_selects_it(disk):
    shown = json.loads(json.dumps(hint_values(disk)))
    posted = {
        key: value[-1] if isinstance(value, list) else value for key, value in shown.items() if value != []
    }
    chosen = selector(**posted)
    assert chosen.select(SERVER) == (disk,)
    # And a command that has read the inventory of the daemon chooses the same.
    documents = [read_disk(other.to_json() | {"hints": hint_values(other)}) for other in SERVER]
    assert chosen.select(documents)[0].path == disk.path


@pytest.mark.parametrize("hint", ["U1", "s== U1"])
def test_a_disk_that_is_named_exactly_is_named_as_by_its_path(hint):
    assert selector(serial=hint).select(SERVER) == (STICK,)


@pytest.mark.parametrize("members", [{"serial": "<in> U1"}, {"size": 32}, {"tran": "usb", "any": True}])
def test_a_disk_that_is_only_described_is_none_that_nobody_would_guess(members):
    with pytest.raises(DiskNotSelected) as caught:
        selector(**members).select(SERVER)
    assert "/dev/sde: fits, cannot be written: removable" in caught.value.detail
    assert "Free the disk" in caught.value.hint


def test_a_disk_that_the_configuration_names_may_be_described():
    group = DiskGroup(1, (STICK,), target=STICK, configured=True)
    assert selector(size=32).select(SERVER, [group]) == (STICK,)
    with pytest.raises(DiskNotSelected):
        selector(size=32).select(SERVER, [replace(group, configured=False)])


def test_data_in_use_is_never_selected():
    used = replace(SSD, holders=(MOUNT,))
    with pytest.raises(DiskNotSelected, match="fits no disk that may be written") as caught:
        selector(serial="S1").select((used, TWIN))
    assert "/dev/sda: fits, cannot be written: mounted at /srv/data (/dev/sda1)" in caught.value.detail
    # The other of two that fit is taken: it alone may be written.
    assert selector(model="MZ7KM480").select((used, TWIN)) == (TWIN,)


# -- refusing ------------------------------------------------------------------------------------------------


def test_none_that_fits_tells_of_every_disk_what_it_failed_on():
    with pytest.raises(DiskNotSelected) as caught:
        selector(serial="Z2", size=">= 1000", rotational=True).select(SERVER)
    error = caught.value
    assert (error.code, error.blame, error.retryable) == ("disk.selector", Blame.REQUEST, False)
    assert error.message == (
        "The disk selector (serial Z2, size >= 1000, rotational true) fits no disk that may be written."
    )
    told = error.detail.split("; ")
    assert told[0] == "/dev/sdc: serial is Z1"
    assert "/dev/nvme0n1: serial is S64, size is 960, rotational is false" in told
    assert {line.split(":")[0] for line in told} == {disk.path for disk in SERVER}
    assert "`byoi disks --json`" in error.hint


def test_several_that_fit_are_named_and_the_hint_tells_two_ways_out():
    with pytest.raises(DiskNotSelected, match="fits 2 disks, and one is wanted") as caught:
        selector(model="MZ7KM480").select(SERVER)
    assert caught.value.detail.startswith("/dev/sda: fits; /dev/sdb: fits; ")
    assert "serial" in caught.value.hint
    assert "`any`" in caught.value.hint


def test_a_server_without_disks_is_told_as_such():
    with pytest.raises(DiskNotSelected) as caught:
        selector(serial="S1").select(())
    assert caught.value.detail == "this server has no disks"


def test_what_is_told_is_bounded_and_printable():
    many = [Disk(f"/dev/sd{number}", GiB, model="M" * 250, serial="\x1b[2J" * 60) for number in range(500)]
    hint = dict.fromkeys(("serial", "model", "vendor", "hctl"), "é\x1b" * 500)
    with pytest.raises(DiskNotSelected) as caught:
        selector(**hint).select(many)
    error = caught.value
    assert len(error.message) < 400
    assert len(error.detail) < 5000
    assert error.detail.endswith(" more")
    assert (error.message + error.detail).isprintable()


# -- reading -------------------------------------------------------------------------------------------------


def test_all_faults_are_told_with_their_paths():
    document = {
        "serial": 12,
        "size": "big",
        "rotational": "maybe",
        "any": 3,
        "wwnn": "0x",
        "model": "",
        "vendor": None,
    }
    assert [path for path, _ in faults_of(document)] == [
        "disk.serial",
        "disk.size",
        "disk.rotational",
        "disk.any",
        "disk.wwnn",
        "disk.model",
    ]
    assert f"known are {', '.join((*KEYS, ANY))}" in dict(faults_of(document))["disk.wwnn"]


@pytest.mark.parametrize("document", ["Z1", [], 1, True])
def test_a_selector_is_an_object(document):
    assert faults_of(document) == [("disk", 'must be an object such as {"serial": "Z1"}')]


@pytest.mark.parametrize("document", [{}, {"any": True}, {"serial": None}])
def test_a_selector_without_a_hint_selects_nothing(document):
    ((path, message),) = faults_of(document)
    assert (path, message.split(";")[0]) == ("disk", "selects nothing")


def test_what_was_posted_comes_back_and_is_read_the_same():
    posted = {"serial": "S1", "size": 480, "rotational": "no", "any": False}
    found = selector(**posted, wwn=None)
    assert found.posted == posted
    assert selector(**found.posted) == found
    assert str(found) == "serial S1, size 480, rotational false"
