"""Random tables of sgdisk's making, moved and added to by us, judged by sgdisk and sfdisk."""

import re
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.formats.tables import gpt
from agent.formats.tables.layout import finish_head, place_drive, stale_backup
from agent.formats.tables.read import read_table
from agent.units import GiB, KiB, MiB
from tests.kit.fuzz import examples

TYPES = ["8300", "ef00", "ef02", "8200", "8e00", "fd00", "0700", "a502"]
NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N"), max_codepoint=0xFFFF), max_size=36)

# (gap before it, size) in sectors, type, name, attribute bit
PART = st.tuples(
    st.integers(0, 5000),
    st.integers(1, 60000),
    st.sampled_from(TYPES),
    NAMES,
    st.sampled_from([0, 2, 60, 63]),
)


@st.composite
def tables(draw):
    """The arguments for sgdisk and the sector behind the last partition."""
    count = draw(st.sampled_from([128, 128, 8, 12, 200, 256, 1024]))
    parts = draw(st.lists(PART, min_size=0, max_size=6))
    numbers = draw(st.permutations(range(1, 8)))
    at = 2 + count // 4
    arguments = []
    for number, (gap, size, kind, name, bit) in zip(numbers, parts, strict=False):
        first, at = at + gap, at + gap + size
        arguments += [f"-n{number}:{first}:{at - 1}", f"-t{number}:{kind}", f"-A{number}:set:{bit}"]
        arguments += [f"-c{number}:{name}"] if name else []
    return ["-a1", *arguments], at, count


def tool(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (argv, done.stdout + done.stderr)
    return done.stdout


def make(path, size):
    with path.open("wb") as file:
        file.truncate(size)


def dump(path):
    """The disk's GUID and the partitions as sfdisk tells them."""
    wanted = ("label-id", "table-length", str(path))
    lines = tool("sfdisk", "--dump", path).splitlines()
    return [line.removeprefix(str(path)) for line in lines if line.startswith(wanted)]


def apply(path, table, image_size, disk_size, done):
    with path.open("r+b") as file:
        file.truncate(disk_size)
        for offset, length in stale_backup(table, image_size, disk_size):
            file.seek(offset)
            file.write(bytes(length))
        for offset, data in (*done.other_writes, *done.tail_writes, (0, done.head)):
            file.seek(offset)
            file.write(data)


@pytest.mark.timeout(300)
@settings(max_examples=examples(25))
@given(tables(), st.integers(0, 3000), st.integers(0, 64 * GiB), st.integers(1, 3 * MiB))
def test_sgdisk_finds_no_problem_in_what_we_moved(made, slack, growth, drive_size):
    """On any larger disk the partitions stay as they were, and the config drive joins them."""
    arguments, reach, count = made
    image_size = max(2 * MiB, (reach + count // 4 + 1 + slack) * 512)
    disk_size = image_size + growth
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "disk")
        make(path, image_size)
        tool("sgdisk", f"-S{count}", *arguments, path)
        before = dump(path)
        with path.open("rb") as file:
            head = file.read(MiB)
        table = read_table(head, None)
        size = disk_size // 512 * 512
        room = (gpt.last_usable_lba(table, size) + 1) * 512 - max(reach * 512, MiB)
        fits = room >= -(-drive_size // (4 * KiB)) * 4 * KiB + 4 * KiB
        slot = place_drive(table, size, 512, drive_size) if fits else None
        done = finish_head(head, table, size, slot, unique_guid=uuid.uuid4(), drive_type="iso9660")
        apply(path, table, image_size, size, done)

        assert "No problems found" in tool("sgdisk", "-v", path)
        after = dump(path)
        if slot is None:
            assert after == before
        else:
            added = [line for line in after if 'name="config-2"' in line]
            assert sorted(set(after) - set(added)) == sorted(before)
            place = (f"start={slot.start // 512},", f"size={slot.size // 512},")
            assert all(piece in re.sub(r" +", "", added[0]) for piece in place)
            assert added[0].startswith(f"{slot.number} :")
        with path.open("rb") as file:
            assert read_table(file.read(MiB), None) == done.table
            file.seek(size - MiB)
            assert gpt.is_mirror(done.table, gpt.parse_backup(file.read(MiB), 512, size))
