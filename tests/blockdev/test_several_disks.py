"""One image onto two loop devices, with sectors of 512 and 4096 bytes and of unequal size, and as a mirror."""

import pytest

from agent.units import MiB
from tests.kit.commands import attempt, run
from tests.kit.images import ESP_PIECE, GPT_PIECES, SIZE_MIB
from tests.kit.members import examine

SIZE = SIZE_MIB * MiB


@pytest.fixture(params=[512, 4096])
def sector_size(request):
    return request.param


@pytest.fixture
def image(images, sector_size):
    return images.gpt(GPT_PIECES if sector_size == 512 else GPT_PIECES[1:], sector_size=sector_size)


@pytest.fixture
def disks(make_disk, sector_size):
    return make_disk(SIZE + 16 * MiB, sector_size), make_disk(SIZE + 33 * MiB, sector_size)


@pytest.fixture
def write(byoi, make_job, image):
    """Write the image onto disks: write(disks, **members of the job)."""

    def run_byoi(disks, **members):
        named = [word for disk in disks for word in ("--disk", disk.device)]
        return byoi("write", make_job(image, **members), *named, "--json")

    return run_byoi


def kind_of(partition):
    """What blkid takes a partition for."""
    return attempt("blkid", "--probe", "--output=value", "--match-tag=TYPE", partition).stdout.strip()


def assert_sound(disk):
    assert "No problems found" in run("sgdisk", "-v", disk.device)
    assert "No errors detected" in run("sfdisk", "--verify", disk.device)


def test_each_disk_is_whole_and_its_own(write, disks, image, images):
    outcome = write(disks)
    assert outcome.status == 0, outcome.err
    _, table = images.dump(image)
    ids = set()
    for disk in disks:
        assert_sound(disk)
        header, entries = disk.dump()
        ids |= {line for line in header if line.startswith("label-id")}
        for own, entry in zip(table, entries, strict=False):
            assert (own.start, own.size) == (entry.start, entry.size)
            assert disk.read(entry.start, entry.size) == image.read(own.start, own.size)
        assert len(entries) == len(table) + 1
    assert len(ids) == 2


def test_the_halves_of_a_mirror_are_members_of_one_array(write, disks, image, images, tmp_path):
    outcome = write(disks, raid={"level": "raid1"})
    assert outcome.status == 0, outcome.err
    told = []
    for role, disk in enumerate(disks):
        assert_sound(disk)
        _, entries = disk.dump()
        root = entries[len(images.dump(image)[1]) - 1]
        member = disk.save(root, tmp_path / f"member{role}")
        told.append(examine(member))
        assert kind_of(member) == "linux_raid_member", "or it would be mounted without its array"
        assert told[-1]["Device Role"] == f"Active device {role}"
        assert told[-1]["Checksum"].endswith("- correct")
    assert told[0]["Array UUID"] == told[1]["Array UUID"]
    assert told[0]["Array Size"] == told[1]["Array Size"]


def test_disks_with_sectors_of_two_sizes_are_refused(byoi, make_job, images, make_disk):
    disks = make_disk(SIZE + 16 * MiB, 512), make_disk(SIZE + 16 * MiB, 4096)
    named = [word for disk in disks for word in ("--disk", disk.device)]
    outcome = byoi("write", make_job(images.gpt((ESP_PIECE, GPT_PIECES[2]))), *named, "--json")
    assert outcome.document["error"]["code"] == "raid.disks"
    assert all(disk.is_untouched() for disk in disks)


def test_a_superblock_of_an_older_array_does_not_come_back(write, disks, tmp_path):
    """One lies where the new root ends: the claim wipes the old partitions' ends."""
    for _ in range(2):
        assert write(disks, raid={"level": "raid1"}).status == 0
    assert write(disks[:1]).status == 0
    _, entries = disks[0].dump()
    for entry in entries:
        assert kind_of(disks[0].save(entry, tmp_path / "partition")) != "linux_raid_member"
