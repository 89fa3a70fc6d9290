"""mdadm judges the members that we write, as files: of any size, for its `--examine` asks nothing of the kernel."""

import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.formats.tables.md import Array, member_layout, uuid_text
from agent.units import GiB, KiB, MiB, TiB
from tests.kit.fuzz import examples
from tests.kit.members import examine, write_member

MADE = 1_764_450_000  # 2025-11-29


def array_of(sizes, resync):
    smallest = min(member_layout(size).data_bytes for size in sizes)
    return Array(uuid=uuid.uuid4(), ctime=MADE, size=smallest, resync=resync, members=len(sizes))


@pytest.mark.parametrize(
    "sizes",
    [
        (GiB, GiB),
        (GiB, GiB + 4 * KiB),
        (3 * GiB + 12 * KiB, 2 * GiB),
        (8 * TiB, 15 * TiB),
        (GiB, GiB, GiB),
    ],
)
def test_mdadm_takes_every_member(tmp_path, sizes):
    array = array_of(sizes, 300 * MiB)
    for role, size in enumerate(sizes):
        said = examine(write_member(tmp_path / f"{role}", array, role, size))
        superblock = (size - 8 * KiB) // 512
        assert said["Version"] == "1.0"
        assert said["Array UUID"] == uuid_text(array.uuid)
        assert said["Name"] == "any:root"
        assert (said["Raid Level"], said["Raid Devices"]) == ("raid1", str(len(sizes)))
        assert said["Array Size"].split()[0] == str(array.size // KiB)
        assert said["Avail Dev Size"].split()[0] == str(superblock - 256)
        assert said["Super Offset"] == f"{superblock} sectors"
        assert said["Internal Bitmap"] == "-256 sectors from superblock"
        assert said["State"] == "active"  # not clean: there is something to resync
        assert said["Checksum"].endswith("- correct")
        assert said["Device Role"] == f"Active device {role}"
        assert said["Array State"].startswith("A" * len(sizes) + " ")


def test_an_image_that_fills_the_array_is_clean(tmp_path):
    array = array_of((GiB, GiB), member_layout(GiB).data_bytes)
    assert examine(write_member(tmp_path / "m", array, 0, GiB))["State"] == "clean"


@settings(max_examples=examples(25), deadline=None)
@given(
    size=st.one_of(st.integers(1, 2**12), st.integers(1, 2**40)).map(
        lambda blocks: 256 * KiB + blocks * 4096
    ),
    alike=st.floats(0, 1),
    members=st.integers(1, 5),
)
def test_mdadm_takes_members_of_any_size(size, alike, members):
    array = array_of([size] * members, int(member_layout(size).data_bytes * alike))
    with tempfile.TemporaryDirectory() as directory:
        # Sparse, and no filesystem here holds a file as large as the largest.
        size = min(size, 8 * TiB)
        array = array_of([size] * members, min(array.resync, member_layout(size).data_bytes))
        said = examine(write_member(Path(directory, "m"), array, members - 1, size))
    assert said["Checksum"].endswith("- correct")
    assert said["Device Role"] == f"Active device {members - 1}"
