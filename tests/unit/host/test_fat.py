import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.host.fat import MAX_FILES, FatUnsound, build_fat, fat_has_file, geometry_for, read_fat
from agent.units import KiB, MiB

LATEST = "openstack/latest"
TREE = {
    f"{LATEST}/meta_data.json": b'{"uuid": "1"}',
    f"{LATEST}/user_data": b"a\r\nb\\n\0\xff no line end",
    f"{LATEST}/vendor_data.json": b"",
    f"{LATEST}/network_data.json": bytes(range(256)) * 40,
}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "drive.img"
    path.write_bytes(build_fat(TREE))
    return path


def test_a_small_drive_is_small_and_a_multiple_of_its_sectors():
    size = len(build_fat(TREE))
    assert size % 4096 == 0
    assert size < 256 * KiB


def test_the_largest_drive_costs_under_one_percent():
    geometry = geometry_for({f"{LATEST}/user_data": bytes(16 * MiB)}, 4096)
    assert geometry.bits == 16
    assert geometry.size < 16.6 * MiB


@pytest.mark.parametrize("clusters_of_content", [3980, 3990, 4080, 4085, 4090])
def test_no_geometry_comes_near_the_border_between_fat12_and_fat16(clusters_of_content):
    geometry = geometry_for({"user_data": bytes(clusters_of_content * 4096)}, 4096)
    assert geometry.clusters <= 4000 if geometry.bits == 12 else geometry.clusters >= 4200


def test_a_tree_beyond_fat16_is_refused_with_both_numbers():
    with pytest.raises(OSError, match=r"65\d\d\d clusters, at most 65500") as caught:
        geometry_for({"user_data": bytes(65500 * 16)}, 16)
    assert caught.value.errno == errno.EFBIG


def test_many_long_names_find_room_in_their_directory():
    tree = {f"{LATEST}/{'n' * 100}{number}": b"x" for number in range(50)}
    assert read_fat(build_fat(tree)) == tree


def test_large_user_data_comes_back():
    tree = {f"{LATEST}/user_data": os.urandom(5 * MiB + 1)}
    assert read_fat(build_fat(tree)) == tree


@settings(deadline=None, max_examples=15)
@given(st.binary(max_size=10000))
def test_any_bytes_come_back(user_data):
    tree = TREE | {f"{LATEST}/user_data": user_data}
    assert read_fat(build_fat(tree)) == tree


def test_no_descriptor_is_left_behind():
    before = len(list(Path("/proc/self/fd").iterdir()))
    read_fat(build_fat(TREE))
    with pytest.raises(OSError, match="non DOS media"):
        read_fat(bytes(MiB))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("path", ["a*", "a?b", "[a]", "../x", "a//b", "", ".", "a/..", "a\nb", "é", "a:b"])
def test_names_that_mtools_would_interpret_are_refused(path):
    with pytest.raises(OSError, match="not a path"):
        build_fat({path: b""})


def test_a_drive_with_too_many_files_is_refused():
    with pytest.raises(OSError, match=f"more than {MAX_FILES} files"):
        read_fat(build_fat({f"f{n}": b"" for n in range(MAX_FILES + 1)}))


def test_a_directory_that_contains_itself_ends_in_an_error():
    image = bytearray(build_fat({"openstack/x": b"1", "user_data": b"2"}))
    entry = image.index(b"X          ")
    directory = image.rindex(b".          ", 0, entry) // 4096
    # The file's entry becomes a directory whose first cluster is the one it stands in (the first: number 2).
    assert image[directory * 4096 :].startswith(b".          ")
    image[entry + 11] = 0x10
    image[entry + 26 : entry + 28] = (2).to_bytes(2, "little")
    with pytest.raises(OSError, match="levels") as caught:
        read_fat(bytes(image))
    assert caught.value.errno in (errno.EFBIG, errno.EIO)


def test_a_disk_whose_name_mtools_would_cut_is_refused():
    with pytest.raises(OSError, match="@@"):
        fat_has_file(Path("/nowhere/a@@512"), 0, "/x")


LOADER = "/EFI/BOOT/BOOTX64.EFI"


def test_a_disk_that_fails_is_told_as_the_disk():
    # Reading this file at its beginning gives EIO.
    with pytest.raises(OSError, match="Input/output error") as caught:
        fat_has_file("/proc/self/mem", 0, LOADER)
    assert not isinstance(caught.value, FatUnsound)
