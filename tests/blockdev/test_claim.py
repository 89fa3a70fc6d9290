"""Taking the disk: what of an old system must be gone, who must not be disturbed, and how a failing disk is told."""

import fcntl
import os
from pathlib import Path

import pytest

from agent.units import KiB, MiB
from tests.blockdev.conftest import DIRT, ENDS, LoopDisk
from tests.kit.commands import attempt, run
from tests.kit.images import Piece
from tests.kit.server import Request, serving

LARGER = 80 * MiB
# More than zeros, which need no room.
NOISE = (Piece(1, 46, "noise", "type=linux"),)
OLD_SIZE = 112 * MiB
# Behind the end of the new image: what it does not overwrite has to be wiped by the claim.
LVM = Piece(50, 16, "noise", "type=lvm")
RAID = Piece(68, 16, "noise", "type=raid")
DATA = Piece(86, 20, "ext4", "type=linux")
OLD_PIECES = (Piece(1, 8, "esp", "type=uefi"), Piece(9, 40, "ext4", "type=linux"), LVM, RAID, DATA)


def array_superblock(size: int, offset: int) -> bytes:
    """An md superblock, metadata 1.0 or 1.2, for a device of `size` bytes: the fields that are looked at."""
    block = bytearray(4 * KiB)
    block[0:4] = 0xA92B4EFC.to_bytes(4, "little")
    block[4:8] = (1).to_bytes(4, "little")
    block[16:32] = bytes(range(16))
    block[32:36] = b"old0"
    block[72:76] = (1).to_bytes(4, "little")  # RAID 1
    block[80:88] = (size // 512 - 64).to_bytes(8, "little")
    block[92:96] = (2).to_bytes(4, "little")  # disks
    block[136:144] = (size // 512 - 64).to_bytes(8, "little")
    block[144:152] = (offset // 512).to_bytes(8, "little")
    block[220:224] = (2).to_bytes(4, "little")
    sums = sum(int.from_bytes(block[at : at + 4], "little") for at in range(0, 256 + 4, 4))
    block[216:220] = ((sums & 0xFFFFFFFF) + (sums >> 32)).to_bytes(4, "little")
    return bytes(block)


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def probe(path: Path, offset: int, size: int) -> str:
    """What libblkid finds in a range of a disk: nothing is the empty string."""
    argv = ("blkid", "-p", "-o", "export", "-O", offset, "-S", size, path)
    return attempt(*argv).stdout


def install_old_system(disk: LoopDisk, images) -> None:
    """A GPT system with a volume group, an array and a filesystem, on all of the disk."""
    old = images.gpt(OLD_PIECES, size_mib=disk.size // MiB, sector_size=disk.sector_size)
    disk.file.write_bytes(old.path.read_bytes())
    write_at(disk.file, LVM.start * MiB, lvm_label(LVM.size * MiB))
    end_of_raid = RAID.size * MiB - 8 * KiB
    write_at(disk.file, RAID.start * MiB + end_of_raid, array_superblock(RAID.size * MiB, end_of_raid))
    run("blockdev", "--flushbufs", disk.device)


def lvm_label(size: int) -> bytes:
    """The first two sectors of a physical volume, as LVM2 writes them."""
    sector = bytearray(512)
    sector[0:8] = b"LABELONE"
    sector[8:16] = (1).to_bytes(8, "little")
    sector[20:24] = (32).to_bytes(4, "little")
    sector[24:32] = b"LVM2 001"
    sector[32:64] = b"Xn2kPZ0aQmWvB8dJfGhT3sLrYcEuKi4o"
    sector[64:72] = size.to_bytes(8, "little")
    sector[16:20] = lvm_crc(bytes(sector[20:])).to_bytes(4, "little")
    return bytes(512) + bytes(sector)


def lvm_crc(data: bytes) -> int:
    """CRC-32 without the final complement, from LVM's own initial value."""
    crc = 0xF597A6CF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_nothing_of_an_old_system_is_found_afterwards(images, make_disk, deploy, sector_size):
    disk = make_disk(OLD_SIZE, sector_size)
    install_old_system(disk, images)
    kinds = {LVM: "LVM2_member", RAID: "linux_raid_member", DATA: "ext4"}
    for piece, kind in kinds.items():
        assert f"TYPE={kind}" in probe(disk.file, piece.start * MiB, piece.size * MiB).split()
    # A deployment that fails after the claim shows what the claim leaves.
    outcome = deploy(images.gpt(sector_size=sector_size), disk.device, checkSum="0" * 64)
    assert outcome.error["code"] == "checksum.mismatch"
    assert disk.cannot_boot()
    assert run("wipefs", "--noheadings", disk.device) == ""
    for piece in kinds:
        start, end = piece.start * MiB, (piece.start + piece.size) * MiB
        assert probe(disk.file, start, end - start) == ""
        assert disk.is_filled(start, start + MiB, 0)
        assert disk.is_filled(end - MiB, end, 0)
        assert not disk.is_filled(start + MiB, end - MiB, 0)


def test_after_a_deployment_only_the_new_system_is_found(images, make_disk, deploy):
    disk = make_disk(OLD_SIZE)
    install_old_system(disk, images)
    assert deploy(images.gpt(), disk.device).status == 0
    signatures = run("wipefs", "--noheadings", "--output", "TYPE", disk.device).split()
    assert sorted(signatures) == ["PMBR", "gpt", "gpt"]
    for piece in (LVM, RAID, DATA):
        assert probe(disk.file, piece.start * MiB, piece.size * MiB) == ""


def test_the_ends_of_old_logical_partitions_go_as_well(images, make_disk, deploy):
    pieces = (
        Piece(1, 50, "noise", "type=83"),
        Piece(51, 28, "", "type=5"),
        Piece(60, 10, "noise", "type=fd"),
    )
    old = images.mbr(pieces, size_mib=LARGER // MiB)
    disk = make_disk(LARGER)
    disk.file.write_bytes(old.path.read_bytes())
    run("blockdev", "--flushbufs", disk.device)
    assert deploy(images.gpt(), disk.device, checkSum="0" * 64).status == 1
    assert disk.is_filled(60 * MiB, 61 * MiB, 0)
    assert disk.is_filled(69 * MiB, 70 * MiB, 0)
    assert not disk.is_filled(61 * MiB, 69 * MiB, 0)


def test_a_disk_with_a_damaged_table_can_be_taken(images, make_disk, deploy):
    disk = make_disk(OLD_SIZE)
    disk.file.write_bytes(images.gpt(OLD_PIECES, size_mib=OLD_SIZE // MiB).path.read_bytes())
    write_at(disk.file, 512 + 16, b"\xff\xff\xff\xff")
    run("blockdev", "--flushbufs", disk.device)
    assert deploy(images.gpt(), disk.device).status == 0
    assert "No problems found" in run("sgdisk", "-v", disk.device)


# -- who must not be disturbed -------------------------------------------------------------------------------


@pytest.fixture
def mounted(make_disk, tmp_path):
    """A disk with a filesystem that is mounted, and where."""
    disk = make_disk(LARGER)
    run("mkfs.ext4", "-q", disk.device)
    where = tmp_path / "mounted"
    where.mkdir()
    run("mount", disk.device, where)
    yield disk, where
    run("umount", where)


def test_a_mounted_disk_is_refused_and_the_mount_point_named(images, mounted, deploy):
    disk, where = mounted
    (where / "precious").write_bytes(b"data")
    os.sync()
    before = disk.file.read_bytes()
    outcome = deploy(images.gpt(), disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "disk.busy")
    assert str(where) in outcome.error["message"]
    assert outcome.error["hint"]
    assert disk.file.read_bytes() == before
    assert (where / "precious").read_bytes() == b"data"


def test_swap_space_in_use_is_refused(images, make_disk, deploy):
    disk = make_disk(LARGER)
    run("mkswap", disk.device)
    run("swapon", disk.device)
    try:
        outcome = deploy(images.gpt(), disk.device)
    finally:
        run("swapoff", disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "disk.busy")
    assert "swap" in outcome.error["message"]
    assert disk.is_filled(MiB, LARGER, DIRT)


def test_a_file_that_is_a_loop_device_is_refused(images, make_disk, deploy):
    disk = make_disk(LARGER)
    outcome = deploy(images.gpt(), disk.file)
    assert (outcome.status, outcome.error["code"]) == (1, "disk.busy")
    assert str(disk.device) in outcome.error["message"]
    assert disk.is_untouched()


def test_a_read_only_disk_is_refused(images, tmp_path, loop_device, deploy):
    file = tmp_path / "disk.img"
    file.write_bytes(bytes([DIRT]) * LARGER)
    device = loop_device(file, read_only=True)
    outcome = deploy(images.gpt(), device)
    assert (outcome.status, outcome.error["code"]) == (1, "disk.ineligible")
    assert "read-only" in outcome.error["message"]
    assert file.read_bytes() == bytes([DIRT]) * LARGER


def test_a_partition_is_no_disk(images, byoi, make_job):
    outcome = byoi("write", make_job(images.gpt()), "--disk", "/dev/null", "--json")
    assert (outcome.status, outcome.error["code"]) == (2, "disk.unknown")


@pytest.mark.parametrize("kind", ["device", "file"])
def test_a_second_deployment_to_the_same_disk_is_refused(images, make_disk, tmp_path, web, start_byoi, kind):
    image = images.gpt()
    url = web.publish(image.path, pause_at=30 * MiB)
    other = web.publish(image.path, "other.raw")
    target = tmp_path / "disk.img" if kind == "file" else make_disk(LARGER).device
    common = ("--type", "raw", "--disk", target, "--json")
    size = ("--size", LARGER) if kind == "file" else ()
    first = start_byoi("write", "--url", url, *common, *size)
    assert web.paused.wait(30)
    second = start_byoi("write", "--url", other, *common).finish()
    assert (second.status, second.error["code"]) == (1, "disk.busy")
    web.resume.set()
    assert first.finish().status == 0
    assert "No problems found" in run("sgdisk", "-v", target)


@pytest.mark.parametrize("size", [LARGER, LARGER + 8 * MiB], ids=["same-size", "other-size"])
def test_a_device_that_is_another_disk_by_now_is_left_alone(images, make_disk, start_write, tmp_path, size):
    disk = make_disk(LARGER)
    other = tmp_path / "other.img"
    other.write_bytes(bytes([DIRT]) * size)
    image = images.gpt()

    def answer(request: Request) -> None:
        if request.number == 0:
            run("losetup", "--detach", disk.device)
            run("losetup", disk.device, other)
        request.file(image.path)

    try:
        with serving(answer) as server:
            outcome = start_write(disk.device, server.url, None).finish()
    finally:
        run("losetup", "--detach", disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "disk.io"), outcome.err
    assert f"{disk.device}: it is another disk now than when it was examined" in outcome.error["message"]
    assert disk.file.read_bytes() == bytes([DIRT]) * LARGER
    assert other.read_bytes() == bytes([DIRT]) * size


# -- a disk that fails ---------------------------------------------------------------------------------------


def assert_disk_fault(outcome, web) -> None:
    """A fault of the disk, told as one, and the image was asked for once."""
    assert outcome.status == 1
    assert outcome.error["code"] in ("image.write", "disk.io")
    assert outcome.error["blame"] == "disk"
    assert not outcome.error["retryable"]
    assert len(web.requests) == 1
    assert outcome.document["attempt"] == 1
    assert "download" not in outcome.err.split("error:")[1].lower()


def test_a_disk_that_takes_no_more_bytes_while_it_is_written(images, small_tmpfs, loop_device, deploy, web):
    """What a thin volume does when its pool is full."""
    file = small_tmpfs / "disk.img"
    file.touch()
    os.truncate(file, LARGER)
    outcome = deploy(images.gpt(NOISE), loop_device(file))
    assert_disk_fault(outcome, web)
    assert outcome.error["code"] == "image.write"
    assert outcome.error["message"] == "Can't write raw on disk."
    assert "No space left on device" in outcome.error["detail"]


@pytest.fixture
def failing_disk(loop_device):
    """A disk of which only the first 24 MiB work: the file behind it was cut, and is sealed against growth."""
    fd = os.memfd_create("disk", os.MFD_ALLOW_SEALING)
    os.truncate(fd, LARGER)
    device = loop_device(Path(f"/proc/{os.getpid()}/fd/{fd}"))
    os.truncate(fd, 24 * MiB)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    yield device
    os.close(fd)


def test_a_disk_that_fails(images, failing_disk, deploy, web):
    outcome = deploy(images.gpt(NOISE), failing_disk)
    assert_disk_fault(outcome, web)
    assert outcome.error["code"] == "disk.io"
    assert str(failing_disk) in outcome.error["message"]
    assert "Input/output error" in outcome.error["message"]
    assert any("could not be wiped" in note for note in outcome.document["notes"])


def test_a_full_filesystem_below_a_file(images, small_tmpfs, deploy, web):
    disk = small_tmpfs / "disk.img"
    disk.touch()
    os.truncate(disk, LARGER)
    outcome = deploy(images.gpt(NOISE), disk)
    assert_disk_fault(outcome, web)
    assert outcome.error["code"] == "image.write"
    assert "No space left on device" in outcome.error["detail"]
    with disk.open("rb") as file:
        assert file.read(ENDS) == bytes(ENDS)
