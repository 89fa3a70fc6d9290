"""Which images can become a mirror, and what their tables are then."""

import itertools
import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.tables import gpt, mbr, mirror
from agent.formats.tables.gpt import renewed
from agent.formats.tables.layout import finish_head, place_drive
from agent.formats.tables.mbr import Mbr
from agent.formats.tables.md import member_layout
from agent.formats.tables.mirror import (
    HEAD_BYTES,
    RAID_TYPE_GUID,
    layout_fault,
    room_fault,
    root_end,
    root_fault,
    root_of,
    widened,
)
from agent.formats.tables.partition import TableError
from agent.formats.tables.read import read_table
from agent.units import GiB, KiB, MiB
from tests.kit.tables import BIOS_BOOT, CLOUD, ESP, LINUX, empty_gpt, gpt_of

HOME = "933AC7E1-2EB4-4F13-B844-0E14E2AEF915"
XBOOTLDR = "BC13C2FF-59E6-4262-A352-B275FD6F7172"
SWAP = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
LUKS = "CA7D7CCB-63ED-4C53-861C-1742536059CC"
RAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"
ROOT_X86_64 = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
STRANGE = "01234567-89AB-4DEF-8123-456789ABCDEF"


def signed(*pieces):
    data = bytearray(HEAD_BYTES)
    for offset, piece in pieces:
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def ext(compat=0, incompat=0, ro_compat=0):
    return signed((1024 + 56, b"\x53\xef"), (1024 + 92, struct.pack("<III", compat, incompat, ro_compat)))


# -- by the table


@pytest.mark.parametrize(
    "slots",
    [
        CLOUD,
        [(ESP, MiB, 100 * MiB), (LINUX, 101 * MiB, GiB)],
        [(ESP, MiB, 100 * MiB), (ROOT_X86_64, 101 * MiB, GiB)],
        [(BIOS_BOOT, MiB, MiB), (LINUX, 2 * MiB, GiB)],
        [(LINUX, MiB, 64 * MiB, "config-2"), (ESP, 65 * MiB, 100 * MiB), (LINUX, 165 * MiB, GiB)],
        [(LINUX, MiB, GiB)],
    ],
)
def test_root_behind_esp_and_boot_partitions_can_be_a_mirror(slots):
    table = gpt_of(slots)
    assert layout_fault(table) is None
    assert root_of(table).size == GiB


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LINUX, "a Linux filesystem"),
        (ROOT_X86_64, "a Linux root"),
        (HOME, "a Linux /home"),
        (XBOOTLDR, "an extended boot partition (/boot)"),
        (SWAP, "swap"),
        (LVM, "an LVM volume"),
        (LUKS, "LUKS"),
        (RAID, "a member of a RAID"),
        (STRANGE, f"of the unknown type {STRANGE}"),
    ],
)
def test_what_may_not_be_beside_or_in_place_of_the_root_is_named(kind, name):
    beside = layout_fault(gpt_of([(ESP, MiB, MiB), (kind, 2 * MiB, MiB), (LINUX, 3 * MiB, GiB)]))
    assert beside == f"partition 2 is {name}, of which each disk would have a copy of its own"
    instead = layout_fault(gpt_of([(ESP, MiB, MiB), (kind, 2 * MiB, GiB)]))
    if "Linux filesystem" in name or "Linux root" in name:
        assert instead is None
    else:
        assert instead == f"partition 2 is the last one on the disk and no root, but {name}"


def test_every_fault_is_told_at_once():
    fault = layout_fault(gpt_of([(SWAP, MiB, MiB), (LINUX, 2 * MiB, GiB), (ESP, 2 * GiB, MiB)]))
    assert fault.split("; ") == [
        "partition 1 is swap, of which each disk would have a copy of its own",
        "partition 2 is a Linux filesystem, of which each disk would have a copy of its own",
        "partition 3 is the last one on the disk and no root, but an EFI system partition",
    ]


def test_a_config_drive_behind_the_root_keeps_it_from_growing():
    drive = (LINUX, 3 * GiB, 64 * MiB, "CONFIG-2")
    fault = layout_fault(gpt_of([*CLOUD, drive]))
    assert "partition 4 is the last one on the disk and no root, but a config drive" in fault


def test_a_config_drive_that_only_its_content_tells_may_be_beside_the_root():
    table = gpt_of([(LINUX, MiB, 64 * MiB), (LINUX, 65 * MiB, GiB)])
    assert "partition 1" in layout_fault(table)
    assert layout_fault(table, drive=table.partitions[0]) is None


def test_what_has_no_partitions_is_refused_with_its_reason():
    assert layout_fault(Mbr(512, bytes(510) + b"\x55\xaa")) == "its partition table is empty"
    assert layout_fault(None) == "it has no partition table"
    assert layout_fault(empty_gpt()) == "its partition table is empty"


def mbr_of(*parts: tuple[int, int, int]) -> Mbr:
    """An MBR of partitions (type, start and size in MiB), with boot code and a disk signature."""
    sector = bytearray(b"\xeb" * 440 + b"\1\2\3\4" + bytes(66) + b"\x55\xaa")
    for number, (kind, start, size) in enumerate(parts):
        place = 446 + 16 * number
        sector[place : place + 16] = struct.pack("<B3sB3sII", 0, b"", kind, b"", start * 2048, size * 2048)
    table = read_table(bytes(sector), 512)
    assert isinstance(table, Mbr)
    return table


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        (((0x83, 1, 100),), None),
        (((0xEF, 1, 32), (0x83, 33, 100)), None),
        (((0x83, 33, 100), (0xEF, 1, 32)), None),
        (((0x83, 1, 32), (0x83, 33, 100)), "partition 1 is a Linux filesystem"),
        (((0x83, 1, 100), (0x82, 101, 10)), "partition 2 is the last one on the disk and no root, but swap"),
        (((0xEF, 1, 32), (0x05, 33, 100)), "no root, but an extended partition"),
        (((0x8E, 1, 100),), "no root, but an LVM volume"),
        (((0x42, 1, 100),), "of the unknown type 42"),
    ],
)
def test_an_mbr_may_become_a_mirror_by_the_same_rules(parts, fault):
    found = layout_fault(mbr_of(*parts))
    assert found is None if fault is None else fault in found


def test_the_root_of_an_mbr_is_widened_to_a_mib_before_the_end_and_the_disk_gets_its_own_signature():
    table = mbr_of((0xEF, 1, 32), (0x83, 33, 100))
    end = root_end(table, GiB, None)
    assert end == GiB - MiB
    wide = mirror.renewed(widened(table, end))
    esp, root = wide.partitions
    assert (root.start, root.end, root.type) == (33 * MiB, end, "FD")
    assert esp == table.partitions[0]
    assert wide.sector0[440:444] != b"\1\2\3\4"
    assert wide.sector0[:440] + wide.sector0[444:446] == table.sector0[:440] + table.sector0[444:446]
    with pytest.raises(TableError, match="overlap"):
        mbr.resized(table, number=1, size=64 * MiB, kind=0xEF)


def test_the_root_of_an_mbr_ends_where_32_bits_do():
    table = mbr_of((0x83, 1, 100))
    end = root_end(table, 4096 * GiB, None)
    assert end == (2**32 - 1) * 512
    assert widened(table, end).partitions[0].end <= end


# -- by the root


@pytest.mark.parametrize(
    "head", [ext(), ext(compat=4), ext(compat=4, incompat=0x2C2, ro_compat=0x46B), signed((0, b"XFSB"))]
)
def test_filesystems_that_may_be_in_a_mirror(head):
    assert root_fault(head) is None


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (signed((0, b"LUKS\xba\xbe\0\2")), "encrypted (LUKS)"),
        (signed((4096, b"\xfc\x4e\x2b\xa9")), "a member of an array (md) already"),
        (signed((512, b"LABELONE"), (536, b"LVM2 001")), "an LVM volume"),
        (signed((64 * KiB + 64, b"_BHRfS_M")), "btrfs"),
        (signed((1024, b"\x10\x20\xf5\xf2")), "f2fs"),
        (signed((4086, b"SWAPSPACE2")), "swap"),
        (signed((3, b"NTFS    ")), "ntfs"),
        (signed(), "of a kind that is not known"),
        (b"", "of a kind that is not known"),
    ],
)
def test_what_cannot_be_in_a_mirror_is_named(head, found):
    assert root_fault(head).startswith(f"its root has to be ext4 or XFS, and is {found}")


@given(st.binary(max_size=5000))
def test_any_bytes_are_judged(head):
    assert root_fault(head) is None or root_fault(head).startswith("its root has to be")


# -- the table of a member


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_widened_root_ends_before_the_config_drive_and_nothing_else_changes(sector_size):
    table = gpt_of(CLOUD, sector_size=sector_size)
    before = table.partitions
    wide = widened(table, 5 * GiB + 3 * KiB)
    root, bios, esp = wide.partitions
    assert (root.number, root.start, root.end) == (1, 128 * MiB, 5 * GiB)
    assert (root.type, root.name) == (str(RAID_TYPE_GUID).upper(), "root")
    assert (bios, esp) == before[1:]
    assert wide.unique_guids == table.unique_guids


@pytest.mark.parametrize("end", [128 * MiB, 100 * MiB, 0])
def test_a_root_cannot_be_widened_to_before_its_start(end):
    with pytest.raises(TableError):
        widened(gpt_of(CLOUD), end)


def test_a_partition_cannot_grow_over_another_one_and_must_exist():
    table = gpt_of(CLOUD)
    with pytest.raises(TableError, match="partition 2 of 4194304 bytes would overlap"):
        gpt.resized(table, 2, size=4 * MiB, type_guid=RAID_TYPE_GUID)
    with pytest.raises(TableError, match="no partition 4"):
        gpt.resized(table, 4, size=4 * MiB, type_guid=RAID_TYPE_GUID)


def test_renewed_guids_are_all_others_and_nothing_else_changes():
    table = gpt_of(CLOUD)
    numbers = itertools.count(1000)
    new = renewed(table, lambda: uuid.UUID(int=next(numbers)))
    assert new.disk_guid == uuid.UUID(int=1000)
    assert new.unique_guids == {uuid.UUID(int=number) for number in (1001, 1002, 1003)}
    assert new.partitions == table.partitions
    assert next(numbers) == 1004


@given(
    start=st.integers(2048, 4096),
    sectors=st.integers(1, 200_000),
    spare=st.integers(0, 1200),
)
def test_there_is_room_just_where_the_widened_root_holds_all_of_the_old_one(start, sectors, spare):
    table = gpt_of([(LINUX, start * 512, sectors * 512)])
    root = root_of(table)
    end = root.end + spare * 512
    fault = room_fault(table, end)
    try:
        wide = root_of(widened(table, end))
        fits = member_layout(wide.size).data_bytes >= root.size
    except (TableError, ValueError):
        fits = False
    assert (fault is None) == fits
    if fault is not None:
        assert f"root of {root.size} bytes" in fault


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_finished_disk_has_root_and_config_drive_side_by_side(sector_size):
    disk = 6 * GiB
    table = gpt_of(CLOUD, disk_size=2 * GiB, sector_size=sector_size)
    head = bytearray(MiB)
    head[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, 2**22 - 1)
    head[510:512] = b"\x55\xaa"
    for offset, data in gpt.encode_primary(table):
        head[offset : offset + len(data)] = data
    slot = place_drive(table, disk, sector_size, 700 * KiB)
    wide = renewed(widened(table, slot.start), uuid.uuid4)
    done = finish_head(bytes(head), wide, disk, slot, unique_guid=uuid.uuid4(), drive_type="vfat")
    found = read_table(done.head, sector_size)
    root, drive = root_of(widened(table, slot.start)), found.partitions[-1]
    assert found.partitions[0] == root
    assert (root.end, drive.start, drive.name) == (slot.start, slot.start, "config-2")
