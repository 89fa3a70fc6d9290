import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.host.parttable import PartedMissing, PartitionSeen, TableRefused, read_partitions, read_written
from agent.units import MiB

SIZE = 40 * MiB


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, SIZE)
    return path


def sgdisk(disk, *arguments):
    subprocess.run(["sgdisk", *arguments, disk], check=True, capture_output=True)


def sfdisk(disk, script):
    subprocess.run(["sfdisk", "-q", disk], input=script, text=True, check=True, capture_output=True)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_a_gpt_is_read_in_bytes_with_names(disk):
    sgdisk(disk, "-n", "1:2048:4095", "-c", "1:rôot")
    sgdisk(disk, "-n", "5:8192:12287", "-c", "5:config-2", "-n", "3:4096:6143")
    report = read_partitions(disk)
    assert (report.label, report.sector_size, report.warnings) == ("gpt", 512, ())
    assert sorted(report.partitions, key=lambda p: p.number) == [
        PartitionSeen(1, MiB, MiB, "rôot"),
        PartitionSeen(3, 2 * MiB, MiB, ""),
        PartitionSeen(5, 4 * MiB, 2 * MiB, "config-2"),
    ]


def test_an_mbr_is_read_with_its_logical_partitions(disk):
    primary, extended = "start=2048,size=2048,type=83", "start=8192,size=40960,type=5"
    sfdisk(disk, f"label: dos\n{primary}\n{extended}\nstart=10240,size=2048,type=83\n")
    report = read_partitions(disk)
    assert report.label == "msdos"
    assert report.partitions == (
        PartitionSeen(1, MiB, MiB, None),
        PartitionSeen(2, 4 * MiB, 20 * MiB, None),
        PartitionSeen(5, 5 * MiB, MiB, None),
    )


def test_a_gpt_with_256_entries_and_a_hybrid_mbr_is_a_gpt(disk):
    sgdisk(disk, "-S", "256", "-n", "1:0:+1M", "-n", "200:0:+1M", "-h", "1:200")
    report = read_partitions(disk)
    assert report.label == "gpt"
    assert [p.number for p in report.partitions] == [1, 200]


def test_a_changed_disk_is_read_anew(disk):
    sgdisk(disk, "-n", "1:2048:4095")
    assert len(read_partitions(disk).partitions) == 1
    sgdisk(disk, "-n", "2:4096:6143")
    assert len(read_partitions(disk).partitions) == 2


@pytest.mark.parametrize(
    ("offset", "reason"),
    [(512 + 16, "primary GPT table is corrupt"), (SIZE - 512 + 16, "backup GPT table is corrupt")],
    ids=["primary", "backup"],
)
def test_a_damaged_half_of_a_gpt_is_an_error_and_is_not_mended(disk, offset, reason):
    sgdisk(disk, "-n", "1:2048:4095")
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(b"XXXX")
    before = disk.read_bytes()
    with pytest.raises(OSError, match=reason) as caught:
        read_partitions(disk)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(disk))
    assert disk.read_bytes() == before


def test_a_gpt_that_does_not_use_all_of_the_disk_is_a_warning_and_is_not_mended(disk):
    sgdisk(disk, "-n", "1:2048:4095")
    os.truncate(disk, 2 * SIZE)
    before = disk.read_bytes()
    report = read_partitions(disk)
    assert len(report.partitions) == 1
    assert any("Not all of the space available" in warning for warning in report.warnings)
    assert disk.read_bytes() == before


def test_nothing_is_printed_and_no_descriptor_stays_open(disk, capfd):
    sgdisk(disk, "-n", "1:2048:4095")
    before = descriptors()
    read_partitions(disk)
    assert descriptors() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(MiB)])
def test_a_disk_without_a_table_is_an_error_in_the_words_of_libparted(tmp_path, content):
    disk = tmp_path / "disk.img"
    disk.write_bytes(content)
    with pytest.raises(OSError, match=r"unrecognised disk label|so small") as caught:
        read_partitions(disk)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(disk))


def test_a_filesystem_without_a_table_is_no_table(disk):
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    with pytest.raises(OSError, match="type loop, expected gpt or msdos"):
        read_partitions(disk)


def test_a_path_that_does_not_exist_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read_partitions(tmp_path / "gone")


def test_a_table_that_crashes_libparted_does_not_crash_the_agent(disk):
    sgdisk(disk, "-S", "8320", "-n", "1:0:+1M")
    with pytest.raises(TableRefused, match="SIGABRT"):
        read_partitions(disk)


def test_a_chain_of_logical_partitions_that_bites_its_tail_ends(disk):
    logical = "".join(f"start={start},size=2048,type=83\n" for start in (10240, 14336, 18432))
    sfdisk(disk, f"label: dos\nstart=8192,size=40960,type=5\n{logical}")
    link = slice(446 + 16, 446 + 32)
    with disk.open("r+b") as file:

        def record_at(sector: int) -> bytearray:
            file.seek(sector * 512)
            return bytearray(file.read(512))

        def follow(record: bytearray) -> int:
            return 8192 + int.from_bytes(record[link][8:12], "little")

        # The third extended boot record links to the second, as the first does.
        first = record_at(8192)
        third_sector = follow(record_at(follow(first)))
        third = record_at(third_sector)
        third[link] = first[link]
        file.seek(third_sector * 512)
        file.write(third)
    with pytest.raises(OSError, match="overlapping"):
        read_partitions(disk)


def test_an_interpreter_without_pyparted_is_said_so(disk, tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(PartedMissing, match=r"pyparted is not installed \(No module named '_ped'\)"):
        read_partitions(disk)


def test_a_relative_path_is_that_of_the_caller(disk, monkeypatch):
    sgdisk(disk, "-n", "1:2048:4095")
    monkeypatch.chdir(disk.parent)
    assert len(read_partitions(disk.name).partitions) == 1


def test_what_a_disk_is_to_get_is_read_before_it_has_it(disk, tmp_path, monkeypatch):
    sgdisk(disk, "-n", "1:2048:4095", "-c", "1:root")
    data = disk.read_bytes()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    report = read_written([(0, data[:MiB]), (SIZE - MiB, data[-MiB:])], SIZE)
    assert report == read_partitions(disk)
    with pytest.raises(TableRefused, match="unrecognised disk label"):
        read_written([], SIZE)
    assert not any((tmp_path / "scratch").iterdir())
