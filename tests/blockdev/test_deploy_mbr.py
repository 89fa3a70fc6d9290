"""The whole job with MBR images: a free primary slot, else a logical partition, else a refusal."""

import os

import pytest

from agent.units import MiB, TiB
from tests.blockdev.conftest import DIRT, ENDS, Entry, LoopDisk
from tests.kit.commands import run
from tests.kit.deployments import USER_DATA
from tests.kit.images import MBR_PIECES, SIZE_MIB, Image, Piece

SIZE = SIZE_MIB * MiB
LARGER = 80 * MiB
SECTOR_SIZES = [512, 4096]
FILESYSTEM = {512: "iso9660", 4096: "vfat"}
# The type that tells a reader of the table what to expect: Linux, and FAT32 by LBA.
DRIVE_TYPE = {512: "type=83", 4096: "type=c"}

ESP, SYSTEM = MBR_PIECES
SMALL = tuple(Piece(40 + 2 * n, 1, "noise", "type=83") for n in range(3))
EXTENDED = Piece(40, 7, "", "type=f")
LOGICALS = (Piece(41, 2, "noise", "type=83"), Piece(44, 1, "noise", "type=82"))
THREE = (Piece(1, 4, "esp", "type=ef"), Piece(5, 4, "noise", "type=83"), SYSTEM)


def assert_clean(disk: LoopDisk) -> None:
    verified = run("sfdisk", "--verify", disk.device)
    assert "No errors detected" in verified or "Remaining" in verified, verified
    printed = run("parted", "-s", "-m", disk.device, "unit", "B", "print").splitlines()
    assert [int(line.split(":")[0]) for line in printed[2:]] == [e.number for e in disk.dump()[1]]
    starts = [int(line.split(":")[1].rstrip("B")) for line in printed[2:]]
    assert starts == [e.start for e in disk.dump()[1]]


def assert_partitions_kept(disk: LoopDisk, image: Image, entries: list[Entry]) -> None:
    for entry in entries:
        if "type=f" not in entry.fields and "type=5" not in entry.fields:
            assert disk.read(entry.start, entry.size) == image.read(entry.start, entry.size), entry


def assert_drive(disk: LoopDisk, entry: Entry, read_drive, tmp_path) -> None:
    filesystem = FILESYSTEM[disk.sector_size]
    saved = disk.save(entry, tmp_path / "drive.img")
    assert "LABEL=config-2" in run("blkid", "-p", "-o", "export", saved).splitlines()
    assert read_drive(saved, filesystem)["openstack/latest/user_data"] == USER_DATA.encode()


@pytest.mark.parametrize(
    ("pieces", "size"),
    [((SYSTEM,), LARGER), ((ESP, SYSTEM), SIZE), ((ESP, SYSTEM, SMALL[0]), LARGER)],
    ids=["one", "two", "three"],
)
@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_the_drive_becomes_the_next_primary_partition(
    images, make_disk, deploy, read_drive, tmp_path, sector_size, pieces, size
):
    image = images.mbr(pieces, sector_size=sector_size)
    disk = make_disk(size, sector_size)
    outcome = deploy(image, disk.device)
    assert outcome.status == 0, outcome.err
    assert_clean(disk)
    image_header, expected = images.dump(image)
    header, entries = disk.dump()
    assert entries[:-1] == expected
    assert [h for h in header if h.startswith("label")] == [h for h in image_header if h.startswith("label")]
    assert disk.read(0, 446) == image.read(0, 446)
    assert_partitions_kept(disk, image, expected)
    drive = entries[-1]
    assert drive.number == len(pieces) + 1
    assert drive.fields == (DRIVE_TYPE[sector_size],)
    assert drive.start % MiB == 0
    assert drive.start + drive.size == size
    assert_drive(disk, drive, read_drive, tmp_path)
    if size > SIZE:
        assert disk.is_filled(SIZE, min(drive.start, size - ENDS), DIRT)


def test_the_table_of_a_deployment_without_a_drive_is_that_of_the_image(images, make_disk, deploy):
    image = images.mbr()
    disk = make_disk(LARGER)
    assert deploy(image, disk.device, configdrive=None).status == 0
    assert disk.read(0, SIZE) == image.read(0, SIZE)
    assert disk.is_filled(SIZE, LARGER - ENDS, DIRT)
    assert disk.is_filled(LARGER - ENDS, LARGER, 0)


def test_four_primaries_leave_no_slot(images, make_disk, deploy):
    image = images.mbr((ESP, SYSTEM, *SMALL[:2]))
    disk = make_disk(LARGER)
    outcome = deploy(image, disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "configdrive.create")
    assert outcome.error["message"] == "Could not create configdrive on disk."
    assert "all four primary slots" in outcome.error["detail"]
    assert disk.is_untouched()
    assert deploy(image, disk.device, configdrive={"enable": False}).status == 0
    assert disk.dump()[1] == images.dump(image)[1]


@pytest.mark.parametrize("logicals", [(), LOGICALS[:1], LOGICALS], ids=["none", "one", "two"])
@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_the_drive_becomes_a_logical_partition(
    images, make_disk, deploy, read_drive, tmp_path, sector_size, logicals
):
    image = images.mbr((*THREE, EXTENDED, *logicals), sector_size=sector_size)
    disk = make_disk(LARGER, sector_size)
    outcome = deploy(image, disk.device)
    assert outcome.status == 0, outcome.err
    assert_clean(disk)
    expected, entries = images.dump(image)[1], disk.dump()[1]
    assert [e.number for e in entries] == [*range(1, 5 + len(logicals)), 5 + len(logicals)]
    assert entries[:3] == expected[:3]
    assert entries[4:-1] == expected[4:]
    assert (entries[3].start, entries[3].fields) == (expected[3].start, expected[3].fields)
    assert_partitions_kept(disk, image, expected)
    drive = entries[-1]
    assert drive.fields == (DRIVE_TYPE[sector_size],)
    assert drive.start + drive.size == entries[3].start + entries[3].size == LARGER
    assert_drive(disk, drive, read_drive, tmp_path)


def test_an_extended_partition_that_is_not_the_last_one_cannot_grow(images, make_disk, deploy):
    extended = Piece(5, 4, "", "type=5")
    pieces = (Piece(1, 4, "esp", "type=ef"), extended, SYSTEM, SMALL[0], Piece(6, 1, "noise", "type=83"))
    disk = make_disk(LARGER)
    outcome = deploy(images.mbr(pieces), disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "configdrive.create")
    assert disk.is_untouched()
    assert deploy(images.mbr(pieces), disk.device, configdrive=None).status == 0


def test_the_drive_of_a_disk_beyond_the_limit_of_an_mbr_lies_below_it(
    images, tmp_path, loop_device, deploy, read_drive
):
    size = 2 * TiB + 512 * MiB
    file = tmp_path / "huge.img"
    file.touch()
    os.truncate(file, size)
    disk = LoopDisk(file, loop_device(file), size, 512)
    image = images.mbr()
    outcome = deploy(image, disk.device)
    assert outcome.status == 0, outcome.err
    entries = disk.dump()[1]
    drive = entries[-1]
    assert 2 * TiB - 2 * MiB <= drive.start < drive.start + drive.size <= 2 * TiB
    assert_drive(disk, drive, read_drive, tmp_path)
    assert_partitions_kept(disk, image, entries[:-1])
    # The file stays as sparse as it was: nothing was written for the sake of its size.
    assert file.stat().st_blocks * 512 < SIZE + 8 * MiB


@pytest.mark.parametrize("content", ["old-iso", "old-fat"])
@pytest.mark.parametrize("logical", [False, True], ids=["primary", "logical"])
def test_a_partition_with_the_label_of_a_drive_is_used_again(
    images, make_disk, deploy, read_drive, tmp_path, content, logical
):
    own = Piece(42, 2, content, "type=83")
    pieces = (*THREE, EXTENDED, own) if logical else (ESP, SYSTEM, own)
    image = images.mbr(pieces)
    disk = make_disk(LARGER)
    outcome = deploy(image, disk.device)
    assert outcome.status == 0, outcome.err
    assert_clean(disk)
    expected = images.dump(image)[1]
    assert disk.dump()[1] == expected
    assert_partitions_kept(disk, image, expected[:-1])
    assert_drive(disk, expected[-1], read_drive, tmp_path)


FULL_WITH_DRIVE = (ESP, SYSTEM, SMALL[0], Piece(44, 2, "old-iso", "type=83"))


def test_a_full_table_with_a_drive_of_its_own_is_used_where_the_label_can_be_read(
    images, make_disk, deploy, read_drive, tmp_path
):
    """The label lies behind what is examined before the first write: it takes a range, or a local file."""
    image = images.mbr(FULL_WITH_DRIVE)
    disk = make_disk(LARGER)
    outcome = deploy(image, disk.device, URL=image.path.as_uri())
    assert outcome.status == 0, outcome.err
    assert_clean(disk)
    expected = images.dump(image)[1]
    assert disk.dump()[1] == expected
    assert_drive(disk, expected[-1], read_drive, tmp_path)


def test_a_full_table_is_refused_where_the_server_gives_no_ranges(images, make_disk, deploy):
    image = images.mbr(FULL_WITH_DRIVE)
    disk = make_disk(LARGER)
    outcome = deploy(image, disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "configdrive.create")
    assert disk.is_untouched()


def test_an_mbr_image_with_an_esp_boots_by_uefi_and_one_without_does_not(images, make_disk, deploy):
    disk = make_disk(LARGER)
    assert deploy(images.mbr(), disk.device, "--firmware", "uefi", "--dry-run").status == 0
    refused = deploy(images.mbr((SYSTEM,)), disk.device, "--firmware", "uefi")
    assert (refused.status, refused.error["code"]) == (1, "boot.esp")
    no_code = deploy(images.mbr(boot_code=False), disk.device, "--firmware", "bios")
    assert (no_code.status, no_code.error["code"]) == (1, "boot.code")
    assert disk.is_untouched()


def test_a_smaller_disk_is_refused_untouched(images, make_disk, deploy):
    disk = make_disk(SIZE - 512)
    outcome = deploy(images.mbr(), disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "image.size")
    assert disk.is_untouched()
