"""What people are shown of a disk before it is wiped, and who is asked."""

import argparse
import sys

import pytest

from agent.cli.columns import width_of
from agent.cli.losses import is_person, lines_of
from agent.model.contents import Contents, Piece
from agent.units import GiB, MiB

PIECES = (
    Piece("/dev/sda1", 512 * MiB, "/dev/sda", "vfat", "EFI", "EFI System Partition"),
    Piece("/dev/sda2", 800 * GiB, "/dev/sda", "LVM2_member", "vg0"),
    Piece("/dev/dm-0", 40 * GiB, "/dev/sda2", "crypto_LUKS", "", "vg0/root"),
    Piece("/dev/dm-1", 40 * GiB, "/dev/dm-0", "ext4", "root", "root_crypt"),
    Piece("/dev/sda3", 100 * GiB, "/dev/sda", "linux_raid_member", "web1:data"),
    Piece("/dev/md127", 100 * GiB, "/dev/sda3", "xfs", "\x1b[2Jdata", "md127"),
    Piece("/dev/sda4", 0, "/dev/sda"),
)
CONTENTS = Contents("gpt", PIECES, left_out=4)


def test_what_is_on_a_partition_stands_below_it():
    assert lines_of(CONTENTS) == [
        "lost           size  holds                  name",
        'sda1      512.0 MiB  vfat "EFI"             EFI System Partition',
        "sda2      800.0 GiB  LVM, volume group vg0  -",
        "  dm-0     40.0 GiB  LUKS, encrypted        vg0/root",
        '    dm-1   40.0 GiB  ext4 "root"            root_crypt',
        "sda3      100.0 GiB  md array web1:data     -",
        '  md127   100.0 GiB  xfs "?[2Jdata"         md127',
        "sda4              -  -                      -",
        "and 4 more",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_folded_by_the_terminal(width):
    lines = lines_of(CONTENTS, width)
    assert len(lines) == len(lines_of(CONTENTS))
    assert max(map(width_of, lines)) <= width
    assert all(piece.path.rpartition("/")[2] in line for piece, line in zip(PIECES, lines[1:], strict=False))


@pytest.mark.parametrize(
    ("contents", "line"),
    [
        (Contents(blank=True), "nothing is on it"),
        (Contents("gpt"), "a partition table (gpt) without partitions"),
        (Contents(), "unknown data"),
        (Contents(unread="Input/output error"), "what is on it could not be read: Input/output error"),
    ],
)
def test_a_disk_without_partitions(contents, line):
    assert lines_of(contents, 80) == [line]


def test_pieces_that_are_on_each_other_are_shown_all_the_same():
    loop = (
        Piece("/dev/dm-0", 1, "/dev/dm-1"),
        Piece("/dev/dm-1", 1, "/dev/dm-0"),
        Piece("/dev/dm-2", 1, "?"),
    )
    assert len(lines_of(Contents(pieces=loop))) == 4


class Stream:
    def __init__(self, *, terminal: bool) -> None:
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("stdin", "stderr", "given", "asked"),
    [
        (True, True, {}, True),
        (True, True, {"yes": True}, False),
        (True, True, {"json": True}, False),
        (False, True, {}, False),
        (True, False, {}, False),
        (None, True, {}, False),
    ],
)
def test_only_a_person_at_a_terminal_is_asked(monkeypatch, stdin, stderr, given, asked):
    for name, terminal in (("stdin", stdin), ("stderr", stderr)):
        monkeypatch.setattr(sys, name, None if terminal is None else Stream(terminal=terminal))
    assert is_person(argparse.Namespace(**{"yes": False, "json": False} | given)) is asked
