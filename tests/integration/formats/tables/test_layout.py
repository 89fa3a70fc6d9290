import re
import struct
import subprocess
import uuid
from dataclasses import replace

import pytest

from agent.errors import ConfigDriveCreate
from agent.formats.tables import gpt, mbr
from agent.formats.tables.layout import (
    DriveSlot,
    finish_head,
    has_boot_code,
    has_esp,
    needed_size,
    place_drive,
    stale_backup,
    stale_signature_ranges,
)
from agent.formats.tables.mbr import parse_logicals
from agent.formats.tables.partition import TableError
from agent.formats.tables.read import read_table
from agent.units import KiB, MiB, TiB

GUID = uuid.UUID("6b1d9d3e-1111-2222-3333-444455556666")
DRIVE = 500 * KiB
FOUR_PRIMARIES = "2048,2048,83\n4096,2048,83\n6144,2048,83\n8192,{last}\n"
EXTENDED = FOUR_PRIMARIES.format(last="22528,5")


def tool(*argv, stdin=None):
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def image(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


def gpt_image(tmp_path, *arguments, size=16 * MiB):
    """An image with a 1 MiB ESP at 1 MiB and a root that ends at 8 MiB."""
    path = image(tmp_path / "gpt.img", size)
    parts = ("-n1:2048:4095", "-t1:ef00", "-n2:4096:16383", "-t2:8300", "-c2:root", "-A2:set:2")
    tool("sgdisk", *arguments, *parts, path)
    return path


def mbr_image(tmp_path, script, size=16 * MiB):
    path = image(tmp_path / "mbr.img", size)
    tool("sfdisk", "--quiet", path, stdin=f"label: dos\nlabel-id: 0x1234abcd\n{script}")
    return path


def table_of(path, sector_size=512):
    with path.open("rb") as file:
        return read_table(file.read(MiB), sector_size)


def logicals_of(path, table):
    disk = path.read_bytes()
    return parse_logicals(lambda at, length: disk[at : at + length], table.extended, table.sector_size)


def deploy(path, disk_size, drive_size=None, drive_type="iso9660", **known):
    """What the stages do, on a file: the image, zeros over the stale backup, the writes, the head."""
    data = path.read_bytes()
    table = table_of(path)
    slot = place_drive(table, disk_size, 512, drive_size, **known) if drive_size else None
    logicals = known.get("logicals") or ()
    done = finish_head(
        data[:MiB], table, disk_size, slot, unique_guid=GUID, drive_type=drive_type, logicals=logicals
    )
    disk = path.with_suffix(".disk")
    with image(disk, disk_size).open("r+b") as file:
        file.write(data[:disk_size])
        stale = () if isinstance(table, mbr.Mbr) else stale_backup(table, len(data), disk_size)
        for offset, length in stale:
            file.seek(offset)
            file.write(bytes(length))
        for offset, content in (*done.other_writes, *done.tail_writes, (0, done.head)):
            file.seek(offset)
            file.write(content)
    return disk, slot


def dump(path):
    """The partition lines of `sfdisk --dump`, without the file's name."""
    lines = tool("sfdisk", "--dump", path).splitlines()
    return [line.removeprefix(str(path)) for line in lines if line.startswith(str(path))]


# -- checks on a table --


def test_what_a_gpt_tells(tmp_path):
    path = gpt_image(tmp_path)
    table = table_of(path)
    assert has_esp(table)
    assert needed_size(table) == 8 * MiB
    assert not has_boot_code(path.read_bytes()[:512])
    assert not has_esp(replace(table, entries=bytes(128) + table.entries[128:]))
    assert needed_size(replace(table, entries=bytes(len(table.entries)))) == 0


def test_boot_code_is_any_byte_before_the_disk_signature():
    assert has_boot_code(bytes(439) + b"\1" + bytes(72))
    assert not has_boot_code(bytes(440) + b"\1" * 72)


def test_esp_of_an_mbr(tmp_path):
    assert has_esp(table_of(mbr_image(tmp_path, "2048,2048,ef\n4096,,83\n")))


# -- GPT --


@pytest.mark.parametrize("disk_size", [16 * MiB, 16 * MiB + 512, 64 * MiB, 9 * MiB, 10**8])
def test_gpt_drive_sits_at_the_very_end_and_the_table_is_sound(tmp_path, disk_size):
    path = gpt_image(tmp_path)
    disk, slot = deploy(path, disk_size, DRIVE)
    assert "No problems found" in tool("sgdisk", "-v", disk)
    before, after = dump(path), dump(disk)
    assert after[:2] == before
    assert f"uuid={str(GUID).upper()}" in after[2]
    assert 'name="config-2"' in after[2]
    assert "type=0FC63DAF-8483-4772-8E79-3D69D8477DE4" in after[2]
    assert slot.number == 3
    usable_end = (table_of(disk).last_usable_lba + 1) * 512
    if disk_size != 9 * MiB:
        assert (slot.size, slot.start % MiB) == (MiB, 0)
        assert usable_end - MiB < slot.start + slot.size <= usable_end
    else:
        assert (slot.size, slot.start) == (DRIVE, (usable_end - DRIVE) // 4096 * 4096)


def test_relocation_without_a_drive(tmp_path):
    path = gpt_image(tmp_path, "-S", "256")
    disk, slot = deploy(path, 40 * MiB)
    assert slot is None
    assert "No problems found" in tool("sgdisk", "-v", disk)
    assert dump(disk) == dump(path)
    assert "table-length: 256" in tool("sfdisk", "--dump", disk)


def test_hybrid_mbr_survives(tmp_path):
    path = gpt_image(tmp_path)
    tool("sgdisk", "-h", "1:2", path)
    disk, _ = deploy(path, 64 * MiB, DRIVE)
    assert "No problems found" in tool("sgdisk", "-v", disk)
    assert disk.read_bytes()[:512] == path.read_bytes()[:512]


def test_protective_entry_follows_the_disk(tmp_path):
    path = gpt_image(tmp_path)
    with path.open("r+b") as file:
        file.write(b"\xeb" * 440)
    disk, _ = deploy(path, 64 * MiB)
    old, new = path.read_bytes()[:512], disk.read_bytes()[:512]
    assert struct.unpack_from("<I", new, 458) == (64 * MiB // 512 - 1,)
    assert new[:458] + new[462:] == old[:458] + old[462:]


def test_image_that_claims_more_than_the_disk_fits_if_its_partitions_do(tmp_path):
    path = gpt_image(tmp_path, size=64 * MiB)
    disk, _ = deploy(path, 12 * MiB, DRIVE)
    assert "No problems found" in tool("sgdisk", "-v", disk)
    with pytest.raises(TableError, match="partition 2 ends at byte 8388608"):
        deploy(path, 8 * MiB)


def test_writes_are_sorted_by_who_has_to_do_them(tmp_path):
    path = gpt_image(tmp_path)
    done = finish_head(
        path.read_bytes()[:MiB], table_of(path), 64 * MiB, None, unique_guid=GUID, drive_type="vfat"
    )
    assert done.other_writes == ()
    assert [offset for offset, _ in done.tail_writes] == [64 * MiB - 33 * 512]
    assert len(done.head) == MiB
    assert done.table == read_table(done.head, 512)


def test_full_gpt_is_refused_with_its_count(tmp_path):
    path = image(tmp_path / "d", 16 * MiB)
    tool("sgdisk", "-S", "4", path)
    parts = [f"-n{n}:{2048 * n}:+1M" for n in range(1, 5)]
    tool("sgdisk", *parts, path)
    with pytest.raises(ConfigDriveCreate) as caught:
        place_drive(table_of(path), 64 * MiB, 512, DRIVE)
    assert caught.value.detail == "all 4 entries of the GPT are taken"


def test_no_room_tells_both_numbers(tmp_path):
    table = table_of(gpt_image(tmp_path))
    disk_size = 8 * MiB + 400 * KiB
    with pytest.raises(ConfigDriveCreate) as caught:
        place_drive(table, disk_size, 512, DRIVE)
    assert f"{DRIVE // 4096 * 4096} bytes" in caught.value.detail
    assert f"{400 * KiB - 33 * 512} are free" in caught.value.detail


def test_smallest_disk_that_has_room(tmp_path):
    table = table_of(gpt_image(tmp_path))
    size = 8 * MiB + 128 * 4096 + 33 * 512
    slot = place_drive(table, size, 512, 127 * 4096 + 1)
    assert slot == DriveSlot("new", 3, 8 * MiB, 128 * 4096, "gpt")
    with pytest.raises(ConfigDriveCreate):
        place_drive(table, size - 512, 512, 127 * 4096 + 1)


def test_drive_never_lies_in_the_first_mib():
    """That MiB is held back until the commit; a drive there would be overwritten by it."""
    table = mbr.parse(mbr_sector((0x83, 63, 100)), 512)
    with pytest.raises(ConfigDriveCreate):
        place_drive(table, MiB + 64 * KiB, 512, 100 * KiB)


def test_other_sector_size_is_refused(tmp_path):
    with pytest.raises(ConfigDriveCreate) as caught:
        place_drive(table_of(gpt_image(tmp_path)), 64 * MiB, 4096, DRIVE)
    assert caught.value.detail == "the partition table counts in sectors of 512 bytes, the disk has 4096"


@pytest.mark.parametrize("name", ["config-2", "CONFIG-2"])
def test_own_config_2_partition_is_used_again(tmp_path, name):
    path = gpt_image(tmp_path, "-n3:20480:22527", f"-c3:{name}")
    disk, slot = deploy(path, 64 * MiB, MiB)
    assert slot == DriveSlot("reuse", 3, 10 * MiB, MiB, "gpt")
    assert dump(disk) == dump(path)
    with pytest.raises(ConfigDriveCreate) as caught:
        deploy(path, 64 * MiB, MiB + 1)
    assert str(MiB) in caught.value.detail
    assert str(MiB + 1) in caught.value.detail


def test_partition_known_by_its_filesystem_is_used_again(tmp_path):
    path = mbr_image(tmp_path, EXTENDED + ",2048,83\n,4096,0c\n")
    table = table_of(path)
    logicals = logicals_of(path, table)
    slot = place_drive(table, 64 * MiB, 512, DRIVE, logicals, existing=logicals[1])
    assert slot == DriveSlot("reuse", 6, logicals[1].start, 2 * MiB, "logical")
    slot = place_drive(table, 64 * MiB, 512, DRIVE, existing=table.partitions[1])
    assert slot == DriveSlot("reuse", 2, 2 * MiB, MiB, "primary")


# -- MBR --


@pytest.mark.parametrize(("drive_type", "kind"), [("iso9660", "83"), ("vfat", "c")])
def test_mbr_drive_is_a_primary_at_the_very_end(tmp_path, drive_type, kind):
    path = mbr_image(tmp_path, "2048,2048,83,*\n4096,,83\n")
    with path.open("r+b") as file:
        file.write(b"\x90" * 440)
    disk, slot = deploy(path, 64 * MiB + 512, DRIVE, drive_type)
    assert slot == DriveSlot("new", 3, 63 * MiB, MiB, "primary")
    assert "No errors" in tool("sfdisk", "--verify", disk)
    after = dump(disk)
    assert after[:2] == dump(path)
    assert re.sub(r" +", "", after[2]) == f"3:start=129024,size=2048,type={kind}"
    old, new = path.read_bytes()[:512], disk.read_bytes()[:512]
    assert new[:478] + new[494:] == old[:478] + old[494:]


def test_mbr_without_a_drive_stays_as_it_is(tmp_path):
    path = mbr_image(tmp_path, EXTENDED + ",2048,83\n")
    disk, _ = deploy(path, 64 * MiB)
    assert disk.read_bytes()[: 16 * MiB] == path.read_bytes()


def test_primary_goes_behind_the_extended_partition_where_a_slot_is_free(tmp_path):
    path = mbr_image(tmp_path, "2048,2048,83\n4096,28672,5\n,2048,83\n")
    disk, slot = deploy(path, 64 * MiB, DRIVE)
    assert (slot.via, slot.number, slot.start) == ("primary", 3, 63 * MiB)
    assert "No errors" in tool("sfdisk", "--verify", disk)


@pytest.mark.parametrize("contents", ["", ",2048,83\n", ",2048,83\n,4096,83\n,2048,82\n"])
@pytest.mark.parametrize("disk_size", [64 * MiB, 64 * MiB + 512, 16 * MiB])
def test_logical_drive_where_all_primaries_are_taken(tmp_path, contents, disk_size):
    path = mbr_image(tmp_path, EXTENDED + contents)
    logicals = logicals_of(path, table_of(path))
    disk, slot = deploy(path, disk_size, DRIVE, logicals=logicals)
    end = disk_size // MiB * MiB
    assert slot == DriveSlot("new", 5 + len(logicals), end - MiB, MiB, "logical")

    assert "No errors" in tool("sfdisk", "--verify", disk)
    before, after = dump(path), dump(disk)
    assert after[:3] == before[:3]
    assert after[4:-1] == before[4:]
    assert re.sub(r" +", "", after[-1]) == f"{slot.number}:start={slot.start // 512},size=2048,type=83"
    seen = tool("parted", "-m", "-s", str(disk), "unit", "B", "print").splitlines()[2:]
    assert seen[3].startswith(f"4:{4 * MiB}B:{disk_size - 1}B:")
    assert seen[-1].startswith(f"{slot.number}:{slot.start}B:{slot.start + MiB - 1}B:{MiB}B:")
    assert len(seen) == 5 + len(logicals)


def test_unknown_logicals_count_as_a_full_container(tmp_path):
    """Preflight sees only the image's first bytes: what it promises must hold when the rest is known."""
    path = mbr_image(tmp_path, EXTENDED + ",2048,83\n")
    table = table_of(path)
    known = place_drive(table, 64 * MiB, 512, DRIVE, logicals_of(path, table))
    assert place_drive(table, 64 * MiB, 512, DRIVE) == replace(known, number=0)
    with pytest.raises(ConfigDriveCreate):
        place_drive(table, 15 * MiB + 4 * KiB, 512, DRIVE)
    assert place_drive(table, 15 * MiB + 4 * KiB, 512, DRIVE, logicals_of(path, table)).start == 14 * MiB


def test_four_primaries_leave_no_slot(tmp_path):
    path = mbr_image(tmp_path, FOUR_PRIMARIES.format(last="2048,83"))
    with pytest.raises(ConfigDriveCreate) as caught:
        place_drive(table_of(path), 64 * MiB, 512, DRIVE)
    assert caught.value.detail == "all four primary slots of the MBR are taken"


def test_container_that_is_not_last_leaves_no_slot(tmp_path):
    path = mbr_image(tmp_path, "2048,2048,83\n4096,4096,5\n8192,2048,83\n10240,2048,83\n")
    with pytest.raises(ConfigDriveCreate, match="extended partition 2 is not the last on the disk"):
        place_drive(table_of(path), 64 * MiB, 512, DRIVE)


def mbr_sector(*entries):
    sector = bytearray(510) + b"\x55\xaa"
    for index, (kind, start, count) in enumerate(entries):
        struct.pack_into("<B3sB3sII", sector, 446 + 16 * index, 0, b"abc", kind, b"def", start, count)
    return bytes(sector)


@pytest.mark.parametrize(("sector_size", "limit"), [(512, 2 * TiB), (4096, 16 * TiB)])
def test_mbr_drive_stays_below_what_32_bit_sectors_address(sector_size, limit):
    table = mbr.parse(mbr_sector((0x83, 2048, 2048)), sector_size)
    slot = place_drive(table, 20 * TiB, sector_size, DRIVE)
    assert slot.start + slot.size == limit - MiB
    done = finish_head(table.sector0, table, 20 * TiB, slot, unique_guid=GUID, drive_type="vfat")
    assert done.table.partitions[1].end == limit - MiB
    assert done.table.partitions[1].type == "0C"


def test_logical_on_a_disk_beyond_the_limit_extends_to_the_limit():
    table = mbr.parse(mbr_sector((0x83, 63, 1), (0x83, 64, 1), (0x83, 65, 1), (0x05, 2048, 2048)), 512)
    slot = place_drive(table, 3 * TiB, 512, DRIVE, ())
    done = finish_head(bytes(MiB), table, 3 * TiB, slot, unique_guid=GUID, drive_type="vfat")
    assert done.table.extended.end == (2**32 - 1) * 512
    assert [offset for offset, _ in done.other_writes] == [MiB]


def test_logicals_with_sectors_of_4096(tmp_path):
    first = mbr_sector((0x83, 10, 1), (0x83, 11, 1), (0x83, 12, 1), (0x05, 256, 1024))
    table = mbr.parse(first, 4096)
    disk = bytearray(64 * MiB)
    disk[:512] = first
    for _ in range(2):
        logicals = parse_logicals(lambda at, n: bytes(disk[at : at + n]), table.extended, 4096)
        slot = place_drive(table, 32 * MiB * (1 + len(logicals)), 4096, DRIVE, logicals)
        done = finish_head(
            bytes(disk[:MiB]),
            table,
            32 * MiB * (1 + len(logicals)),
            slot,
            unique_guid=GUID,
            drive_type="vfat",
            logicals=logicals,
        )
        assert all(len(data) == 4096 and offset % 4096 == 0 for offset, data in done.other_writes)
        for offset, data in (*done.other_writes, *done.tail_writes, (0, done.head)):
            disk[offset : offset + len(data)] = data
        table = mbr.parse(bytes(disk[:512]), 4096)
    logicals = parse_logicals(lambda at, n: bytes(disk[at : at + n]), table.extended, 4096)
    assert [(p.start, p.size) for p in logicals] == [(31 * MiB, MiB), (63 * MiB, MiB)]
    assert table.extended.end == 64 * MiB


def test_slot_that_is_taken_meanwhile_is_refused(tmp_path):
    table = table_of(mbr_image(tmp_path, "2048,2048,83\n"))
    slot = DriveSlot("new", 1, 8 * MiB, MiB, "primary")
    with pytest.raises(TableError, match="primary slot 1 is not free"):
        finish_head(bytes(MiB), table, 64 * MiB, slot, unique_guid=GUID, drive_type="vfat")


# -- stale copies --


def test_old_backup_is_gone_after_relocation(tmp_path):
    path = gpt_image(tmp_path)
    old = 16 * MiB - 33 * 512
    assert stale_backup(table_of(path), 16 * MiB, 64 * MiB) == ((old, 33 * 512),)
    disk, _ = deploy(path, 64 * MiB, DRIVE)
    assert disk.read_bytes().count(b"EFI PART") == 2


def test_backup_that_stays_in_place_is_not_stale(tmp_path):
    table = table_of(gpt_image(tmp_path))
    assert stale_backup(table, 16 * MiB, 16 * MiB) == ()
    # Two sectors more: only the first two of the old copy are not overwritten by the new one.
    assert stale_backup(table, 16 * MiB, 16 * MiB + 1024) == ((16 * MiB - 33 * 512, 1024),)


def test_only_what_the_image_has_and_no_partition_covers_is_stale(tmp_path):
    table = table_of(gpt_image(tmp_path))
    assert stale_backup(table, 16 * MiB - 512, 64 * MiB) == ((16 * MiB - 33 * 512, 32 * 512),)
    assert stale_backup(table, 15 * MiB, 64 * MiB) == ()
    inside_root = replace(table, alternate_lba=8 * MiB // 512 + 2)
    assert stale_backup(inside_root, 16 * MiB, 64 * MiB) == ((8 * MiB, 3 * 512),)
    for nonsense in (0, 1, 100, 2**64 - 1):
        assert stale_backup(replace(table, alternate_lba=nonsense), 16 * MiB, 64 * MiB) == ()


def test_ends_of_old_partitions_are_wiped(tmp_path):
    path = gpt_image(tmp_path, "-n3:20480:30719")
    assert stale_signature_ranges(table_of(path), 16 * MiB) == (
        (MiB, 2 * MiB),
        (7 * MiB, MiB),
        (10 * MiB, MiB),
        (14 * MiB, MiB),
        (16 * MiB - 33 * 512, 33 * 512),
    )


def test_wiping_stays_on_the_disk(tmp_path):
    table = table_of(gpt_image(tmp_path))
    assert stale_signature_ranges(table, 3 * MiB + 512) == ((MiB, 2 * MiB + 512),)
    assert stale_signature_ranges(table, MiB) == ()
    wild = gpt.relocate(table, 2**62)
    assert stale_signature_ranges(wild, 16 * MiB) == ((MiB, 2 * MiB), (7 * MiB, MiB))


def test_ends_of_old_logical_partitions_are_wiped(tmp_path):
    path = mbr_image(tmp_path, "2048,30720,5\n,8192,83\n")
    table = table_of(path)
    logicals = logicals_of(path, table)
    start = logicals[0].start
    ranges = stale_signature_ranges(table, 16 * MiB, logicals)
    assert ranges == ((MiB, start), (start + 3 * MiB, MiB), (15 * MiB, MiB))
