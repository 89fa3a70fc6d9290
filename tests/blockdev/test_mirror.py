"""Disks of a mirror with sectors of 512 and of 4096 bytes, of unequal size: mdadm, blkid and sgdisk judge them."""

import re
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.formats.tables.gpt import last_usable_lba, renewed
from agent.formats.tables.layout import finish_head, place_drive
from agent.formats.tables.md import (
    BITMAP_BYTES,
    Array,
    bitmap,
    member_gap,
    member_layout,
    member_writes,
    uuid_text,
)
from agent.formats.tables.mirror import (
    HEAD_BYTES,
    layout_fault,
    room_fault,
    root_fault,
    root_of,
    widened,
)
from agent.formats.tables.partition import Partition
from agent.formats.tables.read import read_table
from agent.units import GiB, KiB, MiB, TiB, divide_up
from tests.kit.commands import run
from tests.kit.disks import make_disk
from tests.kit.images import GPT_PIECES, ImageMaker
from tests.kit.loops import sector_size_of
from tests.kit.members import examine, examine_bitmap, write_member

MADE = 1_764_450_000  # 2025-11-29


@dataclass
class Half:
    """A disk of the mirror: a file, its root, and where that ends."""

    path: Path
    root: Partition
    array: Array


def mirror(directory, image, sizes, *, drive):
    """Write an image onto disks full of dirt, one a size, as the two halves of a mirror."""
    data = image.data
    table = read_table(data, image.sector_size)
    assert layout_fault(table) is None
    old = root_of(table)
    assert root_fault(data[old.start : old.start + HEAD_BYTES]) is None
    plans = []
    for size in sizes:
        slot = place_drive(table, size, image.sector_size, 700 * KiB) if drive else None
        end = slot.start if slot else (last_usable_lba(table, size) + 1) * image.sector_size
        assert room_fault(table, end) is None
        plans.append((size, slot, renewed(widened(table, end), uuid.uuid4)))
    space = min(member_layout(root_of(wide).size).data_bytes for _, _, wide in plans)
    array = Array(uuid=uuid.uuid4(), ctime=MADE, size=space, resync=old.size)
    halves = []
    for role, (size, slot, wide) in enumerate(plans):
        root = root_of(wide)
        done = finish_head(data[:MiB], wide, size, slot, unique_guid=uuid.uuid4(), drive_type="vfat")
        gap, length = member_gap(array, root.size)
        path = make_disk(directory / f"half-{role}", size)
        with path.open("r+b") as file:
            file.write(data[: old.end])
            for offset, piece in (
                (root.start + gap, bytes(length)),
                *(
                    (root.start + at, block)
                    for at, block in member_writes(array, role, root.size, uuid.uuid4())
                ),
                *done.other_writes,
                *done.tail_writes,
                (0, done.head),
            ):
                assert offset % image.sector_size == len(piece) % image.sector_size == 0
                file.seek(offset)
                file.write(piece)
        halves.append(Half(path, root, array))
    return halves


@pytest.fixture
def images(tmp_path):
    return ImageMaker(tmp_path)


def check_member(device, half, role):
    """What mdadm and blkid say of a root partition."""
    said = examine(device)
    assert said["Array UUID"] == uuid_text(half.array.uuid)
    assert said["Device Role"] == f"Active device {role}"
    assert said["Checksum"].endswith("- correct")
    assert said["Array Size"].split()[0] == str(half.array.size // KiB)
    assert (said["State"], said["Internal Bitmap"]) == ("active", "-256 sectors from superblock")
    bits = examine_bitmap(device)
    assert bits["UUID"] == said["Array UUID"]
    assert bits["Bitmap"].startswith(f"{divide_up(half.array.size, 64 * MiB)} bits (chunks)")
    # What blkid takes for a filesystem is mounted without its array.
    assert (
        run("blkid", "--probe", "--output=value", "--match-tag=TYPE", device).strip() == "linux_raid_member"
    )


@pytest.mark.parametrize("drive", [True, False])
@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("sizes", [(64 * MiB, 64 * MiB), (96 * MiB, 64 * MiB + 20 * KiB)])
def test_tools_find_a_sound_table_and_a_member_on_each_disk(
    tmp_path, images, loop_device, sector_size, sizes, drive
):
    pieces = GPT_PIECES if sector_size == 512 else GPT_PIECES[1:]
    image = images.gpt(pieces, sector_size=sector_size, attach=loop_device)
    halves = mirror(tmp_path, image, sizes, drive=drive)
    guids = set()
    for role, half in enumerate(halves):
        disk = loop_device(half.path, sector_size)
        assert sector_size_of(disk) == sector_size
        assert "No problems found" in run("sgdisk", "--verify", disk)
        assert "(Linux RAID)" in run("sgdisk", f"--info={half.root.number}", disk)
        guids |= set(re.findall(r"label-id: (\S+)|uuid=(\S+)", run("sfdisk", "--dump", disk)))
        member = tmp_path / f"member-{role}"
        with half.path.open("rb") as file:
            file.seek(half.root.start)
            member.write_bytes(file.read(half.root.size))
        check_member(loop_device(member, sector_size), half, role)
    assert len(guids) == 2 * (1 + len(pieces) + drive)


def test_both_halves_hold_the_same_array(tmp_path, images):
    image = images.gpt()
    halves = mirror(tmp_path, image, (64 * MiB, 80 * MiB), drive=True)
    old = root_of(read_table(image.data, 512))
    assert all(half.root.start == old.start for half in halves)
    roots = [half.path.read_bytes()[old.start :][: half.array.size] for half in halves]
    assert all(root[: old.size] == image.data[old.start : old.end] for root in roots)


@pytest.mark.parametrize(
    ("size", "resync", "chunk", "dirty"),
    [
        (GiB, 300 * MiB, "64 MB", "16 bits (chunks), 12 dirty (75.0%)"),
        (10 * GiB, 0, "64 MB", "160 bits (chunks), 160 dirty (100.0%)"),
        (16 * TiB, 2 * GiB, "64 MB", "262144 bits (chunks), 262112 dirty (100.0%)"),
        (100 * TiB, 2 * GiB, "128 MB", "819200 bits (chunks), 819184 dirty (100.0%)"),
    ],
)
def test_mdadm_reads_the_bitmap(loop_device, size, resync, chunk, dirty):
    """Of a member on a block device: mdadm of Debian 13 takes no bitmap in a file of its own any more."""
    array = Array(uuid=uuid.uuid4(), ctime=MADE, size=member_layout(size).data_bytes, resync=resync)
    assert len(bitmap(array)) == BITMAP_BYTES
    # No filesystem on a disk here holds a file as large as the largest; it takes some KiB of memory.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        device = loop_device(write_member(Path(directory, "m"), array, 0, size), 512)
        said = examine_bitmap(device)
    assert said["UUID"] == uuid_text(array.uuid)
    assert (said["Chunksize"], said["Bitmap"]) == (chunk, dirty)
    assert said["Sync Size"].split()[0] == str(array.size // KiB)
    assert (said["State"], said["Events"], said["Events Cleared"]) == ("OK", "1", "1")
