"""qcow2 images that contradict themselves, and the memory that the worst of them can take."""

import random
import struct
import tracemalloc

import pytest

from agent.errors import ImageDamaged, ImageMemory
from agent.formats.extent import Inflate
from agent.formats.qcow2.decoder import Qcow2Decoder, Qcow2Limits
from agent.units import GiB, KiB, MiB, TiB
from tests.kit import qcow2

CLUSTER = 64 * KiB


def entry(value):
    return struct.pack(">Q", value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1 << 63 | 3 * 512 + 256, "L2 entry 0"),
        (1 << 63 | 1 << 56 | 3072, "L2 entry 0"),
        (1 << 61 | 3072, "L2 entry 0"),
        (1 << 63 | 2, "L2 entry 0"),
        (1 << 63 | 1 << 40, "beyond the file"),
        (1 << 62 | 1 << 40, "outside the file"),
        (1 << 62 | 300, "overlaps the header"),
    ],
)
def test_an_impossible_l2_entry_is_damage(value, reason):
    image = qcow2.Builder().build({0: qcow2.Data(b"x"), 9: qcow2.Data(b"y")})
    table = image.l2_offsets[0]
    image.file[table : table + 8] = entry(value)
    with pytest.raises(ImageDamaged, match=reason):
        qcow2.decode(image.file)


def test_a_cluster_in_the_header_or_off_its_grid_is_damage():
    image = qcow2.Builder(cluster_bits=12, size=MiB).build({0: qcow2.Data(b"x"), 9: qcow2.Data(b"y")})
    table = image.l2_offsets[0]
    for value, reason in ((image.hosts[0] + 512, "no multiple"), (image.l1_offset, "overlaps the L1 table")):
        image.file[table : table + 8] = entry(value)
        with pytest.raises(ImageDamaged, match=reason):
            qcow2.decode(image.file)


def test_the_zero_flag_is_damage_in_version_2():
    image = qcow2.Builder(version=2).build({0: qcow2.Data(b"x")})
    image.file[image.l2_offsets[0] + 7] |= 1
    with pytest.raises(ImageDamaged, match="L2 entry 0"):
        qcow2.decode(image.file)


@pytest.mark.parametrize(("content", "used", "zero"), [(b"x", 7, 4), (None, 1, 0)])
def test_subclusters_that_contradict_themselves_are_damage(content, used, zero):
    builder = qcow2.Builder(cluster_bits=14, size=16384, extended=True)
    with pytest.raises(ImageDamaged, match="with the subclusters"):
        qcow2.decode(builder.build({0: qcow2.Subclusters(content, used, zero)}).file)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1 << 63 | 1, "L1 entry 0"),
        (1 << 63 | 1 << 60 | 1536, "L1 entry 0"),
        (1 << 63 | 1 << 40, "outside the file"),
        (1 << 63 | 4096 + 512, "L1 entry 0"),
    ],
)
def test_an_impossible_l1_entry_is_damage(value, reason):
    image = qcow2.Builder(cluster_bits=12, size=MiB).build({0: qcow2.Data(b"x")})
    image.file[image.l1_offset : image.l1_offset + 8] = entry(value)
    with pytest.raises(ImageDamaged, match=reason):
        qcow2.decode(image.file)


def test_a_table_inside_of_the_l1_table_is_damage():
    image = qcow2.Builder(size=256 * 512).build({0: qcow2.Data(b"x")})
    image.file[image.l1_offset : image.l1_offset + 8] = entry(image.l1_offset)
    with pytest.raises(ImageDamaged, match="overlaps the L1 table"):
        qcow2.decode(image.file)


def test_a_table_that_maps_itself_does_no_harm():
    image = qcow2.Builder().build({0: qcow2.Data(b"x")})
    table = image.l2_offsets[0]
    image.file[table + 8 : table + 16] = entry(table)
    done = qcow2.decode(image.file)
    assert done.guest[512:1024] == image.file[table : table + 512]


def test_more_runs_than_the_bound_are_refused():
    builder = qcow2.Builder(size=64 * 512)
    image = builder.build({n: qcow2.Data(bytes([n])) for n in range(0, 64, 2)})
    qcow2.decode(image.file, limits=Qcow2Limits(runs=64))
    with pytest.raises(ImageMemory) as caught:
        qcow2.decode(image.file, chunk=512, limits=Qcow2Limits(runs=40))
    assert "more than 40 runs" in caught.value.detail


# -- memory


def peak_of(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_worst_table_of_2_mib_clusters_stays_within_the_stated_memory():
    """262144 clusters, each a run of its own, in falling order, in a file that is never read to its end."""
    builder = qcow2.Builder(cluster_bits=21, size=512 * GiB)
    image = builder.build({0: qcow2.Data(b"")}, [("refcounts",), ("l1",), ("l2", 0), ("data", 0)])
    first, table = 1 << 40, image.l2_offsets[0]
    values = (first + (262144 - n) * 2 * 2**21 for n in range(262144))
    image.file[table : table + 2**21] = struct.pack(">262144Q", *values)

    def work():
        decoder = Qcow2Decoder(None, TiB, can_fetch=False)
        for start in range(0, table + 2**21, MiB):
            list(decoder.feed(memoryview(image.file)[start : start + MiB]))

    assert peak_of(work) < 32 * MiB


def on_one_spot(tables):
    """Every entry of every table names the same compressed cluster."""
    builder = qcow2.Builder(cluster_bits=16, size=tables * 512 * MiB)
    image = builder.build({0: qcow2.Packed(random.Random(0).randbytes(32 * KiB) * 2)})
    table, l1 = image.l2_offsets[0], image.l1_offset
    image.file[table : table + CLUSTER] = bytes(image.file[table : table + 8]) * 8192
    image.file[l1 : l1 + 8 * tables] = bytes(image.file[l1 : l1 + 8]) * tables
    image.file += bytes(CLUSTER)
    return image


@pytest.mark.parametrize("tables", [10, 100])
def test_more_clusters_on_one_spot_than_the_memory_holds_are_refused(tables):
    """A chunk's end cuts them all, and each waits by itself for the rest."""
    image = on_one_spot(tables)
    refused = []

    def work():
        decoder = Qcow2Decoder(len(image.file), tables * 512 * MiB, can_fetch=False)
        try:
            for _ in decoder.feed(memoryview(image.file)[: image.hosts[0] + 1000]):
                pass
        except ImageMemory as error:
            refused.append(error.detail)
        assert decoder.held > tables * 8192 * 64 or refused

    assert peak_of(work) < 36 * MiB
    assert refused == (
        [] if tables == 10 else [f"too many clusters lie on one spot, at byte {image.hosts[0]} of the file"]
    )


def test_clusters_on_one_spot_before_the_last_table_cost_no_more_than_one():
    """Not cut by anything, but noted as owners as long as a table is missing."""
    image = on_one_spot(100)
    # One table more, far behind.
    l1 = image.l1_offset
    image.file[l1 + 8 * 99 : l1 + 8 * 100] = struct.pack(">Q", 1 << 63 | 32 * MiB)

    def work():
        decoder = Qcow2Decoder(len(image.file) + 64 * MiB, TiB, can_fetch=False)
        count = sum(1 for extent in decoder.feed(memoryview(image.file)) if isinstance(extent, Inflate))
        assert count == 99 * 8192

    assert peak_of(work) < 16 * MiB


def test_many_compressed_clusters_on_one_spot_share_their_memory():
    """Every entry of a table names the same compressed cluster, which a chunk's end cuts in two."""
    builder = qcow2.Builder(cluster_bits=16, size=512 * MiB)
    image = builder.build({0: qcow2.Packed(random.Random(0).randbytes(32 * KiB) * 2)})
    table = image.l2_offsets[0]
    image.file[table : table + CLUSTER] = bytes(image.file[table : table + 8]) * 8192
    image.file += bytes(CLUSTER)

    def work():
        decoder = Qcow2Decoder(len(image.file), 512 * MiB, can_fetch=False)
        list(decoder.feed(memoryview(image.file)[: image.hosts[0] + 1000]))

    assert peak_of(work) < 4 * MiB
