"""The look past the page cache that decides whether an interrupted commit was complete: on real files."""

import errno
import hashlib
import random

import pytest

from agent.host.readback import ReadBack
from agent.units import MiB


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(7).randbytes(3 * MiB + 777)


@pytest.fixture
def disk(tmp_path, content):
    path = tmp_path / "disk.img"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0),
        (0, 512),
        (0, MiB),
        (1, 4096),
        (511, 2),
        (4095, 4098),
        (MiB - 1, MiB + 2),
        (777, 3 * MiB),
        (3 * MiB + 776, 1),
    ],
)
def test_any_range_is_read_and_hashed_as_it_is(disk, content, offset, length):
    expected = content[offset : offset + length]
    with ReadBack(str(disk)) as back:
        assert back.size == len(content)
        assert back.read(offset, length) == expected
        assert back.sha256(offset, length) == hashlib.sha256(expected).hexdigest()


def test_what_was_written_after_it_was_opened_is_read(disk, content):
    with ReadBack(str(disk)) as back:
        with disk.open("r+b") as file:
            file.seek(MiB)
            file.write(b"new")
        assert back.read(MiB - 1, 5) == content[MiB - 1 : MiB] + b"new" + content[MiB + 3 : MiB + 4]


@pytest.mark.parametrize(("offset", "length"), [(3 * MiB + 700, 78), (3 * MiB + 777, 1), (5 * MiB, 512)])
def test_a_disk_that_ends_before_is_a_fault_with_its_path(disk, offset, length):
    with ReadBack(str(disk)) as back:
        for read in (back.read, back.sha256):
            with pytest.raises(OSError, match="the disk ends before byte") as caught:
                read(offset, length)
            assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(disk))


def test_what_is_no_disk_is_refused_with_its_path(tmp_path):
    for path, number in ((tmp_path, errno.ENOTBLK), (tmp_path / "absent", errno.ENOENT)):
        with pytest.raises(OSError, match=str(path)) as caught:
            ReadBack(str(path))
        assert (caught.value.errno, caught.value.filename) == (number, str(path))


def test_nothing_is_open_afterwards_and_closing_twice_is_fine(disk):
    back = ReadBack(str(disk))
    back.close()
    back.close()
    with pytest.raises(OSError, match=str(disk)) as caught:
        back.read(0, 512)
    assert caught.value.errno == errno.EBADF
