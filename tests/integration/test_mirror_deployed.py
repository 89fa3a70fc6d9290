"""A mirror that is made while the image is written: mdadm takes both disks for one array, in sync from the start."""

import struct
from pathlib import Path

import pytest

from agent.formats.tables.md import super_offset
from agent.units import KiB, MiB
from tests.kit.checks import partitions
from tests.kit.commands import run
from tests.kit.disks import DISK_SIZE, is_untouched, make_disk
from tests.kit.images import BIOS_PIECE, ESP_PIECE, Image, ImageMaker, Piece, make_image
from tests.kit.members import examine

UUID = "3f1c6f0e-6b1f-4d0e-9a52-3d0f3b7f7a11"
ROOT = 2


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def disks(tmp_path) -> tuple[Path, Path]:
    """Two dirty disks, the second one larger."""
    return make_disk(tmp_path / "a"), make_disk(tmp_path / "b", DISK_SIZE + 8 * MiB)


@pytest.fixture
def mirror(byoi):
    """Deploy an image as a mirror: mirror(image, disks, *options)."""

    def deploy(image, disks, *options):
        named = [word for disk in disks for word in ("--disk", disk)]
        return byoi("write", "--url", image, *named, "--raid", "raid1", "--json", *options)

    return deploy


def member_of(disk: Path, scratch: Path) -> Path:
    """The root partition of a disk as a file."""
    start, size, _ = partitions(disk)[ROOT]
    member = scratch / f"{disk.name}.member"
    with disk.open("rb") as file:
        file.seek(start)
        member.write_bytes(file.read(size))
    return member


@pytest.mark.parametrize("verify", ["commit", "readback"])
def test_both_disks_are_members_of_one_array_that_is_in_sync_up_to_the_image(
    mirror, image, disks, tmp_path, verify
):
    outcome = mirror(image.path, disks, "--hostname", "h1", "--verify", verify)
    assert outcome.status == 0, outcome.err
    assert outcome.document["readBack"] == verify
    _, root_size, _ = partitions(image.path)[ROOT]
    members = [member_of(disk, tmp_path) for disk in disks]
    told = [examine(member) for member in members]
    for number, (disk, said) in enumerate(zip(disks, told, strict=True)):
        assert "No problems found" in run("sgdisk", "--verify", disk)
        assert (said["Version"], said["Raid Level"], said["Raid Devices"]) == ("1.0", "raid1", "2")
        assert said["Checksum"].endswith("correct")
        assert said["Device Role"] == f"Active device {number}"
        assert said["State"] == "active", "what lies behind the image has still to be copied"
        assert partitions(disk)[ROOT][1] > root_size, "it is as large as the disk has room"
        assert partitions(disk)[-1][2] == "config-2"
    assert told[0]["Array UUID"] == told[1]["Array UUID"]
    assert told[0]["Device UUID"] != told[1]["Device UUID"]
    assert told[0]["Array Size"] == told[1]["Array Size"]
    first, second = (member.read_bytes() for member in members)
    for data in (first, second):
        (resync,) = struct.unpack_from("<Q", data, super_offset(len(data)) + 208)
        assert resync == root_size // 512
    assert first[:root_size] == second[:root_size]
    run("e2fsck", "-n", "-f", members[0])
    assert any(told[0]["Array UUID"] in note for note in outcome.document["notes"])


def test_the_copies_of_esp_and_boot_code_are_the_images(mirror, image, disks):
    assert mirror(image.path, disks).status == 0
    for disk in disks:
        assert disk.read_bytes()[MiB : 6 * MiB] == image.data[MiB : 6 * MiB]
        assert disk.read_bytes()[:440] == image.data[:440]


def test_an_array_has_the_uuid_of_the_job(byoi, image, disks, tmp_path, make_job):
    job = make_job(image, raid={"level": "raid1", "uuid": UUID})
    outcome = byoi("write", job, "--disk", disks[0], "--disk", disks[1])
    assert outcome.status == 0, outcome.err
    said = examine(member_of(disks[0], tmp_path))
    assert said["Array UUID"].replace(":", "") == UUID.replace("-", "")


def test_an_image_whose_first_bytes_come_late_is_judged_before_the_commit(mirror, image, disks, tmp_path):
    packed = tmp_path / "image.raw.xz"
    packed.write_bytes(b"")
    run("sh", "-c", f"xz -c {image.path} > {packed}")
    assert mirror(packed, disks).status == 0
    assert examine(member_of(disks[1], tmp_path))["Device Role"] == "Active device 1"


MD_MAGIC = struct.pack("<I", 0xA92B4EFC)


def old_places(size: int) -> list[int]:
    """Where md looks for superblocks at the end of something of that size: formats 1.0 and 0.90."""
    return [super_offset(size), (size & ~(64 * KiB - 1)) - 64 * KiB]


def test_no_superblock_of_an_older_array_is_left_at_the_end_of_the_partition_or_of_the_array(
    mirror, image, disks, tmp_path
):
    drive = ("--hostname", "h1")  # behind the root: it does not end in what every claim wipes
    assert mirror(image.path, disks, *drive).status == 0
    start, size, _ = partitions(disks[0])[ROOT]
    inner = int(examine(member_of(disks[0], tmp_path))["Array Size"].split()[0]) * KiB
    places = [*old_places(size), *old_places(inner)]
    # As if it had been found so: nothing tells of an old partition whose ends would be wiped.
    make_disk(disks[0])
    with disks[0].open("r+b") as disk:
        for place in places:
            disk.seek(start + place)
            disk.write(MD_MAGIC)
    assert mirror(image.path, disks, *drive).status == 0
    member = member_of(disks[0], tmp_path).read_bytes()
    found = [place for place in places if member[place : place + 4] == MD_MAGIC]
    assert found == [super_offset(size)]
    assert member[super_offset(size) + 4] == 1


@pytest.mark.parametrize("options", [(), ("--hostname", "h1")], ids=["no drive", "a config drive"])
def test_an_image_with_an_mbr_becomes_a_mirror_too(mirror, image_maker: ImageMaker, tmp_path, options):
    image = image_maker.mbr()
    disks = make_disk(tmp_path / "a", 64 * MiB), make_disk(tmp_path / "b", 72 * MiB)
    outcome = mirror(image.path, disks, *options)
    assert outcome.status == 0, outcome.err
    start, size, _ = partitions(image.path)[-1]
    members, ids = [], set()
    for number, disk in enumerate(disks):
        assert "No errors detected" in run("sfdisk", "--verify", disk)
        dumped = run("sfdisk", "--dump", disk)
        ids |= {line for line in dumped.splitlines() if line.startswith("label-id")}
        assert dumped.count("type=fd") == 1
        assert disk.read_bytes()[:440] == image.data[:440]
        root = next((begin, length) for begin, length, _ in partitions(disk) if begin == start)
        member = tmp_path / f"member{number}"
        member.write_bytes(disk.read_bytes()[start : start + root[1]])
        assert root[1] > size
        said = examine(member)
        assert said["Device Role"] == f"Active device {number}"
        assert said["Checksum"].endswith("correct")
        members.append(member)
    assert len(ids) == 2, "each disk has a signature of its own"
    assert members[0].read_bytes()[:size] == members[1].read_bytes()[:size]
    run("e2fsck", "-n", "-f", members[1])


# -- how the image names its root ----------------------------------------------------------------------------

NAMED = {
    "a search by UUID": ("EFI/debian", "search.fs_uuid 2f8b3f0c root\n", "as a mirror needs it"),
    "a partition": ("EFI/debian", "linux /vmlinuz root=PARTUUID=4d61\n", "it does not start as a mirror"),
    "a disk, where the ESP is /boot": (
        "grub",
        "linux /vmlinuz root=/dev/sda1\n",
        "it does not start as a mirror",
    ),
    "nothing": ("EFI/debian", "configfile (hd0,gpt1)/boot/grub/grub.cfg\n", None),
}


def with_grub_config(image: Image, path: Path, directory: str, config: str) -> Path:
    """A copy of the image with a grub.cfg on its ESP, put there by mtools."""
    path.write_bytes(image.data)
    start, _, _ = partitions(path)[1]
    esp = f"{path}@@{start}"
    run("mmd", "-i", esp, f"::/{directory}")
    source = path.with_suffix(".cfg")
    source.write_text(config)
    run("mcopy", "-i", esp, source, f"::/{directory}/grub.cfg")
    return path


@pytest.mark.parametrize("how", NAMED)
def test_a_note_says_how_the_grub_config_on_the_esp_names_the_root(mirror, image, disks, tmp_path, how):
    directory, config, told = NAMED[how]
    outcome = mirror(with_grub_config(image, tmp_path / "image.raw", directory, config), disks)
    assert outcome.status == 0, outcome.err
    notes = [note for note in outcome.document["notes"] if "on the ESP" in note]
    assert len(notes) == (0 if told is None else 1)
    assert all(told in note and f"/{directory}/grub.cfg" in note for note in notes)


# -- refused before the first write --------------------------------------------------------------------------

SWAP = Piece(40, 4, "", "type=swap")
HOME = Piece(10, 4, "ext4:home", "type=933AC7E1-2EB4-4F13-B844-0E14E2AEF915")
LATE_ROOT = Piece(14, 26, "ext4", "type=linux")

REFUSED = {
    "swap behind the root": (
        (BIOS_PIECE, ESP_PIECE, Piece(10, 30, "ext4", "type=linux"), SWAP),
        "no root, but swap",
    ),
    "a home before it": ((BIOS_PIECE, ESP_PIECE, HOME, LATE_ROOT), "a Linux /home"),
    "noise for a root": (
        (BIOS_PIECE, ESP_PIECE, Piece(10, 30, "noise", "type=linux")),
        "of a kind that is not known",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_a_mirror_is_refused_before_the_first_write(
    mirror, image_maker: ImageMaker, tmp_path, why
):
    pieces, told = REFUSED[why]
    disks = tuple(make_disk(tmp_path / name, 64 * MiB) for name in "ab")
    outcome = mirror(image_maker.gpt(pieces).path, disks)
    error = outcome.document["error"]
    assert error["code"] == "raid.layout"
    assert told in error["message"]
    assert error["diskState"] == "untouched"
    assert all(is_untouched(disk, 64 * MiB) for disk in disks)


def test_a_root_in_a_logical_partition_is_refused(mirror, image_maker: ImageMaker, tmp_path):
    disks = tuple(make_disk(tmp_path / name, 64 * MiB) for name in "ab")
    pieces = Piece(1, 8, "esp", "type=ef"), Piece(9, 32, "", "type=5"), Piece(10, 30, "ext4", "type=83")
    assert mirror(image_maker.mbr(pieces).path, disks).document["error"]["code"] == "raid.layout"
    assert all(is_untouched(disk, 64 * MiB) for disk in disks)


def test_a_mirror_of_one_disk_is_wrong_usage(mirror, image, disks):
    outcome = mirror(image.path, disks[:1])
    assert outcome.status == 2
    assert "a mirror has 2" in outcome.err
