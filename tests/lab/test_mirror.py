"""A mirror that `byoi write` made, on servers that start from both of its disks, from one, and from a new one.

CI starts a server from both disks by BIOS and from the second one alone by UEFI; `sh tests/lab/mirrors` runs all of it.
"""

import asyncio

import pytest

from agent.aio import run_blocking
from agent.units import MiB
from tests.lab import mirror
from tests.lab.conftest import digest
from tests.lab.disks import make_dirty
from tests.lab.images import ROOT
from tests.lab.machine import machine
from tests.lab.mirror import CHUNK, Halves, members, start, written

USERLAND = 64 * MiB
"""More than a start of the system writes by itself."""
long_run = pytest.mark.long_run


@pytest.fixture
def told(record):
    """Notes for the table of results, told(disks, firmware, what is found): a context that takes the start's time."""

    def note(disks: str, firmware: str, found: str):
        record.notes |= {"disks": disks, "firmware": firmware, "found": found}
        return record.timing("boot")

    return note


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A mirror as it was deployed: never changed."""
    halves = mirror.deploy(mirror.image(), tmp_path_factory.mktemp("deployed"))
    yield halves
    mirror.remove(halves)


@pytest.fixture
def halves(deployed, tmp_path):
    """... and one to be changed."""
    copies = deployed.copy(tmp_path / "halves")
    yield copies
    mirror.remove(copies)


def assert_mirrored(report, halves: Halves) -> None:
    """Both halves hold the same, by the word of the kernel and by ours."""
    assert report.said["root"].startswith("/dev/md")
    assert members(report, "mdstat_after") == "[UU]"
    assert report.said["mismatches"] == "0"
    assert halves.differing(report.number("size")) == []


def assert_whole(report, firmware: str, boots: int) -> None:
    """The system is up, and has all that earlier starts left."""
    assert report.said["firmware"] == firmware
    assert report.decoded("damaged") == ""
    assert report.decoded("failed") == ""
    assert report.number("boots") == boots


@pytest.mark.parametrize("firmware", ["bios", pytest.param("uefi", marks=long_run)])
async def test_a_mirror_starts_in_sync_and_copies_only_what_lies_behind_the_image(firmware, halves, told):
    with told("both", firmware, "in sync; only what lies behind the image is copied"):
        report = await start(halves.paths, firmware)
    assert_whole(report, firmware, 1)
    assert members(report) == "[UU]"
    assert_mirrored(report, halves)
    # The last chunk of the image is copied with what lies behind it.
    root = mirror.root_of(halves.table(0))
    behind = root.start + report.number("size") - halves.image_root_end
    first, second = written(report)
    assert first < USERLAND
    assert behind <= second < behind + CHUNK + USERLAND


@long_run
async def test_a_mirror_on_disks_of_4096_byte_sectors(tmp_path, told):
    halves = await run_blocking(mirror.deploy, mirror.image(sector_size=4096), tmp_path, sector_size=4096)
    with told("both, of 4096-byte sectors", "uefi", "in sync"):
        report = await start(halves.paths, "uefi", sector_size=4096)
    assert_whole(report, "uefi", 1)
    assert_mirrored(report, halves)
    mirror.remove(halves)


@long_run
async def test_a_mirror_whose_root_is_xfs(tmp_path, told):
    halves = await run_blocking(mirror.deploy, mirror.image("--xfs"), tmp_path)
    with told("both, the root is XFS", "bios", "in sync"):
        report = await start(halves.paths, "bios")
    assert_whole(report, "bios", 1)
    assert_mirrored(report, halves)
    with told("the second alone, the root is XFS", "uefi", "degraded"):
        report = await start(halves.paths[1:], "uefi")
    assert_whole(report, "uefi", 2)
    assert members(report) == "[_U]"
    mirror.remove(halves)


@long_run
async def test_a_mirror_of_an_image_with_an_mbr(tmp_path, told):
    halves = await run_blocking(mirror.deploy, mirror.image("--table", "mbr"), tmp_path)
    with told("both, with an MBR", "bios", "in sync"):
        report = await start(halves.paths, "bios")
    assert_whole(report, "bios", 1)
    assert_mirrored(report, halves)
    for boots, firmware in ((2, "bios"), (3, "uefi")):
        with told("the second alone, with an MBR", firmware, "degraded"):
            report = await start(halves.paths[1:], firmware)
        assert_whole(report, firmware, boots)
        assert members(report) == "[_U]"
    mirror.remove(halves)


@pytest.mark.parametrize(
    ("firmware", "half"),
    [
        ("uefi", 1),
        pytest.param("uefi", 0, marks=long_run),
        pytest.param("bios", 0, marks=long_run),
        pytest.param("bios", 1, marks=long_run),
    ],
)
async def test_each_disk_starts_alone(firmware, half, halves, told):
    with told(("the first alone", "the second alone")[half], firmware, "degraded"):
        report = await start(halves.paths[half : half + 1], firmware)
    assert_whole(report, firmware, 1)
    assert members(report) == ("[U_]", "[_U]")[half]
    assert report.said["synced"].split()[1] == "1"


@long_run
async def test_what_was_written_to_one_disk_alone_reaches_the_other(halves, told):
    assert_whole(await start(halves.paths, "bios"), "bios", 1)
    assert_whole(await start(halves.paths[1:], "uefi"), "uefi", 2)
    with told("both, the second had worked alone", "bios", "the first is brought up to date"):
        report = await start(halves.paths, "bios")  # the stale disk is the first
    assert_whole(report, "bios", 3)
    assert members(report, "mdstat_after") == "[UU]"
    assert_mirrored(report, halves)


@long_run
async def test_a_disk_that_was_blanked_by_a_power_cut_is_no_obstacle(halves, told):
    """The commit was cut between the two disks."""
    with halves.paths[1].open("r+b") as disk:
        disk.write(bytes(512))
    with told("both, the second without its first sector", "uefi", "degraded"):
        report = await start(halves.paths, "uefi")
    assert_whole(report, "uefi", 1)
    assert members(report) == "[U_]"


async def live_apart(halves: Halves) -> None:
    """Each half starts alone once: each has writes that the other has not."""
    for number in (0, 1):
        alone = await start(halves.paths[number : number + 1], "bios")
        assert_whole(alone, "bios", 1)


@long_run
async def test_two_halves_that_have_both_lived_alone_differ_and_only_a_check_tells(halves, told):
    """What docs/raid.md warns of. Should this fail because md has come to refuse them, the warning can go."""
    await live_apart(halves)
    with told("both, each had worked alone", "bios", "[UU] over data that differ: only a check counts them"):
        report = await start(halves.paths, "bios")
    assert members(report, "mdstat_after") == "[UU]"
    assert report.decoded("failed") == ""
    assert report.number("mismatches") > 0
    assert halves.differing(report.number("size")) != []


@long_run
async def test_of_two_halves_that_have_both_lived_alone_one_is_made_to_lose(halves, told):
    await live_apart(halves)
    mirror.zero_superblock(halves, 1)
    add = "mdadm /dev/md/root --add /dev/vdb1"
    with told("both, each had worked alone, the second made to lose by raid.md", "bios", "in sync"):
        report = await start(halves.paths, "bios", task=add)
    assert_whole(report, "bios", 2)
    assert members(report) == "[U_]", "the one that lost is a member of nothing"
    assert members(report, "mdstat_after") == "[UU]", report.decoded("task")
    assert_mirrored(report, halves)


def replacement() -> str:
    """The commands that docs/raid.md has for the person with a dead disk; sda, here vda, is the one that lives."""
    section = (ROOT / "docs/raid.md").read_text().partition("## A disk is dead")[2]
    commands = [line.strip() for line in section.splitlines() if line.startswith("       ")]
    assert len(commands) == 6, commands
    return "\n".join(["set -ex", *commands]).replace("/dev/sd", "/dev/vd")


@long_run
async def test_a_disk_is_replaced_and_the_new_one_starts_alone(halves, told):
    new = await run_blocking(make_dirty, halves.paths[0].with_name("new.raw"), mirror.SIZES[1])
    with told("the second, and a new one added by raid.md", "bios", "in sync; the new one starts alone"):
        report = await start((halves.paths[1], new), "bios", task=replacement())
    assert members(report, "mdstat_after") == "[UU]", report.decoded("task")
    assert_whole(report, "bios", 1)
    assert report.said["mismatches"] == "0"
    for boots, firmware in ((2, "bios"), (3, "uefi")):
        alone = await start((new,), firmware)
        assert_whole(alone, firmware, boots)


@long_run
async def test_an_image_without_mdadm_stops_and_touches_nothing(tmp_path, told):
    halves = await run_blocking(mirror.deploy, mirror.image("--without-mdadm"), tmp_path)
    before = [await run_blocking(digest, path) for path in halves.paths]
    with told("both, of an image without mdadm", "bios", "stops, writes nothing"):
        async with machine(mirror.spec(halves.paths, "bios")) as server:
            await server.serial.wait_for(r"ALERT!.*does not exist", mirror.BOOT_SECONDS)
            await asyncio.sleep(0)
            server.cut_power()
    assert [await run_blocking(digest, path) for path in halves.paths] == before
    mirror.remove(halves)
