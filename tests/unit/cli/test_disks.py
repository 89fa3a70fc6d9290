"""The list of disks, as it is laid out at every width."""

import pytest

from agent.cli.columns import width_of
from agent.cli.disks import lines_of
from agent.model.disks import Disk

WWN = "0x5000c500a0b1c2d3"
DISKS = [
    Disk(
        "/dev/nvme0n1",
        1920383410176,
        transport="nvme",
        model="SAMSUNG MZQL21T9HCJR-00A07",
        serial="S64GNE0R1",
    ),
    Disk(
        "/dev/nvme1n1",
        1920383410176,
        transport="nvme",
        model="SAMSUNG MZQL21T9HCJR-00A07",
        serial="S64GNE0R2",
    ),
    Disk("/dev/sda", 4000787030016, transport="sata", model="ST4000NM", wwn=WWN, rotational=True),
    Disk("/dev/sdb", 512110190592, transport="usb", model="a\x1b[31mb", removable=True),
]


def document(disks=DISKS):
    reasons = {
        "/dev/sda": ["mounted at /srv (/dev/sda1)", "used as swap (/dev/sda2)"],
        "/dev/sdb": ["removable"],
    }
    return {
        "disks": [
            disk.to_json() | {"diskGroupId": number, "reasons": reasons.get(disk.path, [])}
            for number, disk in enumerate(disks, start=1)
        ]
    }


@pytest.mark.parametrize("width", [None, 40, 60, 72, 80, 100, 120, 200])
def test_a_disk_is_one_line(width):
    lines = lines_of(document(), width)
    assert len(lines) == 1 + len(DISKS)
    assert width is None or max(map(width_of, lines)) <= width
    for line, disk in zip(lines[1:], DISKS, strict=True):
        assert line.split()[0] == disk.path
    assert not any("\x1b" in line for line in lines)


def test_40_columns_tell_the_size_the_group_and_whether_it_can_be_written():
    assert lines_of(document(), 40) == [
        "disk               size  group  eligible",
        "/dev/nvme0n1    1.7 TiB      1  yes",
        "/dev/nvme1n1    1.7 TiB      2  yes",
        "/dev/sda        3.6 TiB      3  no: mo..",
        "/dev/sdb      476.9 GiB      4  no: re..",
    ]


def test_80_columns_tell_each_disk_from_the_others():
    assert lines_of(document(), 80) == [
        "disk               size  model      serial/wwn          sector  group  eligible",
        "/dev/nvme0n1    1.7 TiB  SAMSUNG..  S64GNE0R1              512      1  yes",
        "/dev/nvme1n1    1.7 TiB  SAMSUNG..  S64GNE0R2              512      2  yes",
        "/dev/sda        3.6 TiB  ST4000NM   0x5000c500a0b1c2d3     512      3  no: mou..",
        "/dev/sdb      476.9 GiB  a?[31mb    -                      512      4  no: rem..",
    ]


def test_nothing_is_cut_for_the_sake_of_a_column_that_is_extra():
    lines = lines_of(document(), 120)
    assert "kind" not in lines[0]
    assert "SAMSUNG MZQL21T9HCJR-00A07  S64GNE0R1 " in lines[1]


@pytest.mark.parametrize("width", [None, 200])
def test_200_columns_and_a_pipe_have_all_of_it(width):
    text = "\n".join(lines_of(document(), width))
    assert "no: mounted at /srv (/dev/sda1); used as swap (/dev/sda2)" in text
    assert "SAMSUNG MZQL21T9HCJR-00A07" in text
    assert all(word in text for word in ("sata rotating", "nvme solid", WWN, "physical"))


def test_a_pipe_cuts_nothing_however_long_it_is():
    long = Disk("/dev/sda", 1, model="m" * 256, serial="s" * 256, wwn="w" * 256)
    (_, line) = lines_of(document([long]), None)
    assert all(text in line for text in (long.model, long.serial, long.wwn))


@pytest.mark.parametrize("disk", [{}, {"size": "1", "reasons": 3}, {"size": -1, "path": None}])
def test_a_document_of_another_version_is_shown_as_far_as_it_can_be(disk):
    assert len(lines_of({"disks": [disk, "no disk"]}, 80)) == 2
