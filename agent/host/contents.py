"""Finds out what is on a disk: its partitions, the filesystems and members in them, and what is built on those.

Used by the inventory and the plan, so that people see what a deployment destroys. It only reads: nothing is claimed,
mounted or started. Every byte may be hostile: besides both ends of the disk 388 KiB are read of a partition or a device
on it, and of 128 of these at most; names are cut and made printable. It blocks.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from agent.formats.tables.existing import read_existing
from agent.formats.tables.far_labels import FAR_BYTES, far_label, far_label_place
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.labels import END_BYTES, SUPERBLOCK_BYTES, label_of, md_at_end
from agent.formats.tables.partition import Partition
from agent.formats.tables.superblock import sniff_filesystem
from agent.host.readback import ReadBack
from agent.model.contents import MAX_PIECES, Contents, Piece
from agent.model.disks import Disk, Holder
from agent.text import printable
from agent.units import MiB

_MAX_NAME = 64
_END = MiB
# Holders that are devices of their own, with something on them.
_DEVICES = ("md", "lvm", "dm", "bcache", "other")


def read_contents(disk: Disk) -> Contents:
    """What is on a disk or a regular file; a disk that cannot be read says why."""
    if disk.size <= 0:
        return Contents(blank=True)
    sector_size = None if disk.kind == "file" else disk.logical_sector_size
    try:
        with ReadBack(disk.path) as opened:
            return _Survey(disk, opened, sector_size).contents()
    except OSError as error:
        return Contents(unread=printable(error.strerror or type(error).__name__))


class _Survey:
    """One disk, open for reading."""

    def __init__(self, disk: Disk, opened: ReadBack, sector_size: int | None) -> None:
        self._disk = disk
        self._opened = opened
        self._table = read_existing(opened.read, opened.size, sector_size)
        self._devices = [holder for holder in disk.holders if holder.kind in _DEVICES]
        """Those that have not been told yet."""

    def contents(self) -> Contents:
        table = self._table.table
        total = len(self._table.partitions) + len(self._devices)
        built = tuple(islice(self._built(), MAX_PIECES))
        return Contents(
            table="" if table is None else "gpt" if isinstance(table, Gpt) else "mbr",
            pieces=(*self._whole(), *built),
            left_out=total - len(built),
            blank=not self._disk.holders and self._has_blank_ends(),
        )

    def _has_blank_ends(self) -> bool:
        size = self._opened.size
        length = min(_END, size)
        ends = (self._opened.read(offset, length) for offset in (0, size - length))
        return all(end.count(0) == len(end) for end in ends)

    def _whole(self) -> Iterator[Piece]:
        """The disk itself, where it holds more than a table: a filesystem, or a member of an array."""
        whole = _look(self._opened, Piece(self._disk.path, self._opened.size, on=""), 0)
        if whole.type and (self._table.table is None or whole.type == "linux_raid_member"):
            yield whole

    def _built(self) -> Iterator[Piece]:
        """Each partition, with the devices on it behind it; then those on what this module does not know."""
        yield from self._above(self._disk.path)
        for partition in sorted(self._table.partitions, key=lambda partition: partition.start):
            path = partition_path(self._disk, partition.number)
            yield self._partition(path, partition)
            yield from self._above(path)
        while self._devices:
            yield from self._above(self._devices[0].via)

    def _partition(self, path: str, partition: Partition) -> Piece:
        within = min(partition.size, self._opened.size - partition.start)
        piece = Piece(path, partition.size, on=self._disk.path, name=_name(partition.name))
        if within <= 0:
            return piece
        try:
            return _look(self._opened, piece, partition.start, within)
        except OSError:
            return piece  # it is there; what it holds is not known

    def _above(self, path: str) -> Iterator[Piece]:
        """What the kernel has built on a device: arrays, volumes, mappings. Each is told once."""
        for holder in [holder for holder in self._devices if holder.via == path]:
            self._devices.remove(holder)
            yield _stacked(holder)
            yield from self._above(holder.name)


def partition_path(disk: Disk, number: int) -> str:
    """The path of a partition's node, as the kernel names it; in a regular file there is none: `disk.img#1`."""
    if disk.kind == "file":
        return f"{disk.path}#{number}"
    return f"{disk.path}{'p' if re.search(r'[0-9]$', disk.path) else ''}{number}"


def _stacked(holder: Holder) -> Piece:
    piece = Piece(holder.name, 0, on=holder.via, name=_name(holder.where))
    try:
        with ReadBack(holder.name) as opened:
            return _look(opened, replace(piece, size=opened.size), 0)
    except OSError:
        return piece  # it is there; what it holds is not known


def _look(opened: ReadBack, piece: Piece, start: int, size: int | None = None) -> Piece:
    """The piece with what its first and last bytes say that it is.

    Args:
        opened: the disk that it is on.
        piece: without type and label.
        start: where it begins on the disk, in bytes.
        size: how much of it is within the disk; all of it by default.
    """
    size = piece.size if size is None else size
    head = opened.read(start, min(SUPERBLOCK_BYTES, size))
    length = min(END_BYTES, size)
    array = md_at_end(opened.read(start + size - length, length), size)
    if array is not None:
        kind, label = "linux_raid_member", array
    else:
        kind = sniff_filesystem(head) or ""
        label = label_of(head, kind) or _far_label(opened, head, kind, start, size) if kind else ""
    return replace(piece, type=kind, label=_name(label))


def _far_label(opened: ReadBack, head: bytes, kind: str, start: int, size: int) -> str:
    place = far_label_place(head, kind)
    if place is None or place + FAR_BYTES > size:
        return ""
    try:
        return far_label(opened.read(start + place, FAR_BYTES), kind)
    except OSError:
        return ""  # the filesystem is there; what it is called is not known


def _name(text: str) -> str:
    return printable(text, _MAX_NAME)
