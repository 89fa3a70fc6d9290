import errno
import fcntl
import mmap
import os
import random
import resource
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import WriteFault
from agent.host.disk import TargetDisk, make_sparse
from agent.host.inflight import SEVERAL
from agent.units import KiB, MiB, align_down

SIZE = 3 * MiB + 512
DIRT = 0xA5


@pytest.fixture
def target(tmp_path):
    """A dirty file of an odd size."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes([DIRT]) * SIZE)
    return path


def open_disk(path: Path, how: str = "direct") -> TargetDisk:
    """Open a disk as most are, or as one where O_DIRECT is refused: at the opening, or by the first write.

    No filesystem at hand refuses it (tmpfs takes it since Linux 6.6), so the refusal is put in place.
    """
    disk = TargetDisk(str(path))
    if how == "buffered":
        assert disk._direct_fd is not None
        os.close(disk._direct_fd)
        disk._direct_fd = None
    elif how == "refused":
        disk._alignment = 1
    return disk


@pytest.fixture(params=["direct", "buffered"])
def disk(request, target):
    opened = open_disk(target, request.param)
    yield opened
    opened.close()


def page_aligned(data: bytes, shift: int = 0) -> memoryview:
    """A writable view of the data at `shift` bytes behind the start of a page."""
    view = memoryview(mmap.mmap(-1, len(data) + shift + 1))[shift : shift + len(data)]
    view[:] = data
    return view


def test_direct_io_is_used_and_given_up_for_good_at_its_first_refusal(target):
    disk = open_disk(target, "refused")
    assert disk.direct
    disk.write(513, page_aligned(b"x" * 8192, 7))
    assert not disk.direct
    disk.write(4096 * 3, page_aligned(b"y" * 4096))
    disk.close()
    expected = b"\xa5" * 513 + b"x" * 8192
    expected += b"\xa5" * (4096 * 3 - len(expected)) + b"y" * 4096
    assert target.read_bytes() == expected.ljust(SIZE, b"\xa5")


def test_size_and_kind_of_a_file(disk):
    assert (disk.size, disk.is_device, disk.sector_size) == (SIZE, False, None)
    assert not disk.reread_partitions()


places = st.one_of(
    st.integers(0, SIZE),
    st.integers(0, SIZE // 4096).map(lambda page: page * 4096),
    st.integers(0, SIZE // 512).map(lambda sector: sector * 512),
)
acts = st.lists(
    st.tuples(st.sampled_from(["write", "write-bytes", "zero"]), places, places, st.integers(0, 4097)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("how", ["direct", "buffered", "refused"])
@pytest.mark.parametrize("directory", [None, "/dev/shm"])
@given(acts=acts, seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_any_sequence_of_writes_and_zeros_equals_that_on_an_array(directory, how, acts, seed):
    noise = random.Random(seed).randbytes(SIZE)
    with tempfile.TemporaryDirectory(dir=directory) as place:
        path = Path(place) / "disk.img"
        model = bytearray(bytes([DIRT]) * SIZE)
        path.write_bytes(model)
        disk = open_disk(path, how)
        try:
            for act, one, other, shift in acts:
                start, end = sorted((one, other))
                _carry_out(disk, act, start, noise[start:end], shift)
                model[start:end] = bytes(end - start) if act == "zero" else noise[start:end]
            disk.drop_cache()
            assert path.read_bytes() == model
            assert disk.read(0, SIZE) == model
        finally:
            disk.close()


clusters = st.lists(
    st.tuples(
        st.integers(0, SIZE // 4096 - 2),
        st.sampled_from([512, 4096, 8192]),
        st.sampled_from([0, 0, 0, 512, 513]),  # of the memory: odd addresses are rare
    ),
    max_size=300,
)


@pytest.mark.parametrize("how", ["direct", "buffered", "refused"])
@pytest.mark.parametrize("directory", [None, "/dev/shm"])
@given(batches=st.lists(clusters, max_size=3), apart=st.booleans(), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_writes_side_by_side_equal_those_one_after_the_other(directory, how, batches, apart, seed):
    """Also where they overlap, within a batch and between two: the later one wins."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=directory) as place:
        path = Path(place) / "disk.img"
        model = bytearray(bytes([DIRT]) * SIZE)
        path.write_bytes(model)
        disk = open_disk(path, how)
        try:
            for batch in batches:
                # Every place once: all of them are in flight together.
                places = list({place[0]: place for place in batch}.values()) if apart else batch
                lengths = [min(length, 4096) if apart else length for _, length, _ in places]
                writes = [
                    (place * 4096, page_aligned(dice.randbytes(length), shift))
                    for (place, _, shift), length in zip(places, lengths, strict=True)
                ]
                disk.start(writes)
                for offset, data in writes:
                    model[offset : offset + len(data)] = data
            disk.finish()
            disk.drop_cache()
            assert path.read_bytes() == model
        finally:
            disk.close()


def test_short_writes_are_in_flight_together(target):
    disk = open_disk(target)
    data = page_aligned(bytes(range(256)) * 16 * 100)
    disk.start([(at * 8192, data[at * 4096 : (at + 1) * 4096]) for at in range(100)])
    assert disk._in_flight._begun == 100
    disk.finish()
    assert disk._in_flight._begun == 0
    disk.close()


def test_a_disk_that_is_closed_writes_no_more(target):
    """What is on its way is waited for: its memory belongs to somebody else then."""
    disk = open_disk(target)
    data = page_aligned(b"x" * MiB)
    disk.start([(at * 8192, data[at * 4096 : (at + 1) * 4096]) for at in range(200)])
    disk.close()
    data[:] = b"y" * MiB
    assert b"y" not in target.read_bytes()


def test_a_machine_without_asynchronous_writes_writes_one_after_the_other(target, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "h", "6", "v", "s390x")))
    disk = open_disk(target)
    data = page_aligned(b"x" * 4096)
    for _ in range(2):
        disk.start([(at * 8192, data) for at in range(10)])
        assert disk._in_flight is None
        disk.finish()
    disk.close()
    content = target.read_bytes()
    assert all(content[at * 8192 : at * 8192 + 4096] == data for at in range(10))


def test_a_few_writes_are_not_worth_a_queue(target):
    disk = open_disk(target)
    data = page_aligned(b"x" * 4096)
    disk.start([(at * 8192, data) for at in range(SEVERAL - 1)])
    assert disk._in_flight is None
    disk.close()


def test_of_several_writes_the_one_that_failed_is_told(tmp_path):
    """The disk ends where the file may not grow any more: of joined neighbours only the last one does not fit."""
    path = tmp_path / "disk.img"
    make_sparse(str(path), 16 * 4096)
    disk = TargetDisk(str(path))
    os.truncate(path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = page_aligned(b"x" * 16 * 4096)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * 4096, limits[1]))
    try:
        disk.start([(at * 4096, data[at * 4096 : (at + 1) * 4096]) for at in (9, 2, 10, 1)])
        with pytest.raises(WriteFault) as caught:
            disk.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
        disk.close()
    assert (caught.value.offset, caught.value.errno, caught.value.filename) == (
        10 * 4096,
        errno.EFBIG,
        str(path),
    )
    content = path.read_bytes()
    assert content[4096 : 3 * 4096] == b"x" * 8192
    assert content[9 * 4096 : 10 * 4096] == b"x" * 4096


def test_a_write_beyond_the_end_is_refused_by_its_offset(disk):
    data = page_aligned(b"x" * 8192)
    with pytest.raises(WriteFault) as caught:
        disk.start([(0, data[:4096]), (align_down(SIZE, 4096), data[4096:])])
    assert (caught.value.offset, caught.value.errno) == (align_down(SIZE, 4096), errno.EINVAL)


def _carry_out(disk: TargetDisk, act: str, offset: int, data: bytes, shift: int) -> None:
    if act == "zero":
        disk.zero(offset, len(data))
    elif act == "write-bytes":
        disk.write(offset, data)
    else:
        disk.write(offset, page_aligned(data, shift))


@pytest.mark.parametrize("length", [1, 511, 512, 4095, 4096, 4097, MiB + 1])
@pytest.mark.parametrize("offset", [0, 1, 511, 512, 4095, 4096, MiB - 1])
def test_zeroing_leaves_every_byte_around_it(disk, target, offset, length):
    disk.zero(offset, length)
    disk.flush()
    expected = bytes([DIRT]) * offset + bytes(length) + bytes([DIRT]) * (SIZE - offset - length)
    assert target.read_bytes() == expected


def test_zeros_in_a_file_take_no_room(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes([DIRT]) * 16 * MiB)
    disk = TargetDisk(str(path))
    disk.zero(0, 16 * MiB)
    disk.flush()
    disk.close()
    assert path.stat().st_blocks * 512 < MiB
    assert path.stat().st_size == 16 * MiB


def test_a_write_longer_than_the_window_of_buffered_writes(tmp_path):
    size = 100 * MiB
    path = tmp_path / "disk.img"
    make_sparse(str(path), size)
    disk = open_disk(path, "buffered")
    piece = random.Random(5).randbytes(MiB)
    for number in range(99):
        disk.write(1 + number * MiB, piece)
    disk.flush()
    disk.close()
    assert path.read_bytes() == b"\0" + piece * 99 + bytes(MiB - 1)


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (SIZE - 511, 512), (-1, 2), (0, SIZE + 1)])
def test_nothing_is_written_beyond_the_disk(disk, target, offset, length):
    for act in (lambda: disk.write(offset, bytes(length)), lambda: disk.zero(offset, length)):
        with pytest.raises(OSError, match="not within") as caught:
            act()
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(target))
    assert target.stat().st_size == SIZE
    assert target.read_bytes() == bytes([DIRT]) * SIZE


def test_reading_beyond_the_end_is_an_error_and_not_a_short_read(disk, target):
    with pytest.raises(OSError, match="ends at byte") as caught:
        disk.read(SIZE - 4, 8)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(target))


def test_a_file_is_claimed_by_one_writer_at_a_time(disk, target):
    with pytest.raises(OSError, match="another process writes to this file") as caught:
        TargetDisk(str(target))
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(target))
    disk.close()
    TargetDisk(str(target)).close()


def test_a_lock_of_another_process_is_respected(target):
    with target.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process") as caught:
            TargetDisk(str(target))
    assert caught.value.errno == errno.EBUSY


def test_a_refused_claim_leaves_no_descriptor_open(target, disk):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="another process"):
            TargetDisk(str(target))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_only_devices_and_files_are_disks(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, number in (
        (tmp_path, errno.EISDIR),
        (Path("/dev/null"), errno.ENOTBLK),
        (tmp_path / "fifo", errno.ENOTBLK),
        (tmp_path / "absent", errno.ENOENT),
    ):
        with pytest.raises(OSError, match=str(path)) as caught:
            TargetDisk(str(path))
        assert (caught.value.errno, caught.value.filename) == (number, str(path))


def test_closing_twice_is_harmless_and_writing_afterwards_fails(target):
    disk = TargetDisk(str(target))
    disk.close()
    disk.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.write(0, b"x")
    assert target.read_bytes() == bytes([DIRT]) * SIZE


# -- make_sparse ---------------------------------------------------------------------------------------------


def test_a_sparse_file_has_its_size_and_takes_no_room(tmp_path):
    path = tmp_path / "new.img"
    make_sparse(str(path), 5 * MiB + 3)
    info = path.stat()
    assert (info.st_size, info.st_blocks) == (5 * MiB + 3, 0)
    assert info.st_mode & 0o777 == 0o600


def test_a_file_of_just_that_size_is_accepted_and_left_alone(tmp_path):
    path = tmp_path / "old.img"
    path.write_bytes(b"x" * 4 * KiB)
    make_sparse(str(path), 4 * KiB)
    assert path.read_bytes() == b"x" * 4 * KiB


def test_a_file_of_another_size_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "old.img"
    path.write_bytes(b"x" * 100)
    with pytest.raises(FileExistsError) as caught:
        make_sparse(str(path), 4 * KiB)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"x" * 100


def test_a_link_to_nowhere_is_not_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=str(link)):
        make_sparse(str(link), MiB)
    assert not (tmp_path / "elsewhere").exists()


def test_no_directory_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        make_sparse(str(tmp_path / "absent" / "new.img"), MiB)


# -- reading back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["direct", "buffered", "refused"])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, MiB), (1, 511), (4095, 4098), (MiB, 512), (SIZE - 700, 700)]
)
def test_what_is_read_back_is_what_is_there(target, how, offset, length):
    data = random.Random(1).randbytes(SIZE)
    target.write_bytes(data)
    disk = open_disk(target, how)
    disk.drop_cache()
    before = disk.operations
    assert bytes(disk.read_back(offset, length)) == data[offset : offset + length]
    assert disk.operations > before
    disk.close()


@pytest.mark.parametrize("how", ["direct", "buffered"])
def test_what_changes_below_the_page_cache_is_seen(target, how):
    """By another description of the same file, as from outside."""
    disk = open_disk(target, how)
    disk.write(0, page_aligned(b"x" * MiB))
    disk.drop_cache()
    with target.open("r+b") as other:
        other.seek(777)
        other.write(b"y")
        other.flush()
        os.fsync(other.fileno())
    assert bytes(disk.read_back(776, 3)) == b"xyx"
    disk.close()


def test_what_is_beyond_the_end_is_refused(target):
    disk = open_disk(target)
    with pytest.raises(OSError, match="not within"):
        disk.read_back(SIZE - 1, 2)
    os.truncate(target, SIZE - MiB)
    with pytest.raises(OSError, match="the disk ends"):
        disk.read_back(SIZE - 512, 512)
    disk.close()
