import errno
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.host.iso import MAX_FILES, MAX_IMAGE, build_iso, read_iso
from agent.units import KiB

LATEST = "openstack/latest"
TREE = {
    f"{LATEST}/meta_data.json": b'{"uuid": "1"}',
    f"{LATEST}/user_data": b"a\r\nb\\n\0\xff no line end",
    f"{LATEST}/vendor_data.json": b"",
    f"{LATEST}/network_data.json": os.urandom(5000),
}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "drive.iso"
    path.write_bytes(build_iso(TREE))
    return path


def test_primary_and_joliet_descriptor_both_bear_the_label(image):
    data = image.read_bytes()
    primary, joliet = data[16 * 2048 : 17 * 2048], data[17 * 2048 : 18 * 2048]
    assert primary[:6] == b"\x01CD001"
    assert primary[40:72] == b"config-2".ljust(32)
    assert (joliet[:6], joliet[88:91]) == (b"\x02CD001", b"%/E")
    assert joliet[40:56] == "config-2".encode("utf-16-be")


def test_plain_identifiers_are_valid_and_joliet_has_the_real_names(image):
    files = {path.removeprefix(f"{LATEST}/") for path in TREE}
    assert identifiers(image, 17, "utf-16-be") == {"openstack", "latest"} | files
    wanted = {"META_DATA.JSON;1", "USER_DATA.;1", "VENDOR_DATA.JSON;1", "NETWORK_DATA.JSON;1"}
    assert identifiers(image, 16, "ascii") == {"OPENSTACK", "LATEST"} | wanted


def identifiers(image, descriptor: int, encoding: str) -> set[str]:
    """The identifiers of all directory records of a volume (ECMA-119, 9.1), read without any library."""
    data = image.read_bytes()
    root = data[descriptor * 2048 + 156 :]
    pending, names = [root[:34]], set()
    while pending:
        record = pending.pop()
        extent, length = int.from_bytes(record[2:6], "little"), int.from_bytes(record[10:14], "little")
        directory = data[extent * 2048 : extent * 2048 + length]
        position = 0
        while position < length and directory[position]:
            child = directory[position : position + directory[position]]
            name = child[33 : 33 + child[32]]
            position += len(child)
            if name in (b"\0", b"\1"):
                continue
            names.add(name.decode(encoding))
            if child[25] & 2:
                pending.append(child)
    return names


def test_the_image_is_whole_sectors_and_costs_little_beside_the_content(image):
    size = image.stat().st_size
    assert size % 2048 == 0
    assert size < sum(map(len, TREE.values())) + 96 * KiB


def test_equal_trees_differ_in_time_stamps_only():
    first, second = build_iso(TREE), build_iso(TREE)
    assert len(first) == len(second)
    differences = sum(a != b for a, b in zip(first, second, strict=True))
    assert differences < 200


def test_it_reads_back_what_it_wrote():
    assert read_iso(build_iso(TREE)) == TREE


@settings(max_examples=50)
@given(st.binary(max_size=10000), st.binary(max_size=10000))
def test_any_bytes_come_back(first, second):
    tree = {f"{LATEST}/user_data": first, f"{LATEST}/meta_data.json": second}
    assert read_iso(build_iso(tree)) == tree


@pytest.mark.parametrize("size", [2047, 2048, 2049, 3 * 2048])
def test_files_that_fill_their_sectors_come_back(size):
    tree = {"user_data": b"x" * size, "other": b"y"}
    assert read_iso(build_iso(tree)) == tree


def test_two_names_with_one_identifier_are_refused():
    with pytest.raises(OSError, match="a-b and A_b have the same ISO 9660 identifier"):
        build_iso({"a-b": b"1", "A_b": b"2"})


@pytest.mark.parametrize("path", ["n" * 100, "a/b/c/d/e/f/g/h", "a//", "x/\0"])
def test_a_name_that_cannot_be_stored_is_refused_or_comes_back(path):
    try:
        image = build_iso({path: b"1"})
    except OSError as error:
        assert "cannot be stored as ISO 9660" in str(error)  # noqa: PT017 - storing it is as good
    else:
        assert list(read_iso(image).values()) == [b"1"]


@pytest.mark.parametrize("data", [b"", b"x" * 100_000, bytes(40 * 2048)])
def test_what_is_no_iso_is_said_to_be_damaged(data):
    with pytest.raises(OSError, match="damaged") as caught:
        read_iso(data)
    assert caught.value.errno == errno.EINVAL


def test_damage_anywhere_gives_an_os_error_or_a_tree_but_never_another_exception():
    whole = build_iso(TREE)
    dice = random.Random(7)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(16 * 2048, len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            del data[dice.randrange(len(data)) :]
        try:
            read_iso(bytes(data))
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.EFBIG)  # noqa: PT017 - a tree is as welcome


def test_too_many_files_and_too_large_images_are_refused():
    with pytest.raises(OSError, match=f"more than {MAX_FILES} files") as caught:
        read_iso(build_iso({f"f{n}": b"" for n in range(MAX_FILES + 1)}))
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(OSError, match=str(MAX_IMAGE)):
        read_iso(bytes(MAX_IMAGE + 1))
