"""What would be lost of a block device, against what the system's own tools put on it."""

from pathlib import Path

import pytest

from agent.host.contents import read_contents
from agent.host.inventory import describe_path
from agent.units import MiB
from tests.blockdev.conftest import LoopDisk
from tests.integration.conftest import on_terminal
from tests.kit.commands import attempt, run

__all__ = ["on_terminal"]

TABLE = """\
label: gpt
size=40MiB,type=uefi,name="EFI System"
size=16MiB,type=linux
size=16MiB,type=lvm
size=16MiB,type=swap
"""


@pytest.fixture(params=[512, 4096])
def disk(make_disk, partition_node, request) -> LoopDisk:
    """A disk with an old system on it, whose partitions the kernel knows."""
    disk = make_disk(112 * MiB, request.param)
    run("sfdisk", "--quiet", "--no-reread", disk.device, stdin=TABLE)
    attempt("partx", "--add", disk.device)
    esp, root, volumes, swap = (partition_node(disk.device, number) for number in (1, 2, 3, 4))
    run("mkfs.vfat", "-n", "ESP", esp)
    run("mkfs.ext4", "-q", "-F", "-L", "my root", root)
    run("mkswap", "-q", "-L", "exchange", swap)
    run("pvcreate", "--quiet", "--force", "--yes", volumes)
    run("vgcreate", "--quiet", f"vg-{disk.sector_size}", volumes)
    yield disk
    attempt("partx", "--delete", disk.device)


def test_the_same_is_told_as_by_blkid(disk, partition_node):
    found = read_contents(describe_path(str(disk.device)))
    assert [piece.type for piece in found.pieces] == ["vfat", "ext4", "LVM2_member", "swap"]
    assert [piece.label for piece in found.pieces] == ["ESP", "my root", f"vg-{disk.sector_size}", "exchange"]
    for number, piece in enumerate(found.pieces, start=1):
        node = partition_node(disk.device, number)
        assert Path(piece.path).name == f"{disk.device.name}p{number}"
        assert piece.size == int(run("blockdev", "--getsize64", node))
        assert piece.type == run("blkid", "-p", "-o", "value", "-s", "TYPE", node).strip()
    assert (found.table, found.blank, found.unread) == ("gpt", False, "")


def test_a_person_sees_it_before_it_is_wiped(disk, on_terminal):
    before = disk.file.read_bytes()
    url = ("--url", "http://127.0.0.1:1/x", "--type", "raw")
    running = on_terminal("write", *url, "--disk", disk.device, TERM="xterm", keyboard=True)
    running.wait_for("[y/N] ")
    name = disk.device.name
    assert f'{name}p2  16.0 MiB  ext4 "my root"' in running.text
    assert f"{name}p3  16.0 MiB  LVM, volume group vg-{disk.sector_size}" in running.text
    running.type(b"\r")
    assert running.finish() == 130
    assert disk.file.read_bytes() == before


def test_a_disk_in_use_is_refused_and_not_asked_about(disk, on_terminal, partition_node, tmp_path):
    point = tmp_path / "mounted"
    point.mkdir()
    run("mount", "-o", "ro", partition_node(disk.device, 2), point)
    try:
        url = ("--url", "http://127.0.0.1:1/x", "--type", "raw")
        running = on_terminal("write", *url, "--disk", disk.device, TERM="xterm", keyboard=True)
        assert running.finish() == 1
    finally:
        run("umount", point)
    assert "[y/N]" not in running.text
    assert f"mounted at {point}" in running.text.replace("\r\n", "")
