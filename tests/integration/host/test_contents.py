"""What is found on a disk: on files with tables and filesystems of the system's own tools, whole and damaged."""

import os
import random
from pathlib import Path

import pytest

from agent.host.contents import read_contents
from agent.host.inventory import describe_path
from agent.model.contents import MAX_PIECES, Contents
from agent.units import KiB, MiB
from tests.kit.commands import run

SIZE = 64 * MiB
GPT = """\
label: gpt
start=1MiB,size=4MiB,type=uefi,name="EFI System"
start=8MiB,size=16MiB,type=linux,name="rôot"
"""


@pytest.fixture
def disk(tmp_path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, SIZE)
    return path


def contents(path: Path) -> Contents:
    return read_contents(describe_path(str(path)))


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def told(found: Contents) -> list[tuple[str, int, str, str, str]]:
    return [
        (piece.path.rpartition("#")[2], piece.size // MiB, piece.type, piece.label, piece.name)
        for piece in found.pieces
    ]


def install(disk: Path) -> list[tuple[str, int, str, str, str]]:
    """A FAT and an ext4 in a GPT; returns what is to be told of it."""
    run("sfdisk", "--quiet", disk, stdin=GPT)
    run("mkfs.vfat", "-n", "ESP", "--offset", 2048, disk, 4096)
    run("mkfs.ext4", "-q", "-F", "-L", "my root", "-E", f"offset={8 * MiB}", disk, "16M")
    return [("1", 4, "vfat", "ESP", "EFI System"), ("2", 16, "ext4", "my root", "rôot")]


def test_partitions_their_filesystems_and_labels(disk):
    expected = install(disk)
    found = contents(disk)
    assert told(found) == expected
    assert (found.table, found.blank, found.left_out, found.unread) == ("gpt", False, 0, "")
    assert {piece.on for piece in found.pieces} == {str(disk)}


def test_a_damaged_table_is_read_from_its_copy(disk):
    expected = install(disk)
    write_at(disk, 512, b"\xff" * 512)
    assert told(contents(disk)) == expected


def test_logical_partitions_are_told_instead_of_the_one_around_them(disk):
    logicals = "5: start=9MiB,size=4MiB,type=83\n6: start=14MiB,size=4MiB,type=83\n"
    table = f"label: dos\n1: start=1MiB,size=4MiB,type=83\n2: start=8MiB,size=40MiB,type=5\n{logicals}"
    run("sfdisk", "--quiet", disk, stdin=table)
    found = contents(disk)
    assert found.table == "mbr"
    assert [piece.path.rpartition("#")[2] for piece in found.pieces] == ["1", "5", "6"]


def test_a_filesystem_without_a_table(disk):
    run("mkfs.ext4", "-q", "-F", "-L", "data", disk)
    (piece,) = contents(disk).pieces
    assert (piece.path, piece.size, piece.on, piece.type, piece.label) == (
        str(disk),
        SIZE,
        "",
        "ext4",
        "data",
    )


def test_a_member_of_a_mirror_whose_superblock_is_behind_its_filesystem(disk):
    install(disk)
    superblock = b"\xfc\x4e\x2b\xa9\1\0\0\0" + bytes(24) + b"web1:root".ljust(32, b"\0")
    write_at(disk, 24 * MiB - 8 * KiB, superblock)
    assert told(contents(disk))[1] == ("2", 16, "linux_raid_member", "web1:root", "rôot")


@pytest.mark.parametrize(
    ("offset", "blank"), [(None, True), (0, False), (SIZE - 1, False), (SIZE // 2, True)]
)
def test_a_disk_is_blank_where_both_its_ends_are_zero(disk, offset, blank):
    if offset is not None:
        write_at(disk, offset, b"x")
    found = contents(disk)
    assert (found.blank, found.pieces, found.table) == (blank, (), "")


@pytest.mark.parametrize("size", [1, 511, 513, 5000, 64 * KiB])
def test_a_file_that_is_smaller_than_what_is_looked_for(tmp_path, size):
    path = tmp_path / "small"
    path.write_bytes(b"x" * size)
    assert contents(path) == Contents()


def test_names_are_cut_and_made_printable(disk):
    run("mkfs.ext4", "-q", "-F", disk)
    write_at(disk, 1024 + 120, b"\x1b[2J\xff\n" + b"a" * 10)
    (piece,) = contents(disk).pieces
    assert piece.label == "?[2J\N{REPLACEMENT CHARACTER}?aaaaaaaaaa"


def test_a_table_of_very_many_partitions_is_told_in_part(disk):
    count = MAX_PIECES + 22
    parts = "".join(f"start={2048 + 8 * number},size=8\n" for number in range(count))
    run("sfdisk", "--quiet", disk, stdin=f"label: gpt\ntable-length: 200\n{parts}")
    found = contents(disk)
    assert (len(found.pieces), found.left_out) == (MAX_PIECES, 22)


def test_a_disk_that_cannot_be_read_says_why(disk):
    described = describe_path(str(disk))
    disk.unlink()
    assert read_contents(described) == Contents(unread="No such file or directory")


@pytest.mark.parametrize("seed", range(20))
def test_damage_anywhere_in_the_first_sectors_stops_nothing(disk, seed):
    install(disk)
    chance = random.Random(seed)
    for _ in range(40):
        at = chance.choice((446, 512, 1024, MiB, 8 * MiB + KiB)) + chance.randrange(256)
        write_at(disk, at, chance.randbytes(chance.randrange(1, 8)))
    found = contents(disk)
    assert not found.blank
    assert len(found.pieces) <= MAX_PIECES
