import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.tables import mbr
from agent.formats.tables.mbr import parse_logicals
from agent.formats.tables.partition import Partition, TableError
from agent.formats.tables.read import read_table
from agent.units import GiB, MiB


def sector(*entries, size=512):
    """An MBR or EBR with boot code, a signature of the disk, and (flag, type, start, count) entries."""
    data = bytearray(b"\xf4" * 440 + b"disk\0\0" + bytes(64) + b"\x55\xaa" + bytes(size - 512))
    for index, (flag, kind, start, count) in enumerate(entries):
        struct.pack_into("<B3sB3sII", data, 446 + 16 * index, flag, b"abc", kind, b"def", start, count)
    return bytes(data)


def reader(disk):
    return lambda offset, length: disk[offset : offset + length]


def logicals_of(disk, sector_size=512):
    table = mbr.parse(disk[:512], sector_size)
    return table, parse_logicals(reader(disk), table.extended, sector_size)


def test_sector_size_scales_the_places():
    table = mbr.parse(sector((0, 0x83, 256, 256)), 4096)
    assert [(p.start, p.size) for p in table.partitions] == [(MiB, MiB)]


@pytest.mark.parametrize(
    "entries",
    [
        (),
        ((0x01, 0x83, 2048, 100),),
        ((0x80, 0x83, 2048, 100), (0x55, 0, 0, 0)),
        ((0, 0x83, 0, 100),),
        ((0, 0x83, 2048, 0),),
        ((0, 0x83, 2048, 100), (0, 0x83, 2147, 100)),
        ((0, 0x05, 2048, 1000), (0, 0x83, 2100, 100)),
        ((0, 0x83, 2**32 - 1, 2),),
    ],
)
def test_insane_entries_are_no_table(entries):
    assert mbr.parse(sector(*entries), 512) is None
    assert read_table(sector(*entries), None) is None


def test_no_signature_is_no_table():
    good = sector((0, 0x83, 2048, 100))
    assert mbr.parse(good, 512) is not None
    assert mbr.parse(good[:510] + b"\x55\x55", 512) is None
    assert mbr.parse(good[:511], 512) is None


def test_protective_entry_without_a_gpt_is_damage():
    with pytest.raises(TableError, match="no EFI PART signature at byte 512 or 4096"):
        read_table(sector((0, 0xEE, 1, 2**32 - 1)) + bytes(8192), None)


CONTAINER = Partition(2, MiB, 20 * MiB, "05", is_extended=True)
LINK = 0x05


def chain(*ebrs):
    """A reader over EBRs given as (LBA, entries...); the container has LBA 2048 to 43007."""
    disk = bytearray(24 * MiB)
    for lba, *entries in ebrs:
        disk[lba * 512 : lba * 512 + 512] = sector(*entries)
    return reader(bytes(disk))


def test_first_ebr_without_a_partition_leads_to_the_next():
    read = chain((2048, (0, 0, 0, 0), (0, LINK, 4096, 2048)), (6144, (0, 0x83, 1, 100)))
    (logical,) = parse_logicals(read, CONTAINER, 512)
    assert (logical.number, logical.start, logical.ebr) == (5, 6145 * 512, 6144 * 512)


BAD_CHAINS = {
    "to itself": [(2048, (0, 0x83, 1, 10), (0, LINK, 0, 100))],
    "back": [(2048, (0, 0x83, 1, 10), (0, LINK, 4096, 9)), (6144, (0, 0x83, 1, 10), (0, LINK, 0, 9))],
    "out of the container": [(2048, (0, 0x83, 1, 10), (0, LINK, 40960, 9))],
    "far out": [(2048, (0, 0x83, 1, 10), (0, LINK, 2**32 - 1, 9))],
    "to no EBR": [(2048, (0, 0x83, 1, 10), (0, LINK, 100, 9))],
    "two links": [(2048, (0, LINK, 100, 9), (0, LINK, 200, 9))],
    "two partitions": [(2048, (0, 0x83, 1, 10), (0, 0x83, 20, 10))],
    "partition on the EBR": [(2048, (0, 0x83, 0, 10))],
    "partition out of the container": [(2048, (0, 0x83, 1, 40960))],
    "overlapping": [(2048, (0, 0x83, 1, 5000), (0, LINK, 4096, 9)), (6144, (0, 0x83, 1, 10))],
    "same partition twice": [
        (2048, (0, 0x83, 5000, 10), (0, LINK, 1000, 9)),
        (3048, (0, 0x83, 4000, 10)),
    ],
}


@pytest.mark.parametrize("kind", BAD_CHAINS)
def test_hostile_chain_is_refused(kind):
    with pytest.raises(TableError):
        parse_logicals(chain(*BAD_CHAINS[kind]), CONTAINER, 512)


def test_endless_chain_ends():
    links = [(2048 + 2 * i, (0, 0x83, 1, 1), (0, LINK, 2 * i + 2, 2)) for i in range(1000)]
    with pytest.raises(TableError, match="more than 128 links"):
        parse_logicals(chain(*links), CONTAINER, 512)


def test_unreadable_ebr_is_refused():
    with pytest.raises(TableError, match="cannot be read"):
        parse_logicals(lambda offset, length: b"", CONTAINER, 512)


def test_added_primary_keeps_everything_else():
    old = sector((0x80, 0x83, 2048, 2048), (0, 0, 0, 0), (0, 0x07, 8192, 10))
    table = mbr.parse(old, 512)
    new = mbr.add_primary(table, number=2, start=8 * MiB, size=MiB, kind=0x0C)
    assert new.sector0[:462] == old[:462]
    assert new.sector0[478:] == old[478:]
    assert (new.partitions[1].start, new.partitions[1].size, new.partitions[1].type) == (8 * MiB, MiB, "0C")
    assert new.sector0[462:478] == struct.pack(
        "<B3sB3sII", 0, b"\xfe\xff\xff", 0x0C, b"\xfe\xff\xff", 16384, 2048
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": 1},
        {"number": 5},
        {"number": 0},
        {"start": MiB},
        {"start": 8 * MiB + 1},
        {"size": 0},
        {"size": 100},
        {"start": (2**32 - 2048) * 512},
    ],
)
def test_primary_that_cannot_be_added_is_refused(wrong):
    table = mbr.parse(sector((0x80, 0x83, 2048, 2048)), 512)
    with pytest.raises(TableError):
        mbr.add_primary(table, **({"number": 2, "start": 8 * MiB, "size": MiB, "kind": 0x83} | wrong))


def test_last_addressable_sectors_can_be_used():
    table = mbr.parse(sector((0x80, 0x83, 2048, 2048)), 512)
    start = (2**32 - 1 - 2048) * 512
    new = mbr.add_primary(table, number=2, start=start, size=MiB, kind=0x83)
    assert new.partitions[1].end == (2**32 - 1) * 512


def test_container_does_not_grow_when_it_is_long_enough():
    table = mbr.parse(sector((0, 0x83, 63, 10), (0, 0x0F, 2048, 40960)), 512)
    new, writes = mbr.add_logical(table, (), start=10 * MiB, size=MiB, kind=0x83, container_end=5 * MiB)
    assert new == table
    assert [offset for offset, _ in writes] == [MiB]


@pytest.mark.parametrize("kinds", [(0x83,), (0x05, 0x85)])
def test_logical_needs_exactly_one_container(kinds):
    table = mbr.parse(sector(*((0, kind, 2048 * (i + 1), 2048) for i, kind in enumerate(kinds))), 512)
    with pytest.raises(TableError, match="exactly one"):
        mbr.add_logical(table, (), start=4 * MiB, size=MiB, kind=0x83, container_end=8 * MiB)


def test_container_does_not_grow_over_what_lies_behind_it():
    table = mbr.parse(sector((0, 0x05, 2048, 2048), (0, 0x83, 8192, 100)), 512)
    with pytest.raises(TableError, match="behind the extended partition 1"):
        mbr.add_logical(table, (), start=8 * MiB, size=MiB, kind=0x83, container_end=16 * MiB)


def test_container_cannot_grow_beyond_32_bit_sectors():
    table = mbr.parse(sector((0, 0x05, 2048, 2048)), 512)
    with pytest.raises(TableError, match="an MBR addresses"):
        mbr.add_logical(table, (), start=8 * MiB, size=MiB, kind=0x83, container_end=4096 * GiB)


@pytest.mark.parametrize("start", [MiB, 5 * MiB, 5 * MiB + 512, 100 * MiB])
def test_logical_that_does_not_fit_is_refused(start):
    container = sector((0, 0x05, 2048, 2**17))
    disk = bytearray(container + bytes(2 * MiB))
    disk[MiB : MiB + 512] = sector((0, 0x83, 1, 8192))
    table, logicals = logicals_of(bytes(disk))
    with pytest.raises(TableError):
        mbr.add_logical(table, logicals, start=start, size=MiB, kind=0x83, container_end=0)


def test_link_goes_into_the_first_entry_where_the_partition_has_the_second():
    disk = bytearray(sector((0, 0x05, 2048, 2**17)) + bytes(2 * MiB))
    disk[MiB : MiB + 512] = sector((0, 0, 0, 0), (0, 0x83, 1, 100))
    table, logicals = logicals_of(bytes(disk))
    _, writes = mbr.add_logical(table, logicals, start=8 * MiB, size=MiB, kind=0x83, container_end=0)
    disk += bytes(8 * MiB)
    for offset, data in writes:
        disk[offset : offset + len(data)] = data
    assert [p.start for p in logicals_of(bytes(disk))[1]] == [MiB + 512, 8 * MiB]


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_chain_grown_link_by_link_reads_back(sector_size):
    lba = MiB // sector_size
    disk = bytearray(sector((0, 0x05, lba, lba), size=sector_size) + bytes(20 * MiB - sector_size))
    for number in range(5, 12):
        table, logicals = logicals_of(bytes(disk), sector_size)
        place = {"start": (number - 3) * MiB, "size": MiB // 2, "container_end": (number - 2) * MiB}
        table, writes = mbr.add_logical(table, logicals, kind=0x83, **place)
        for offset, data in (*writes, (0, table.sector0)):
            assert offset % sector_size == 0
            disk[offset : offset + len(data)] = data
    _, logicals = logicals_of(bytes(disk), sector_size)
    assert [p.number for p in logicals] == list(range(5, 12))
    assert [p.start for p in logicals] == [(number - 3) * MiB for number in range(5, 12)]
    assert disk[:440] == b"\xf4" * 440
    assert disk[440:444] == b"disk"


entry = st.tuples(
    st.sampled_from([0, 0, 0, 0x80, 0x7F]),
    st.sampled_from([0, 0x05, 0x0F, 0x83, 0x85]),
    st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1)),
)


@given(st.lists(st.lists(entry, max_size=4), max_size=40))
def test_random_chains_give_disjoint_partitions_or_a_table_error(ebrs):
    disk = b"".join(sector(*entries) for entries in ebrs)
    container = Partition(1, 512, len(disk), "05", is_extended=True)
    with contextlib.suppress(TableError):
        logicals = parse_logicals(reader(disk), container, 512)
        assert all(512 < p.start < p.end <= container.end for p in logicals)
        assert all(a.end <= b.start or b.end <= a.start for a in logicals for b in logicals if a is not b)


@given(st.binary(max_size=1024), st.binary(min_size=66, max_size=66))
def test_random_sectors_give_a_sane_table_or_none(noise, table):
    for data in (noise, bytes(446) + table[:64] + b"\x55\xaa"):
        found = mbr.parse(data, 512)
        assert found is None or all(p.start > 0 and p.size > 0 for p in found.partitions)
