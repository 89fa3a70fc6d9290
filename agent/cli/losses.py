"""Shows people what a deployment destroys, and asks them whether it should.

Only a person at a terminal is asked: never a script, and nobody where nothing is lost.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import termios
from collections.abc import Sequence

from agent.cli.columns import Column, fold, table
from agent.cli.output import print_stderr
from agent.cli.screen import terminal_size
from agent.errors import JobCancelled
from agent.model.contents import Contents, Piece
from agent.model.disks import Disk, describe
from agent.text import printable
from agent.units import format_size

_COLUMNS = (
    Column("lost", least=16),
    Column("size", least=10, right=True),
    Column("holds", least=10),
    Column("name", least=8, rank=1),
)
_MEMBERS = {
    "LVM2_member": "LVM, volume group",
    "linux_raid_member": "md array",
    "crypto_LUKS": "LUKS, encrypted",
    "zfs_member": "ZFS, pool",
}


# -- showing -------------------------------------------------------------------------------------------------


def lines_of(contents: Contents, width: int | None = None) -> list[str]:
    """What is on a disk, as printable lines.

    Args:
        contents: of the disk.
        width: of the terminal; None: nothing is cut.
    """
    if contents.unread:
        return [f"what is on it could not be read: {printable(contents.unread)}"]
    if contents.blank:
        return ["nothing is on it"]
    if not contents.pieces:
        return [
            f"a partition table ({contents.table}) without partitions" if contents.table else "unknown data"
        ]
    depths = _depths(contents)
    rows = [[printable(cell) for cell in _row(piece, depths[piece.path])] for piece in contents.pieces]
    more = [f"and {contents.left_out} more"] if contents.left_out else []
    return [*table(_COLUMNS, rows, width), *more]


def _depths(contents: Contents) -> dict[str, int]:
    """How far each piece is indented, by its path: what it is on comes before it."""
    depths: dict[str, int] = {}
    for piece in contents.pieces:
        depths[piece.path] = depths[piece.on] + 1 if piece.on in depths else 0
    return depths


def _row(piece: Piece, depth: int) -> tuple[str, ...]:
    if piece.type in _MEMBERS:
        holds = f"{_MEMBERS[piece.type]} {piece.label}".rstrip()
    else:
        holds = f'{piece.type} "{piece.label}"' if piece.label else piece.type
    size = format_size(piece.size) if piece.size else "-"
    node = piece.path.rpartition("/")[2]
    return ("  " * min(depth, 8) + node, size, holds or "-", piece.name or "-")


# -- asking --------------------------------------------------------------------------------------------------


def is_person(options: argparse.Namespace) -> bool:
    """Whether somebody gave the command who can be asked: at a terminal, without --yes and --json."""
    streams = (sys.stdin, sys.stderr)
    return not (options.yes or options.json) and all(
        stream is not None and stream.isatty() for stream in streams
    )


async def confirm(losses: Sequence[tuple[Disk, Contents]], untouched: str) -> None:
    """Show what is on disks, and return if that may be destroyed. Nobody is asked where nothing is on them.

    Args:
        losses: the disks that will be written, and what is on each.
        untouched: what to say where the answer is no.

    Raises:
        JobCancelled: the answer is no, or there is none: the end of the input, Ctrl-C.
    """
    if all(contents.blank for _, contents in losses):
        return
    width = terminal_size(os.environ, sys.stderr).columns
    for disk, contents in losses:
        heading = f"This destroys what is on {printable(describe(disk))}"
        for line in [*fold(heading, width), *lines_of(contents, width)]:
            print_stderr(line)
    paths = " and ".join(printable(disk.path) for disk, _ in losses)
    try:
        agreed = await _ask(f"Wipe {paths} and go on? [y/N] ")
    except asyncio.CancelledError:
        print_stderr("\n")  # what follows begins on a line of its own
        agreed = False
    if not agreed:
        raise JobCancelled(hint=untouched)


async def _ask(question: str) -> bool:
    """Ask at the terminal: yes is `y` or `yes`, in capitals too. Anything else, and the end of the input, is no."""
    terminal = sys.stdin.fileno()
    # What was typed, or pasted, before the question could be read is no answer to it.
    with contextlib.suppress(termios.error):
        termios.tcflush(terminal, termios.TCIFLUSH)
    print(question, end="", file=sys.stderr, flush=True)
    answer = await _read_line(terminal)
    if not answer.endswith(b"\n"):
        print_stderr("\n")
    return answer.strip().lower() in (b"y", b"yes") and answer.endswith(b"\n")


async def _read_line(terminal: int) -> bytes:
    """One line with its end, or what came before the end of the input. A thread could not be cancelled."""
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n"):
        ready = asyncio.Event()
        loop.add_reader(terminal, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(terminal)
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the terminal is gone
            piece = b""
        if not piece:
            break
        line += piece
    return line
