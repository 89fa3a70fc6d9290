"""What the decoder promises beside the bytes: the shape of extents, ways out when tables come late, bounds."""

import random
import struct

import pytest

from agent.errors import ImageChanged, ImageDamaged, ImageMemory
from agent.formats.extent import Write, Zero
from agent.formats.qcow2.decoder import Qcow2Decoder, Qcow2Limits
from agent.units import GiB, KiB, MiB
from tests.kit import qcow2

CLUSTER = 64 * KiB


def big_clusters(count, *, packed=()):
    """Guest clusters 0 to count - 1 of 64 KiB, none like another."""
    dice = random.Random(1)
    plain = {n: qcow2.Data(dice.randbytes(32) * 2048) for n in range(count) if n not in packed}
    return plain | {n: qcow2.Packed(dice.randbytes(16 * KiB) * 4) for n in packed}


def tables_last(builder, clusters):
    """The customary order with L1 and L2 behind everything else."""
    items = builder.items(clusters)
    tables = [item for item in items if item[0] in {"l1", "l2"}]
    return [item for item in items if item not in tables] + tables


@pytest.fixture(scope="module")
def late():
    """40 MiB of data, then the tables; a guest disk of 48 MiB."""
    builder = qcow2.Builder(cluster_bits=16, size=48 * MiB)
    clusters = big_clusters(640)
    return builder.build(clusters, tables_last(builder, clusters))


# -- the shape of extents


def test_a_contiguous_chunk_is_one_write_of_the_chunk_itself():
    image = qcow2.Builder(cluster_bits=16, size=32 * MiB).build(big_clusters(512))
    decoder = Qcow2Decoder(len(image.file), 32 * MiB, can_fetch=False)
    list(decoder.feed(memoryview(image.file)[: 3 * MiB]))
    chunk = memoryview(image.file)[3 * MiB : 4 * MiB]
    (extent,) = decoder.feed(chunk)
    assert isinstance(extent, Write)
    assert len(extent.data) == MiB
    assert extent.data.obj is chunk.obj


def test_zeros_are_merged_inside_a_table_and_across_missing_tables():
    builder = qcow2.Builder(cluster_bits=16, size=4 * GiB)
    clusters = {0: qcow2.Data(b"a"), 1: qcow2.ZeroFlag(), 2: qcow2.ZeroFlag(b"old"), 40000: qcow2.Data(b"b")}
    image = builder.build(clusters)
    decoder = Qcow2Decoder(len(image.file), 4 * GiB, can_fetch=False)
    extents = [*decoder.feed(memoryview(image.file)), *decoder.finish()]
    # Guest clusters 40000 and 8192 * n are where tables begin; 65536 is the end.
    zeros = [(e.offset // CLUSTER, e.length // CLUSTER) for e in extents if isinstance(e, Zero)]
    assert zeros == [(8192, 24576), (40960, 24576), (1, 8191), (32768, 7232), (40001, 959)]


def test_a_view_stays_valid_until_the_decoder_is_fed_again(late):
    decoder = Qcow2Decoder(
        len(late.file), 48 * MiB, can_fetch=False, limits=Qcow2Limits(early_bytes=64 * MiB)
    )
    extents = []
    for start in range(0, len(late.file), 4 * MiB):
        extents = list(decoder.feed(memoryview(late.file)[start : start + 4 * MiB]))
    guest = bytearray(48 * MiB)
    for extent in extents:
        data = extent.data if isinstance(extent, Write) else bytes(extent.length)
        guest[extent.offset : extent.offset + len(data)] = data
    assert guest == late.guest


def test_a_plain_image_gives_hardly_more_extents_than_it_has_chunks():
    image = qcow2.Builder(cluster_bits=16, size=64 * MiB).build(big_clusters(1024))
    decoder = Qcow2Decoder(len(image.file), 64 * MiB, can_fetch=False)
    extents = 0
    for start in range(0, len(image.file), MiB):
        extents += sum(1 for _ in decoder.feed(memoryview(image.file)[start : start + MiB]))
    assert extents <= 66


# -- several guest clusters on one host cluster


@pytest.mark.parametrize("chunk", [7, 511, 65536, 0])
def test_several_guest_clusters_on_one_host_cluster(chunk):
    builder = qcow2.Builder(size=200 * 512)
    clusters = {0: qcow2.Data(b"one"), 5: qcow2.Data(b"two")}
    clusters |= {n: qcow2.Share(n % 2 * 5) for n in (1, 2, 3, 9, 70, 71, 130, 199)}
    image = builder.build(clusters)
    assert qcow2.decode(image.file, chunk=chunk).guest == image.guest


@pytest.mark.parametrize("size", [256 * 512, 250 * 512])
def test_several_l1_entries_that_name_one_l2_table(size):
    builder = qcow2.Builder(size=size, shared_l2={1: 0, 3: 0})
    clusters = {n: qcow2.Data(bytes([n])) for n in (0, 3, 50, 63)} | {
        130: qcow2.Packed(b"p"),
        60: qcow2.ZeroFlag(),
    }
    image = builder.build(clusters)
    assert len(image.guest) == size
    for chunk in (7, 511, 0):
        assert qcow2.decode(image.file, chunk=chunk).guest == image.guest


@pytest.mark.parametrize("fetch", [None, True])
@pytest.mark.parametrize("kind", ["Data", "Packed"])
@pytest.mark.parametrize("early", [False, True], ids=["placed by the stream", "placed by a late table"])
def test_a_host_cluster_that_a_later_table_names_again_is_copied_from_its_first_place(fetch, kind, early):
    builder = qcow2.Builder(size=256 * 512)
    content = random.Random(1).randbytes(512) if kind == "Data" else b"packed"
    clusters = {n: getattr(qcow2, kind)(content[: -n or None]) for n in (1, 2)}
    clusters |= {64: qcow2.Share(2), 70: qcow2.Share(1), 71: qcow2.Share(2), 200: qcow2.Share(2)}
    data = [("data", n) for n in (1, 2)] if kind == "Data" else [("packed", (1, 2))]
    first = [*data, ("l2", 0)] if early else [("l2", 0), *data]
    order = [("refcounts",), ("l1",), *first, ("leak", 0), ("l2", 1), ("l2", 3)]
    image = builder.build(clusters, order)
    for chunk in (7, 100, 512, 0):
        done = qcow2.decode(image.file, chunk=chunk, fetch=fetch)
        assert (done.guest, done.fetched) == (image.guest, 0)
    assert "Copy" in qcow2.decode(image.file, chunk=512).extents


def test_a_run_is_copied_from_as_many_places_as_it_has_gone_to():
    """Host clusters one after the other, scattered by the first table, and together in the second."""
    builder = qcow2.Builder(size=128 * 512)
    clusters = {n: qcow2.Data(bytes([n + 1])) for n in range(0, 40, 2)}
    clusters |= {64 + n: qcow2.Share(2 * n) for n in range(20)}
    data = [("data", n) for n in sorted(range(0, 40, 2))]
    for order in ([("l2", 0), *data], [*data, ("l2", 0)]):
        image = builder.build(clusters, [("refcounts",), ("l1",), *order, ("leak", 0), ("l2", 1)])
        assert qcow2.decode(image.file, chunk=512).guest == image.guest


def test_the_short_last_cluster_of_a_disk_is_no_source_for_a_whole_one():
    """It was inflated as far as the disk reaches, and no further."""
    last = 1023
    builder = qcow2.Builder(cluster_bits=12, size=last * 4096 + 512)
    clusters = {last: qcow2.Packed(random.Random(3).randbytes(1500)), 0: qcow2.Share(last)}
    order = [("refcounts",), ("l1",), ("l2", 1), ("packed", (last,)), ("leak", 0), ("l2", 0)]
    image = builder.build(clusters, order)
    assert qcow2.decode(image.file, chunk=0).guest == image.guest
    with pytest.raises(ImageMemory, match="too big"):
        qcow2.decode(image.file, chunk=512, fetch=True)


def test_where_the_places_are_not_noted_any_more_a_second_mapping_is_refused():
    builder = qcow2.Builder(size=128 * 512)
    clusters = {n: qcow2.Data(bytes([n + 1])) for n in range(0, 40, 2)} | {64: qcow2.Share(38)}
    data = [("data", n) for n in range(0, 40, 2)]
    image = builder.build(clusters, [("refcounts",), ("l1",), ("l2", 0), *data, ("leak", 0), ("l2", 1)])
    assert qcow2.decode(image.file, chunk=512, limits=Qcow2Limits(places=20)).guest == image.guest
    with pytest.raises(ImageMemory) as caught:
        qcow2.decode(image.file, chunk=512, limits=Qcow2Limits(places=19))
    assert "had passed before a table named them" in caught.value.detail
    assert caught.value.hint


def test_a_table_that_had_passed_for_a_refcount_block_is_refused_rather_than_asked_for():
    """The refcount table lies. The server could answer anything."""
    builder = qcow2.Builder(size=64 * 512)
    order = [("refcounts",), ("leak", 0), ("l2", 0), ("data", 0), ("l1",)]
    image = builder.build({0: qcow2.Data(b"x")}, order)
    assert qcow2.decode(image.file, chunk=512, fetch=True).guest == image.guest
    struct.pack_into(">Q", image.file, 512, image.l2_offsets[0])
    for chunk in (512, 100):
        with pytest.raises(ImageMemory, match="too big") as caught:
            qcow2.decode(image.file, chunk=chunk, fetch=True)
        assert "had passed before a table named them" in caught.value.detail


# -- tables behind the data: the buffer, then range requests, then scratch, then the refusal


@pytest.mark.parametrize("chunk", [4096, 65536, MiB, 0])
def test_late_tables_within_the_bound_cost_nothing(late, chunk):
    done = qcow2.decode(late.file, chunk=chunk, fetch=True, limits=Qcow2Limits(early_bytes=48 * MiB))
    assert done.guest == late.guest
    assert done.fetched == 0
    assert done.decoder.used_scratch is None


@pytest.mark.parametrize("early", [64 * KiB, 16 * MiB])
def test_late_tables_are_fetched_once_too_much_waits(late, early):
    done = qcow2.decode(
        late.file, chunk=MiB, fetch=True, disk_size=256 * MiB, limits=Qcow2Limits(early_bytes=early)
    )
    assert done.guest == late.guest
    assert done.fetched == 8 + CLUSTER  # the L1 entry that is needed, and the L2 table
    assert done.decoder.used_scratch is None


@pytest.mark.parametrize("fetch", [None, "refused"])
def test_what_cannot_be_fetched_goes_through_the_free_tail_of_the_disk(late, fetch):
    driver = qcow2.Driver(
        late.file, fetch=fetch and True, disk_size=128 * MiB, limits=Qcow2Limits(early_bytes=4 * MiB)
    )
    driver.source = None
    done = driver.run(MiB)
    assert done.guest == late.guest
    offset, length = done.decoder.used_scratch
    assert offset == 48 * MiB
    assert 32 * MiB < length <= 40 * MiB
    assert "Copy" in done.extents
    # Neither behind the scratch nor in the last MiB is anything written.
    assert set(done.disk[offset + length :]) == {qcow2.DIRT}
    assert ("Fetch" in done.extents) == (fetch is not None)


def test_tables_and_compressed_clusters_come_back_from_scratch():
    """As after a resize: L1 is late, the L2 tables stand where they stood, and nothing can be fetched."""
    builder = qcow2.Builder(cluster_bits=16, size=12 * MiB)
    clusters = big_clusters(150, packed=range(20, 60))
    items = builder.items(clusters)
    image = builder.build(clusters, [item for item in items if item != ("l1",)] + [("l1",)])
    fields = {"disk_size": 64 * MiB, "limits": Qcow2Limits(early_bytes=MiB)}
    done = qcow2.decode(image.file, recall=True, **fields)
    assert done.guest == image.guest
    assert done.extents.count("Recall") > 30
    with pytest.raises(ImageMemory):
        qcow2.decode(image.file, recall=False, **fields)


def test_zeros_of_the_file_need_neither_memory_nor_scratch():
    builder = qcow2.Builder(cluster_bits=16, size=16 * MiB)
    clusters = {n: qcow2.Data(b"") for n in range(200)} | {200: qcow2.Data(b"end")}
    image = builder.build(clusters, tables_last(builder, clusters))
    done = qcow2.decode(image.file, limits=Qcow2Limits(early_bytes=MiB))
    assert done.guest == image.guest


@pytest.mark.parametrize(("disk_size", "left"), [(48 * MiB, 0), (49 * MiB, 0), (60 * MiB, 11 * MiB)])
def test_without_any_way_left_the_image_is_refused_for_memory(late, disk_size, left):
    with pytest.raises(ImageMemory, match=r"^Could not download, qcow2 image is too big") as caught:
        qcow2.decode(late.file, chunk=MiB, disk_size=disk_size)
    assert "16777216 bytes came before the table at 42" in caught.value.detail
    assert caught.value.hint
    if not left:
        assert "and 0 bytes of scratch" in caught.value.detail


@pytest.mark.parametrize("where", ["l1", "l2"])
@pytest.mark.parametrize("chunk", [65536, 100_000, MiB])
def test_a_table_that_differs_when_it_comes_again_is_a_changed_image(late, where, chunk):
    position = late.l1_offset + 7 if where == "l1" else late.l2_offsets[0] + 60000
    other = bytearray(late.file)
    other[position] ^= 0x10 if where == "l2" else 0
    fetched = bytearray(late.file)
    if where == "l1":
        # Both versions name a table: another one each.
        moved = late.l2_offsets[0]
        other += other[moved : moved + CLUSTER]
        fetched += fetched[moved : moved + CLUSTER]
        struct.pack_into(">Q", fetched, late.l1_offset, (len(fetched) - CLUSTER) | 1 << 63)
    with pytest.raises(ImageChanged) as caught:
        qcow2.decode(other, chunk=chunk, fetch=fetched, limits=Qcow2Limits(early_bytes=MiB))
    assert "differ when read twice" in caught.value.detail


def test_tables_fetched_before_the_source_gives_up_are_used():
    """Two groups of tables too far apart for one request: the second request is refused."""
    builder = qcow2.Builder(cluster_bits=12, size=8 * MiB)
    dice = random.Random(6)
    clusters = {n: qcow2.Data(dice.randbytes(4096)) for n in [*range(120), *range(512, 632)]}
    plain = [("data", n) for n in clusters]
    dice.shuffle(plain)
    tables = [("l2", 0), *(("leak", n) for n in range(80)), ("l2", 1)]
    image = builder.build(clusters, [("refcounts",), ("l1",), *plain, *tables])
    for allowed in range(3):
        driver = qcow2.Driver(
            image.file, fetch=True, disk_size=16 * MiB, recall=True, limits=Qcow2Limits(early_bytes=128 * KiB)
        )
        driver.answers = allowed
        assert driver.run(64 * KiB).guest == image.guest


def test_the_same_tables_twice_are_no_change_in_any_chunking(late):
    for chunk in (100, 4096, 65536, 100_000, MiB, 0):
        done = qcow2.decode(late.file[:], chunk=chunk, fetch=True, limits=Qcow2Limits(early_bytes=8 * MiB))
        assert done.guest == late.guest


def test_tables_that_stand_together_come_by_one_request():
    builder = qcow2.Builder(cluster_bits=12, size=64 * MiB)
    dice = random.Random(4)
    clusters = {n: qcow2.Data(dice.randbytes(4096)) for n in range(0, 16384, 40)}
    image = builder.build(clusters, tables_last(builder, clusters))
    done = qcow2.decode(image.file, chunk=65536, fetch=True, limits=Qcow2Limits(early_bytes=256 * KiB))
    assert done.guest == image.guest
    assert done.extents.count("Fetch") == 2
    assert done.fetched == 32 * 8 + 32 * 4096


def test_a_fetch_that_ends_too_early_is_damage(late):
    short = late.file[: late.l1_offset + 3]
    with pytest.raises(ImageDamaged, match="ends at byte"):
        qcow2.decode(late.file, fetch=short, known_size=False)


def test_a_table_that_could_be_fetched_and_never_comes_is_damage(late):
    driver = qcow2.Driver(late.file[: late.l1_offset], fetch=late.file, known_size=False)
    with pytest.raises(ImageDamaged, match="could be fetched"):
        driver.run(MiB)


def test_the_early_buffer_gives_back_what_found_its_place():
    """Each table comes behind its data, one after the other: more waits in sum than ever at once."""
    builder = qcow2.Builder(cluster_bits=12, size=16 * MiB)
    dice = random.Random(2)
    packed = set(range(5, 4096, 9))
    clusters = {n: qcow2.Data(dice.randbytes(4096)) for n in range(0, 4096, 3) if n not in packed}
    clusters |= {n: qcow2.Packed(dice.randbytes(1200) + bytes(2896)) for n in packed}
    order = [("refcounts",), ("l1",)]
    for table in range(8):
        mine = range(table * 512, table * 512 + 512)
        order += [("data", n) for n in mine if n in clusters and n not in packed]
        order += [("packed", tuple(n for n in mine if n in packed)), ("l2", table)]
    image = builder.build(clusters, order)
    for chunk in (4096, 65536):
        done = qcow2.decode(image.file, chunk=chunk, limits=Qcow2Limits(early_bytes=1500 * KiB))
        assert done.guest == image.guest
