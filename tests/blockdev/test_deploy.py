"""The whole job with GPT images, on disks with 512 and 4096-byte sectors that were dirty before."""

import base64
import json
import re
import uuid

import pytest

from agent.formats.tables.read import read_table
from agent.units import MiB
from tests.blockdev.conftest import DIRT, ENDS, Entry, LoopDisk
from tests.kit.commands import attempt, run
from tests.kit.deployments import DRIVE, SSH_KEYS, USER_DATA
from tests.kit.images import BIOS_PIECE, ESP_PIECE, ROOT_PIECE, SIZE_MIB, Image, Piece

SIZE = SIZE_MIB * MiB
LARGER = 80 * MiB
SECTOR_SIZES = [512, 4096]
FILESYSTEM = {512: "iso9660", 4096: "vfat"}
CONFIG_TYPE = "type=0FC63DAF-8483-4772-8E79-3D69D8477DE4"
# Ends where the backup GPT of the image begins.
FULL_PIECES = (BIOS_PIECE, ESP_PIECE, Piece(10, SIZE_MIB - 11, "ext4", 'type=linux,name="root"'))


def assert_clean(disk: LoopDisk) -> None:
    """All the tools that read partition tables are content."""
    assert "No problems found" in run("sgdisk", "-v", disk.device)
    verified = run("sfdisk", "--verify", disk.device)
    assert "No errors detected" in verified
    printed = run("parted", "-s", "-m", disk.device, "unit", "B", "print")
    assert printed.splitlines()[1].split(":")[1] == f"{disk.size}B"
    assert len(printed.splitlines()) - 2 == len(disk.dump()[1])


def assert_partitions_kept(disk: LoopDisk, image: Image, table: list[Entry]) -> None:
    """Each partition of the image is on the disk, where it was and byte for byte."""
    for entry in table:
        assert disk.read(entry.start, entry.size) == image.read(entry.start, entry.size), entry


def assert_drive(disk: LoopDisk, entry: Entry, read_drive, tmp_path) -> dict:
    """The config drive as readers find it; gives its meta_data.json."""
    filesystem = FILESYSTEM[disk.sector_size]
    saved = disk.save(entry, tmp_path / "drive.img")
    probed = run("blkid", "-p", "-o", "export", saved).splitlines()
    assert {"LABEL=config-2", f"TYPE={filesystem}"} <= set(probed)
    files = read_drive(saved, filesystem)
    assert files["openstack/latest/user_data"] == USER_DATA.encode()
    meta = json.loads(files["openstack/latest/meta_data.json"])
    assert meta["hostname"] == DRIVE["hostname"]
    assert meta["meta"] == {"rôle": "front"}
    assert list(meta["public_keys"].values()) == SSH_KEYS.splitlines()
    uuid.UUID(meta["uuid"])
    return meta


def fields_of(entry: Entry) -> dict[str, str]:
    return dict(field.partition("=")[::2] for field in entry.fields)


@pytest.mark.parametrize("with_drive", [True, False], ids=["config-drive", "no-drive"])
@pytest.mark.parametrize("size", [SIZE, LARGER], ids=["equal", "larger"])
@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_a_gpt_image_reaches_a_dirty_disk(
    images, make_disk, deploy, read_drive, tmp_path, sector_size, size, with_drive
):
    image = images.gpt(sector_size=sector_size)
    disk = make_disk(size, sector_size)
    outcome = deploy(image, disk.device, configdrive=DRIVE if with_drive else {"enable": False})
    assert outcome.status == 0, outcome.err
    assert outcome.document["checksum"] == f"sha256:{image.sha256}"

    assert_clean(disk)
    image_header, expected = images.dump(image)
    header, entries = disk.dump()
    own, added = entries[: len(expected)], entries[len(expected) :]
    assert own == expected
    kept = ("label:", "label-id:", "unit:", "first-lba:", "sector-size:")
    assert [h for h in header if h.startswith(kept)] == [h for h in image_header if h.startswith(kept)]
    assert_partitions_kept(disk, image, expected)
    # Up to the first partition too, but for the table itself: boot code is there.
    assert disk.read(0, 440) == image.read(0, 440)

    drive_start = disk.size - ENDS
    if with_drive:
        (drive,) = added
        drive_start = drive.start
        assert CONFIG_TYPE in drive.fields
        assert fields_of(drive)["name"] == '"config-2"'
        assert drive.start % MiB == 0
        # At the very end: less than an alignment and the backup GPT behind it.
        assert disk.size - ENDS - MiB < drive.start + drive.size <= disk.size - 33 * 512
        assert_drive(disk, drive, read_drive, tmp_path)
    else:
        assert added == []
    assert_rest(disk, image, max(e.start + e.size for e in expected), drive_start)


def assert_rest(disk: LoopDisk, image: Image, used: int, drive_start: int) -> None:
    """Of the image's own backup GPT nothing is left; what lies beyond the image stays as it was."""
    end = min(image.size, drive_start)
    assert disk.is_filled(used, end, 0)
    assert disk.is_filled(image.size, drive_start, DIRT)


def test_a_selector_chooses_between_disks(images, make_disk, make_job, byoi):
    image = images.gpt()
    disk, other = make_disk(LARGER), make_disk(LARGER)
    hint = f"name=<or> {disk.device} <or> /dev/none"
    refused = byoi("write", make_job(image), "--disk-hint", hint, "--json")
    assert (refused.status, refused.error["code"]) == (2, "disk.selector")  # described, and no ordinary disk
    assert f"{disk.device}: fits, cannot be written" in refused.error["detail"]
    assert disk.is_untouched()
    outcome = byoi("write", make_job(image, disk={"name": str(disk.device)}), "--json")
    assert outcome.status == 0, outcome.err
    assert_clean(disk)
    assert other.is_untouched()


def test_what_was_free_in_the_image_reads_as_in_the_image(images, make_disk, deploy):
    """Zeros of the image are zeros on the disk, whatever was there."""
    image = images.gpt()
    disk = make_disk(LARGER)
    assert deploy(image, disk.device, configdrive=None).status == 0
    # All but the table at the front and the image's own backup GPT at its end.
    assert disk.read(34 * 512, SIZE - 67 * 512) == image.read(34 * 512, SIZE - 67 * 512)


@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_a_smaller_disk_is_refused_untouched(images, make_disk, deploy, sector_size):
    image = images.gpt(sector_size=sector_size)
    disk = make_disk(SIZE - sector_size, sector_size)
    outcome = deploy(image, disk.device)
    assert outcome.status == 1
    assert outcome.error["code"] == "image.size"
    assert outcome.error["message"] == (
        f"image provided has a size of `{SIZE}` bytes which is larger than `{disk.device}`"
        f" of `{SIZE - sector_size}` bytes"
    )
    assert disk.is_untouched()


@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_a_full_image_gets_its_drive_where_there_is_room_for_it(images, make_disk, deploy, sector_size):
    image = images.gpt(FULL_PIECES, sector_size=sector_size)
    equal, larger = make_disk(SIZE, sector_size), make_disk(SIZE + 8 * MiB, sector_size)
    big = {"enable": True, "userData": "x" * 2 * MiB}
    refused = deploy(image, equal.device, configdrive=big)
    assert (refused.status, refused.error["code"]) == (1, "configdrive.create")
    assert refused.error["message"] == "Could not create configdrive on disk."
    assert re.search(r"\d+ bytes .* are needed .*, \d+ are free", refused.error["detail"])
    assert equal.is_untouched()
    assert deploy(image, equal.device, configdrive=None).status == 0
    assert_clean(equal)
    assert deploy(image, larger.device, configdrive=big).status == 0
    assert_clean(larger)
    assert fields_of(larger.dump()[1][-1])["name"] == '"config-2"'


@pytest.mark.parametrize("kind", ["gpt", "mbr"])
@pytest.mark.parametrize(("of_image", "of_disk"), [(512, 4096), (4096, 512)])
def test_an_image_for_other_sectors_is_refused_untouched(images, make_disk, deploy, kind, of_image, of_disk):
    image = getattr(images, kind)(sector_size=of_image)
    disk = make_disk(LARGER, of_disk)
    outcome = deploy(image, disk.device)
    assert (outcome.status, outcome.error["code"]) == (1, "disk.sector_size")
    assert outcome.error["message"] == f"image has sector size {of_image} but {disk.device} has {of_disk}"
    assert disk.is_untouched()


@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_a_config_2_partition_of_the_image_is_used_again(
    images, make_disk, deploy, read_drive, tmp_path, sector_size
):
    own = Piece(40, 4, "noise", 'type=linux,name="config-2"')
    image = images.gpt((BIOS_PIECE, ESP_PIECE, ROOT_PIECE, own), sector_size=sector_size)
    disk = make_disk(LARGER, sector_size)
    assert deploy(image, disk.device).status == 0
    assert_clean(disk)
    expected = images.dump(image)[1]
    assert disk.dump()[1] == expected
    assert_partitions_kept(disk, image, expected[:-1])
    assert_drive(disk, expected[-1], read_drive, tmp_path)
    assert disk.is_filled(SIZE, LARGER - ENDS, DIRT)


@pytest.mark.parametrize("content", ["old-iso", "old-fat"])
def test_a_partition_with_that_label_is_used_again_whatever_its_name(
    images, make_disk, deploy, read_drive, tmp_path, content
):
    """It may lie in the middle of the image, far behind what is examined before the first write."""
    pieces = (BIOS_PIECE, ESP_PIECE, Piece(12, 4, content, "type=linux"), Piece(16, 24, "ext4", "type=linux"))
    image = images.gpt(pieces)
    disk = make_disk(LARGER)
    assert deploy(image, disk.device).status == 0
    assert_clean(disk)
    expected = images.dump(image)[1]
    assert disk.dump()[1] == expected
    assert_partitions_kept(disk, image, [e for e in expected if e.number != 3])
    assert_drive(disk, expected[2], read_drive, tmp_path)


def test_of_an_old_config_drive_nothing_remains_behind_the_new_one(images, make_disk, deploy):
    own = Piece(40, 4, "noise", 'type=linux,name="config-2"')
    image = images.gpt((BIOS_PIECE, ESP_PIECE, ROOT_PIECE, own))
    disk = make_disk(LARGER)
    assert deploy(image, disk.device).status == 0
    found = disk.read(42 * MiB, 2 * MiB)
    assert found == bytes(2 * MiB)


def test_a_config_2_partition_that_is_too_small_is_refused_untouched(images, make_disk, deploy):
    own = Piece(40, 1, "noise", 'type=linux,name="config-2"')
    image = images.gpt((BIOS_PIECE, ESP_PIECE, ROOT_PIECE, own))
    disk = make_disk(LARGER)
    big = {"enable": True, "userData": "x" * 2 * MiB}
    outcome = deploy(image, disk.device, configdrive=big)
    assert (outcome.status, outcome.error["code"]) == (1, "configdrive.create")
    assert "partition 4" in outcome.error["detail"]
    assert disk.is_untouched()


def test_labelled_partitions_that_are_too_small_never_stay_beside_the_new_drive(images, make_disk, deploy):
    """Readers take the first drive of that label: an old one must not be it."""
    pieces = (BIOS_PIECE, ESP_PIECE, ROOT_PIECE, Piece(40, 1, "old-iso", "type=linux"))
    image = images.gpt(pieces)
    disk = make_disk(LARGER)
    outcome = deploy(image, disk.device, configdrive={"enable": True, "userData": "x" * 2 * MiB})
    assert outcome.status == 0, outcome.err
    assert any("partition 4" in note and "emptied" in note for note in outcome.document["notes"])
    assert disk.is_filled(40 * MiB, 41 * MiB, 0)
    assert_clean(disk)
    added = disk.dump()[1][-1]
    assert (added.number, fields_of(added)["name"]) == (5, '"config-2"')


# -- what boots ----------------------------------------------------------------------------------------------


def test_an_image_without_an_esp_is_refused_where_the_server_boots_by_uefi(images, make_disk, deploy):
    image = images.gpt((BIOS_PIECE, ROOT_PIECE))
    disk = make_disk(LARGER)
    outcome = deploy(image, disk.device, "--firmware", "uefi")
    assert (outcome.status, outcome.error["code"]) == (1, "boot.esp")
    assert outcome.error["hint"]
    assert disk.is_untouched()
    assert deploy(image, disk.device, "--firmware", "bios", "--dry-run").status == 0


def test_an_image_without_boot_code_is_refused_where_the_server_boots_in_legacy_mode(
    images, make_disk, deploy
):
    image = images.gpt(boot_code=False)
    disk = make_disk(LARGER)
    outcome = deploy(image, disk.device, "--firmware", "bios")
    assert (outcome.status, outcome.error["code"]) == (1, "boot.code")
    assert disk.is_untouched()
    assert deploy(image, disk.device, "--firmware", "uefi", "--dry-run").status == 0


@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
@pytest.mark.parametrize("path", [r"\EFI\BOOT\BOOTX64.EFI", "/efi/boot/bootx64.efi"])
def test_a_boot_loader_that_is_on_the_esp(images, make_disk, deploy, sector_size, path):
    disk = make_disk(LARGER, sector_size)
    outcome = deploy(images.gpt(sector_size=sector_size), disk.device, efiBootloaderPath=path)
    assert outcome.status == 0, outcome.err
    assert_clean(disk)


def test_a_boot_loader_that_is_not_on_the_esp_leaves_nothing_bootable(images, make_disk, deploy):
    disk = make_disk(LARGER)
    outcome = deploy(images.gpt(), disk.device, efiBootloaderPath=r"\EFI\debian\grubx64.efi")
    assert (outcome.status, outcome.error["code"]) == (1, "boot.esp")
    assert r"\EFI\debian\grubx64.efi" in outcome.error["detail"]
    assert disk.cannot_boot()


# -- verified or not at all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_another_checksum_leaves_both_ends_zero(images, make_disk, deploy, sector_size):
    image = images.gpt(sector_size=sector_size)
    disk = make_disk(LARGER, sector_size)
    outcome = deploy(image, disk.device, checkSum="0" * 64)
    assert (outcome.status, outcome.error["code"]) == (1, "checksum.mismatch")
    assert outcome.error["message"] == (
        f"Bad sha256 for downloaded file, got: {image.sha256} while expecting {'0' * 64}."
    )
    assert disk.cannot_boot()
    assert attempt("blkid", "-p", "-o", "export", disk.file).stdout == ""


def test_every_deployment_has_an_instance_of_its_own(images, make_disk, deploy, read_drive, tmp_path):
    disk = make_disk(LARGER)
    metas = []
    for _ in range(2):
        assert deploy(images.gpt(), disk.device).status == 0
        metas.append(assert_drive(disk, disk.dump()[1][-1], read_drive, tmp_path))
    assert metas[0]["uuid"] != metas[1]["uuid"]
    assert metas[0]["random_seed"] != metas[1]["random_seed"]


def test_a_file_gets_the_drive_that_the_sector_size_of_the_image_needs(images, byoi, make_job, tmp_path):
    """A file has no sectors of its own, and Linux mounts no ISO 9660 from a disk with 4096-byte sectors."""
    disk = tmp_path / "disk.img"
    outcome = byoi("write", make_job(images.gpt(sector_size=4096)), "--disk", disk, "--size", "96M", "--json")
    assert outcome.status == 0, outcome.err
    with disk.open("rb") as file:
        table = read_table(file.read(MiB), 4096)
    drive = next(part for part in table.partitions if part.name == "config-2")
    probed = run("blkid", "-p", "-O", str(drive.start), "-o", "export", disk).splitlines()
    assert {"LABEL=config-2", "TYPE=vfat"} <= set(probed)


@pytest.fixture
def ready_made(tmp_path) -> bytes:
    """A config drive as OpenStack makes them: ISO 9660 with Rock Ridge and Joliet."""
    latest = tmp_path / "tree" / "openstack" / "latest"
    latest.mkdir(parents=True)
    (latest / "meta_data.json").write_text('{"uuid": "made-elsewhere"}')
    run(
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-R",
        "-J",
        "-V",
        "config-2",
        "-o",
        tmp_path / "iso",
        tmp_path / "tree",
    )
    return (tmp_path / "iso").read_bytes()


@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_a_ready_made_drive_is_one_that_the_disk_can_be_read_with(
    images, make_disk, deploy, read_drive, ready_made, tmp_path, sector_size
):
    disk = make_disk(LARGER, sector_size)
    drive = {"enable": True, "content": base64.b64encode(ready_made).decode()}
    outcome = deploy(images.gpt(sector_size=sector_size), disk.device, configdrive=drive)
    assert outcome.status == 0, outcome.err
    assert_clean(disk)
    saved = disk.save(disk.dump()[1][-1], tmp_path / "saved")
    assert saved.read_bytes().startswith(ready_made) == (sector_size == 512)
    probed = run("blkid", "-p", "-o", "export", saved).splitlines()
    assert {"LABEL=config-2", f"TYPE={FILESYSTEM[sector_size]}"} <= set(probed)
    found = read_drive(saved, FILESYSTEM[sector_size])
    assert found == {"openstack/latest/meta_data.json": b'{"uuid": "made-elsewhere"}'}


def test_a_fetched_drive_is_fitted_to_the_image_in_a_file(images, byoi, make_job, web, ready_made, tmp_path):
    disk = tmp_path / "disk.img"
    drive = {"enable": True, "content": web.publish(ready_made, "drive.iso")}
    job = make_job(images.gpt(sector_size=4096), configdrive=drive)
    outcome = byoi("write", job, "--disk", disk, "--size", "96M", "--json")
    assert outcome.status == 0, outcome.err
    with disk.open("rb") as file:
        table = read_table(file.read(MiB), 4096)
    part = next(part for part in table.partitions if part.name == "config-2")
    assert "TYPE=vfat" in run("blkid", "-p", "-O", str(part.start), "-o", "export", disk).splitlines()


@pytest.mark.parametrize("sector_size", SECTOR_SIZES)
def test_everything_is_read_back_from_the_device(images, make_disk, deploy, sector_size):
    """By O_DIRECT and in whole sectors, whatever lengths were written; the drive, and what was zeroed, too."""
    disk = make_disk(LARGER, sector_size)
    outcome = deploy(images.gpt(sector_size=sector_size), disk.device, configdrive=DRIVE, verify="readback")
    assert outcome.status == 0, outcome.err
    assert outcome.document["readBack"] == "readback"
    assert_clean(disk)
