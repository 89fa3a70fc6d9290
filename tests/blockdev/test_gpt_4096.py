"""Disks with sectors of 4096 bytes, which the tools see on a block device only: sgdisk and sfdisk judge."""

import subprocess
import uuid

import pytest

from agent.formats.tables.gpt import Gpt, is_mirror, parse_backup
from agent.formats.tables.layout import finish_head, place_drive, stale_backup
from agent.formats.tables.mbr import parse_logicals
from agent.formats.tables.read import read_table
from agent.units import KiB, MiB

SECTOR = 4096


def tool(*argv, stdin=None):
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (argv, done.stdout + done.stderr)
    return done.stdout


@pytest.fixture
def on_4096(tmp_path, loop_device):
    """A file, and a function that calls another with the path of a fresh 4096-byte-sector disk over it."""
    path = tmp_path / "disk"

    def run(act, size=None):
        if size is not None:
            with path.open("ab") as file:
                file.truncate(size)
        return act(loop_device(path, SECTOR))

    return path, run


def dump(device):
    lines = tool("sfdisk", "--dump", device).splitlines()
    return [line.split(":", 1)[1] for line in lines if line.startswith(f"{device}p")]


def finish(path, disk_size, drive_size):
    """Fit the table in the file to `disk_size` and add a config drive."""
    image = path.read_bytes()
    table = read_table(image, None if b"EFI PART" in image else SECTOR)
    assert table.sector_size == SECTOR
    logicals = ()
    if not isinstance(table, Gpt) and table.extended is not None:
        logicals = parse_logicals(lambda at, length: image[at : at + length], table.extended, SECTOR)
    slot = place_drive(table, disk_size, SECTOR, drive_size, logicals)
    done = finish_head(
        image[:MiB], table, disk_size, slot, unique_guid=uuid.uuid4(), drive_type="vfat", logicals=logicals
    )
    with path.open("r+b") as file:
        file.truncate(disk_size)
        if isinstance(table, Gpt):
            for offset, length in stale_backup(table, len(image), disk_size):
                assert offset % SECTOR == length % SECTOR == 0
                file.seek(offset)
                file.write(bytes(length))
        for offset, data in (*done.other_writes, *done.tail_writes, (0, done.head)):
            file.seek(offset)
            file.write(data)
    return slot, done.table


@pytest.mark.parametrize("growth", [0, SECTOR, 5 * SECTOR, 16 * MiB, 100 * MiB + 3 * SECTOR])
@pytest.mark.parametrize("count", [128, 256, 32])
def test_gpt_moved_and_added_to_is_sound(on_4096, growth, count):
    path, run = on_4096

    def make(device):
        tool("sgdisk", f"-S{count}", device)
        tool("sgdisk", "-n1:256:511", "-t1:ef00", "-n3:512:2047", "-c3:root", "-A3:set:2", device)
        return dump(device)

    before = run(make, 16 * MiB)
    slot, table = finish(path, 16 * MiB + growth, 700 * KiB)

    def judge(device):
        assert "No problems found" in tool("sgdisk", "-v", device)
        return dump(device)

    after = run(judge)
    assert (slot.number, slot.size, slot.start % MiB) == (2, MiB, 0)
    place = f"start= {slot.start // SECTOR:>11}, size= {MiB // SECTOR:>11}"
    added = [line for line in after if 'name="config-2"' in line]
    assert len(added) == 1
    assert place.split() == added[0].split(", type")[0].split()
    assert [line for line in after if line not in added] == before
    assert is_mirror(table, parse_backup(path.read_bytes()[-MiB:], SECTOR, 16 * MiB + growth))
    assert path.read_bytes().count(b"EFI PART") == 2


@pytest.mark.parametrize("contents", ["", ",256,83\n", ",256,83\n,512,82\n"])
def test_logical_drive_is_where_sfdisk_and_parted_see_it(on_4096, contents):
    path, run = on_4096
    script = f"label: dos\n256,256,83\n512,256,83\n768,256,83\n1024,3072,5\n{contents}"

    def make(device):
        tool("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", device, stdin=script)
        return dump(device)

    before = run(make, 16 * MiB)
    slot, _ = finish(path, 64 * MiB, 700 * KiB)
    assert (slot.via, slot.start, slot.size) == ("logical", 63 * MiB, MiB)

    def judge(device):
        assert "No errors" in tool("sfdisk", "--verify", device)
        seen = tool("parted", "-m", "-s", str(device), "unit", "B", "print").splitlines()[2:]
        assert seen[3].startswith(f"4:{4 * MiB}B:{64 * MiB - 1}B:")
        assert seen[-1].startswith(f"{slot.number}:{63 * MiB}B:{64 * MiB - 1}B:{MiB}B:")
        return dump(device)

    after = run(judge)
    assert after[:3] == before[:3]
    assert after[4:-1] == before[4:]
