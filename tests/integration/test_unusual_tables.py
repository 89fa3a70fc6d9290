"""Tables that are out of the ordinary: a broken one is refused as the image's fault, one that boots is deployed."""

import gzip
import subprocess
from dataclasses import replace

import pytest

from agent.formats.tables import gpt, mbr
from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.kit.disks import is_untouched, make_disk

SIZE = 40 * MiB
DISK = 64 * MiB
LOGICALS = """\
label: dos
start=2048,size=2048,type=83
start=8192,size=57344,type=5
start=10240,size=2048,type=83
start=49152,size=2048,type=83
"""
FIRST, SECOND = 8192 * 512, 47104 * 512
"""Where the EBRs are: the second is beyond what preflight reads."""


@pytest.fixture
def logicals(tmp_path) -> bytearray:
    """An image with two logical partitions and no boot code."""
    path = tmp_path / "logicals.raw"
    path.write_bytes(bytes(SIZE))
    run("sfdisk", "-q", path, stdin=LOGICALS)
    data = bytearray(path.read_bytes())
    assert data[SECOND + 510 : SECOND + 512] == data[FIRST + 510 : FIRST + 512] == mbr.SIGNATURE
    return data


@pytest.fixture
def target(tmp_path):
    return make_disk(tmp_path / "disk.img", DISK)


@pytest.fixture
def write(byoi, tmp_path, target):
    """Deploy from a file: any part of it can be read before the first write."""

    def deploy(content: bytes, *options: str):
        path = tmp_path / "image"
        path.write_bytes(content)
        return byoi("write", "--url", path, "--type", "raw", "--disk", target, "--json", *options)

    return deploy


def without_second(data: bytearray) -> None:
    data[SECOND : SECOND + 512] = bytes(512)


def looping(data: bytearray) -> None:
    link = mbr.MbrEntry(kind=5, start_lba=0, sectors=100)
    data[SECOND : SECOND + 512] = mbr.put_entry(bytes(data[SECOND : SECOND + 512]), 1, link)


def overlapping(data: bytearray) -> None:
    first = bytes(data[FIRST : FIRST + 512])
    longer = mbr.entries(first)[0]._replace(sectors=40960)
    data[FIRST : FIRST + 512] = mbr.put_entry(first, 0, longer)


CHAINS = {without_second: "no 0x55AA signature", looping: "loops back", overlapping: "overlap"}


def assert_damaged(outcome, reason: str) -> None:
    assert outcome.status == 1
    error = outcome.error
    assert (error["code"], error["blame"]) == ("image.damaged", "image")
    assert "logical partitions" in error["message"]
    assert reason in error["message"]
    assert "SMART" not in error["hint"]


@pytest.mark.parametrize("options", [(), ("--hostname", "h1")], ids=["bare", "drive"])
@pytest.mark.parametrize("damage", CHAINS)
def test_a_broken_chain_is_refused_before_the_first_write(write, logicals, target, damage, options):
    damage(logicals)
    assert_damaged(write(bytes(logicals), *options), CHAINS[damage])
    assert is_untouched(target, DISK)


@pytest.mark.parametrize("damage", CHAINS)
def test_a_broken_chain_that_comes_late_is_refused_before_the_commit(write, logicals, target, damage):
    damage(logicals)
    logicals[20 * MiB : 20 * MiB + 512 * KiB] = random_bytes()
    assert_damaged(write(gzip.compress(bytes(logicals))), CHAINS[damage])
    assert not any(target.read_bytes()[:MiB])


def random_bytes() -> bytes:
    return subprocess.run(
        ["head", "-c", str(512 * KiB), "/dev/urandom"], capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_sound_chain_is_deployed_without_a_word(write, logicals, pack):
    outcome = write(pack(bytes(logicals)), "--hostname", "h1")
    assert outcome.status == 0, outcome.err
    assert not any("libparted" in note for note in outcome.document["notes"])


def low_first_usable(data: bytes) -> bytes:
    """Its usable space begins within the entries, as some tools write it. Linux and firmware do not mind."""
    table = replace(gpt.parse(data[:MiB], 512), first_usable_lba=2)
    changed = bytearray(data)
    for offset, piece in (*gpt.encode_primary(table), *gpt.encode_backup(table)):
        changed[offset : offset + len(piece)] = piece
    return bytes(changed)


def test_a_gpt_whose_usable_space_begins_too_early_is_deployed_with_a_note(write, gpt_image, target):
    outcome = write(low_first_usable(gpt_image.path.read_bytes()), "--hostname", "h1")
    assert outcome.status == 0, outcome.err
    assert any("libparted does not read" in note for note in outcome.document["notes"])
    assert len(run("sfdisk", "-d", target).split("start=")) == len(gpt_image.pieces) + 2


@pytest.fixture
def isohybrid(tmp_path) -> bytes:
    """An ISO as distributions make them for USB sticks: an MBR, a GPT without its 0xEE entry, an Apple map."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "loader").write_bytes(b"x" * 2048)
    esp, code, image = tree / "efi.img", tmp_path / "isohdpfx.bin", tmp_path / "hybrid.iso"
    esp.write_bytes(bytes(2 * MiB))
    run("mkfs.vfat", esp)
    code.write_bytes(b"\x33\xed" + b"\x90" * 30 + bytes(range(1, 201)) * 2)
    run(
        "xorriso", "-as", "mkisofs", "-quiet", "-o", image, "-c", "boot.cat",
        "-b", "loader", "-no-emul-boot", "-boot-load-size", "4",
        "-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot",
        "-isohybrid-gpt-basdat", "-isohybrid-apm-hfsplus", "-isohybrid-mbr", code, tree,
    )  # fmt: skip
    return image.read_bytes()


def test_an_isohybrid_image_is_deployed_with_a_note(write, isohybrid, target):
    outcome = write(isohybrid)
    assert outcome.status == 0, outcome.err
    assert any("type mac" in note for note in outcome.document["notes"])
    assert target.read_bytes()[: len(isohybrid)] == isohybrid


def test_the_drive_leaves_the_entry_that_an_isohybrid_boots_from(write, isohybrid, target):
    assert write(isohybrid, "--hostname", "h1").status == 0
    before, after = mbr.entries(isohybrid), mbr.entries(target.read_bytes())
    assert before[0].flag == 0x80
    assert after[:2] == before[:2]
    assert after[2].kind == 0x83


# -- entries behind the first MiB -----------------------------------------------------------------------------


@pytest.mark.parametrize("lba", [2040, 4096, 20000])
def test_a_gpt_whose_entries_lie_behind_the_first_mib_is_deployed(write, tmp_path, target, lba):
    """Boards whose loader has the first MiB: sgdisk --move-main-table, genimage's gpt-location."""
    path = tmp_path / "moved.raw"
    path.write_bytes(bytes(SIZE))
    run("sgdisk", "-n", "1:24576:32767", "-c", "1:root", "-j", lba, path)
    outcome = write(path.read_bytes(), "--hostname", "h1")
    assert outcome.status == 0, outcome.err
    assert not any("libparted" in note for note in outcome.document["notes"])
    assert "No problems found" in run("sgdisk", "-v", target)
    table = gpt.parse(target.read_bytes()[: 16 * MiB], 512)
    assert table.entries_lba == lba
    assert [part.name for part in table.partitions] == ["root", "config-2"]


def test_more_entries_than_the_end_of_the_disk_can_hold_back_are_refused(write, tmp_path, target):
    path = tmp_path / "many.raw"
    path.write_bytes(bytes(SIZE))
    run("sgdisk", "-S", "8192", "-n", "1:24576:32767", path)
    outcome = write(path.read_bytes())
    assert outcome.error["code"] == "gpt.relocate"
    assert "8192 entries of 128 bytes are too many" in outcome.error["detail"]
    assert is_untouched(target, DISK)


# -- a last partition without content ------------------------------------------------------------------------


def without_last(label: str, tmp_path) -> tuple[bytes, int, int]:
    """What genimage makes of a last partition without an image: the file stops before it; and where that is."""
    path = tmp_path / "genimage.raw"
    path.write_bytes(bytes(SIZE))
    run("sfdisk", "-q", path, stdin=f"label: {label}\nstart=2048,size=20480\nstart=24576,size=32768\n")
    return path.read_bytes()[: 23000 * 512], 24576 * 512, 32768 * 512


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_last_partition_without_content_is_filled_with_zeros(write, tmp_path, target, label, pack):
    content, start, size = without_last(label, tmp_path)
    outcome = write(pack(content), "--hostname", "h1")
    assert outcome.status == 0, outcome.err
    assert any("before its partition 2 begins" in note for note in outcome.document["notes"])
    disk = target.read_bytes()
    assert not any(disk[start : start + size])
    assert disk[MiB : 10 * MiB] == content[MiB : 10 * MiB]


def test_an_image_that_ends_within_a_partition_is_cut_and_its_hint_names_both_ways(write, tmp_path, target):
    content, start, _ = without_last("dos", tmp_path)
    for cut in (content.ljust(start + 512, b"\0"), content[: 5 * MiB], content[:MiB]):
        outcome = write(cut)
        assert outcome.error["code"] == "image.truncated"
        assert "truncate --size" in outcome.error["hint"]
        assert is_untouched(target, DISK)


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_last_partition_beyond_the_disk_is_refused(byoi, tmp_path, label):
    content, _, _ = without_last(label, tmp_path)
    path, disk = tmp_path / "image", tmp_path / "small.img"
    path.write_bytes(content)
    make_disk(disk, 20 * MiB)
    outcome = byoi("write", "--url", path, "--type", "raw", "--disk", disk, "--json")
    assert outcome.error["code"] == {"dos": "image.size", "gpt": "gpt.relocate"}[label]
    assert is_untouched(disk, 20 * MiB)
