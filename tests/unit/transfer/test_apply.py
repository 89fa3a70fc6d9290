import gc
import random
import tracemalloc
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ImageDamaged
from agent.formats.extent import Copy, Fetch, ImageTooLarge, Inflate, Write, Zero
from agent.stages.held_ends import HeldEnds
from agent.transfer.apply import GROUP_BYTES, ZERO_BLOCK, Applier
from agent.transfer.batch import BATCH_BYTES, BATCH_WRITES
from agent.transfer.sink import SinkFailed
from agent.units import MiB
from tests.kit.fuzz import examples
from tests.kit.sinks import OneByOne

SIZE = 4 * 1024 * 1024
CLUSTER = 65536


class MemorySink(OneByOne):
    def __init__(self, fail_at=None):
        self.size, self.fail_at = SIZE, fail_at
        self.content = bytearray(b"\xa5" * SIZE)
        self.writes = []

    def write(self, offset, data):
        if self.fail_at is not None and offset <= self.fail_at < offset + len(data):
            raise OSError(5, "Input/output error", "/dev/x")
        self.writes.append((offset, len(data)))
        self.content[offset : offset + len(data)] = data

    def zero(self, offset, length):
        self.write(offset, bytes(length))

    def read(self, offset, length):
        return bytes(self.content[offset : offset + length])


def deflate(data, bits=-12):
    compressor = zlib.compressobj(wbits=bits)
    return compressor.compress(data) + compressor.flush()


def cluster(number):
    return (b"cluster %06d " % number) * (CLUSTER // 15) + b"x" * (CLUSTER % 15)


def apply(sink, *feeds):
    applier = Applier(sink)
    applier.begin(iter(iter(feed) for feed in feeds))
    try:
        return applier.run()
    finally:
        applier.close()


COMPRESS = {
    "deflate": deflate,
    "zlib": zlib.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
}


@pytest.mark.parametrize("codec", ["deflate", "zlib", "zstd"])
def test_compressed_clusters_come_out_as_they_went_in(codec):
    sink = MemorySink()
    # Bytes of the next cluster may follow in the same sectors.
    extents = [
        Inflate(n * CLUSTER, CLUSTER, memoryview(COMPRESS[codec](cluster(n)) + b"\0\xffjunk"), codec, CLUSTER)
        for n in range(40)
    ]
    assert apply(sink, extents) is None
    assert sink.content[: 40 * CLUSTER] == b"".join(cluster(n) for n in range(40))
    assert sink.content[40 * CLUSTER :] == b"\xa5" * (SIZE - 40 * CLUSTER)


def zstd_frame(claimed, *runs):
    """A frame of repeated bytes that claims a content of so many bytes (RFC 8878, section 3.1.1)."""
    blocks = b"".join(
        (length << 3 | 1 << 1 | (at == len(runs) - 1)).to_bytes(3, "little") + b"A"
        for at, length in enumerate(runs)
    )
    # Single segment, content size in 8 bytes; or a window of 128 KiB and no content size.
    head = b"\xe0" + claimed.to_bytes(8, "little") if claimed is not None else b"\x00\x38"
    return b"\x28\xb5\x2f\xfd" + head + blocks


@pytest.mark.parametrize(
    ("claimed", "runs"),
    [
        (1 << 50, (CLUSTER,)),
        (4000 * 131072, (131072,) * 4000),
        (CLUSTER, (CLUSTER // 2,)),
        (9 << 20, (131072,) * 72),
    ],
    ids=["claims-a-petabyte", "inflates-to-500-mib", "less-than-claimed", "window-beyond-a-cluster"],
)
def test_a_zstd_frame_is_not_believed_what_it_claims(claimed, runs):
    sink = MemorySink()
    data = memoryview(zstd_frame(claimed, *runs))
    tracemalloc.start()
    try:
        with pytest.raises(ImageDamaged):
            apply(sink, [Inflate(0, CLUSTER, data, "zstd", CLUSTER)])
        assert tracemalloc.get_traced_memory()[1] < 4 * MiB
    finally:
        tracemalloc.stop()
    assert sink.writes == []


@pytest.mark.parametrize(
    "data",
    [
        zstd_frame(None, CLUSTER),
        zstd_frame(CLUSTER // 2, CLUSTER // 2) * 2,
        zstd_frame(None, CLUSTER - 9) + zstd_frame(9, 9),
        zstd_frame(0, 0) + zstd_frame(CLUSTER, CLUSTER),
        b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd_frame(CLUSTER, CLUSTER),
    ],
    ids=["no-size", "two-frames", "two-frames-no-size", "empty-frame-first", "skippable-frame-first"],
)
def test_a_zstd_cluster_may_be_more_than_one_frame(data):
    """As qemu reads it: frame after frame, until the cluster is full."""
    sink = MemorySink()
    apply(sink, [Inflate(0, CLUSTER, memoryview(data + b"\0\xffjunk"), "zstd", CLUSTER)])
    assert sink.content[:CLUSTER] == b"A" * CLUSTER
    assert sink.content[CLUSTER:] == b"\xa5" * (SIZE - CLUSTER)


@pytest.mark.parametrize("codec", ["deflate", "zlib", "zstd"])
@pytest.mark.parametrize("length", [CLUSTER, 512])
def test_a_cluster_that_inflates_to_more_than_one_is_damage(codec, length):
    data = COMPRESS[codec](cluster(1) + b"x")
    sink = MemorySink()
    with pytest.raises(ImageDamaged):
        apply(sink, [Inflate(0, length, memoryview(data), codec, CLUSTER)])
    assert sink.writes == []


@pytest.mark.parametrize("codec", ["deflate", "zlib"])
@pytest.mark.parametrize("length", [CLUSTER, 512])
def test_a_cluster_whose_stream_does_not_end_is_damage(codec, length):
    compressor = zlib.compressobj(wbits=15 if codec == "zlib" else -12)
    data = compressor.compress(cluster(1)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(ImageDamaged, match="does not end where it should"):
        apply(MemorySink(), [Inflate(0, length, memoryview(data), codec, CLUSTER)])


@pytest.mark.parametrize("cut", [1, 4])
@pytest.mark.parametrize("sized", [False, True])
def test_a_zstd_cluster_without_the_end_of_its_checksum_is_damage(sized, cut):
    compressor = zstandard.ZstdCompressor(write_content_size=sized, write_checksum=True)
    data = compressor.compress(cluster(1))
    for length in (CLUSTER, 512):
        apply(MemorySink(), [Inflate(0, length, memoryview(data + b"junk"), "zstd", CLUSTER)])
        with pytest.raises(ImageDamaged):
            apply(MemorySink(), [Inflate(0, length, memoryview(data[:-cut]), "zstd", CLUSTER)])
        changed = data[:-cut] + bytes([data[-cut] ^ 1]) + data[len(data) - cut + 1 :]
        with pytest.raises(ImageDamaged, match="checksum"):
            apply(MemorySink(), [Inflate(0, length, memoryview(changed), "zstd", CLUSTER)])


@pytest.mark.parametrize("seed", range(3))
def test_neighbouring_clusters_are_written_together(seed):
    """Whatever their order in the file: the threads of `qemu-img convert -W` overtake each other."""
    sink, groups = MemorySink(), (range(16), range(16, 32))
    apply(
        sink,
        [
            Inflate(n * CLUSTER, CLUSTER, memoryview(deflate(cluster(n))), "deflate", CLUSTER)
            for group in groups
            for n in random.Random(seed).sample(group, len(group))
        ],
    )
    assert sorted(sink.writes) == [(0, 16 * CLUSTER), (16 * CLUSTER, 16 * CLUSTER)]


def test_clusters_in_no_order_are_handed_over_in_groups_and_each_is_written_where_it_belongs(monkeypatch):
    """`qemu-img convert -W` writes them so."""
    handed_over = []
    submit = ThreadPoolExecutor.submit

    def counted(pool, work, group):
        handed_over.append(len(group))
        return submit(pool, work, group)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    sink, order = MemorySink(), random.Random(5).sample(range(SIZE // CLUSTER), SIZE // CLUSTER)
    apply(
        sink,
        [Inflate(n * CLUSTER, CLUSTER, memoryview(deflate(cluster(n))), "deflate", CLUSTER) for n in order],
    )
    assert sink.content == b"".join(map(cluster, range(SIZE // CLUSTER)))
    assert handed_over == [GROUP_BYTES // CLUSTER] * (SIZE // GROUP_BYTES)


@pytest.mark.parametrize("codec", ["deflate", "zlib", "zstd"])
def test_the_last_cluster_may_be_cut_off_by_the_end_of_the_disk(codec):
    sink = MemorySink()
    before = Inflate(SIZE - CLUSTER - 512, CLUSTER, memoryview(COMPRESS[codec](cluster(6))), codec, CLUSTER)
    last = Inflate(SIZE - 512, 512, memoryview(COMPRESS[codec](cluster(7))), codec, CLUSTER)
    apply(sink, [before, last])
    assert sink.content[-CLUSTER - 512 :] == cluster(6) + cluster(7)[:512]


@pytest.mark.parametrize(("codec", "allowed"), [("deflate", False), ("zlib", True), ("zstd", False)])
def test_only_where_a_checksum_says_that_it_is_whole_may_a_last_cluster_be_stored_short(codec, allowed):
    """As qemu reads the last grain of a VMDK; a cluster of qcow2 has to be full for it."""
    sink = MemorySink()
    for stored in (512, 700):
        data = memoryview(COMPRESS[codec](cluster(7)[:stored]))
        extents = [Inflate(SIZE - 512, 512, data, codec, CLUSTER)]
        if allowed:
            apply(sink, extents)
            assert sink.content[-512:] == cluster(7)[:512]
        else:
            with pytest.raises(ImageDamaged):
                apply(sink, extents)
    with pytest.raises(ImageDamaged, match="expected"):
        apply(sink, [Inflate(SIZE - 512, 512, memoryview(COMPRESS[codec](b"x" * 511)), codec, CLUSTER)])


def test_writes_zeros_and_copies_keep_their_order():
    sink = MemorySink()
    data = memoryview(b"d" * 3000)
    apply(sink, [Write(100, data), Copy(100, 1_000_000, 3000)], [Zero(100, 3000)])
    assert sink.content[1_000_000:1_003_000] == data
    assert not any(sink.content[100:3100])


def test_a_copy_sees_what_was_inflated_before_it():
    sink = MemorySink()
    apply(
        sink,
        [Inflate(0, CLUSTER, memoryview(deflate(cluster(1))), "deflate", CLUSTER), Copy(0, CLUSTER, CLUSTER)],
    )
    assert sink.content[CLUSTER : 2 * CLUSTER] == cluster(1)


def test_a_fetch_comes_out_and_what_follows_waits_for_its_bytes():
    sink = MemorySink()

    def feed():
        fetch = Fetch(512, 4)
        yield fetch
        yield Write(0, memoryview(fetch.data))

    applier = Applier(sink)
    applier.begin(iter([feed()]))
    fetch = applier.run()
    assert (fetch.offset, fetch.length) == (512, 4)
    fetch.data = b"late"
    assert applier.run() is None
    applier.close()
    assert sink.content[:4] == b"late"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 100, deflate(b"too short"), deflate(cluster(0))[:-100]],
    ids=["empty", "junk", "short", "cut"],
)
def test_a_damaged_cluster_is_the_images_fault(data):
    with pytest.raises(ImageDamaged):
        apply(MemorySink(), [Inflate(0, CLUSTER, memoryview(data), "deflate", CLUSTER)])


def test_the_checksum_of_a_zlib_cluster_is_compared():
    data = bytearray(zlib.compress(cluster(1)))
    data[-1] ^= 1
    with pytest.raises(ImageDamaged):
        apply(MemorySink(), [Inflate(0, CLUSTER, memoryview(data), "zlib", CLUSTER)])


def test_a_damaged_zstd_cluster_is_the_images_fault():
    with pytest.raises(ImageDamaged):
        apply(
            MemorySink(),
            [Inflate(0, CLUSTER, memoryview(b"\x28\xb5\x2f\xfd" + b"\xff" * 50), "zstd", CLUSTER)],
        )


def test_a_write_that_fails_in_a_thread_is_the_sinks_fault():
    extents = [
        Inflate(n * CLUSTER, CLUSTER, memoryview(deflate(cluster(n))), "deflate", CLUSTER) for n in range(40)
    ]
    with pytest.raises(SinkFailed, match="Input/output error"):
        apply(MemorySink(fail_at=20 * CLUSTER), extents)


@pytest.mark.parametrize(
    "extent",
    [
        Write(SIZE - 1, memoryview(b"ab")),
        Zero(0, SIZE + 1),
        Inflate(SIZE, CLUSTER, memoryview(b"x"), "deflate", CLUSTER),
        Copy(0, SIZE, 1),
    ],
)
def test_an_extent_beyond_the_sink_is_refused(extent):
    with pytest.raises(ImageTooLarge):
        apply(MemorySink(), [extent])


def test_held_ends_read_back_what_was_written_anywhere():
    inner = MemorySink()
    held = HeldEnds(inner, 1000, 1000)
    data = bytes(range(256)) * (SIZE // 256)
    held.write(0, memoryview(data))
    assert held.read(0, SIZE) == data
    assert held.read(990, 20) == data[990:1010]
    assert held.read(SIZE - 1010, 1010) == data[-1010:]


class ZeroingSink(MemorySink):
    def __init__(self):
        super().__init__()
        self.zeros = []

    def zero(self, offset, length):
        self.zeros.append((offset, length))
        self.content[offset : offset + length] = bytes(length)


@pytest.mark.parametrize("shift", [0, 1, 512, ZERO_BLOCK - 1])
def test_whole_blocks_of_zeros_are_zeroed_by_command(shift):
    sink = ZeroingSink()
    # Zeros from the middle of block 1 up to the middle of block 6, and all of block 9.
    data = bytearray(b"\x5a" * (12 * ZERO_BLOCK))
    for start, end in ((ZERO_BLOCK * 3 // 2, ZERO_BLOCK * 13 // 2), (9 * ZERO_BLOCK, 10 * ZERO_BLOCK)):
        data[start:end] = bytes(end - start)
    apply(sink, [Write(shift, memoryview(data[shift:]))])
    assert sink.zeros == [(2 * ZERO_BLOCK, 4 * ZERO_BLOCK), (9 * ZERO_BLOCK, ZERO_BLOCK)]
    assert [offset for offset, _ in sink.writes] == [shift, 6 * ZERO_BLOCK, 10 * ZERO_BLOCK]
    assert sink.content[shift : len(data)] == data[shift:]
    assert sink.content[:shift] + sink.content[len(data) :] == b"\xa5" * (SIZE - len(data) + shift)


@pytest.mark.parametrize("at", [0, 1, ZERO_BLOCK // 2, ZERO_BLOCK // 2 + 1, ZERO_BLOCK - 1])
def test_a_block_with_one_byte_in_it_is_written(at):
    sink = ZeroingSink()
    data = bytearray(ZERO_BLOCK)
    data[at] = 1
    apply(sink, [Write(ZERO_BLOCK, memoryview(data))])
    assert (sink.writes, sink.zeros) == ([(ZERO_BLOCK, ZERO_BLOCK)], [])
    assert sink.content[ZERO_BLOCK : 2 * ZERO_BLOCK] == data


@given(
    offset=st.integers(0, 3 * ZERO_BLOCK),
    runs=st.lists(st.tuples(st.integers(1, 2 * ZERO_BLOCK), st.sampled_from([b"\0", b"\1"])), max_size=6),
)
@settings(max_examples=examples(60))
def test_what_is_written_reads_back_whatever_its_zeros(offset, runs):
    sink = ZeroingSink()
    data = b"".join(value * length for length, value in runs)[: SIZE - offset]
    apply(sink, [Write(offset, memoryview(data))])
    assert sink.content[offset : offset + len(data)] == data
    assert sink.content[:offset] + sink.content[offset + len(data) :] == b"\xa5" * (SIZE - len(data))


@pytest.mark.parametrize("clusters", [1, 40], ids=["at the end", "while more come"])
def test_a_failure_keeps_nothing_alive(clusters):
    """A decoder hangs on the extents and on the sink: its memory must not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        sink = MemorySink(fail_at=0)
        gone = weakref.ref(sink)
        # So large that each is a group of its own.
        data = memoryview(deflate(bytes(GROUP_BYTES)))
        extents = [Inflate(n * CLUSTER, CLUSTER, data, "deflate", GROUP_BYTES) for n in range(clusters)]
        with pytest.raises(SinkFailed):
            apply(sink, extents)
        del sink, extents
        assert gone() is None
    finally:
        gc.enable()


class SlowStart(MemorySink):
    """Takes writes, and does them only when it is waited for, as a disk may."""

    def __init__(self, fail_at=None):
        super().__init__(fail_at)
        self.begun = []
        self.most = 0

    def start(self, writes):
        self.finish()
        self.begun = writes
        self.most = max(self.most, len(writes))

    def finish(self):
        begun, self.begun = self.begun, []
        super().start(begun)


pieces = st.tuples(
    st.just("write"), st.integers(0, 63), st.sampled_from([1, 1, 1, 3, 80]), st.integers(1, 255)
)
others = st.tuples(
    st.sampled_from(["zero", "copy"]), st.integers(0, 63), st.integers(1, 3), st.integers(0, 60)
)


@given(feeds=st.lists(st.lists(st.one_of(pieces, pieces, pieces, others), max_size=40), max_size=3))
@settings(max_examples=examples(60))
def test_extents_that_overlap_are_applied_as_if_one_by_one(feeds):
    sink, model = SlowStart(), bytearray(b"\xa5" * SIZE)
    extents = []
    for feed in feeds:
        extents.append([])
        for kind, at, count, value in feed:
            offset, length = at * 4096, count * 4096
            if kind == "write":
                extents[-1].append(Write(offset, memoryview(bytes([value]) * length)))
                model[offset : offset + length] = bytes([value]) * length
            elif kind == "zero":
                extents[-1].append(Zero(offset, length))
                model[offset : offset + length] = bytes(length)
            else:
                extents[-1].append(Copy(value * 4096, offset, length))
                model[offset : offset + length] = model[value * 4096 : value * 4096 + length]
    apply(sink, *extents)
    assert sink.content == model


def test_short_writes_reach_the_sink_many_at_a_time_and_bounded():
    sink = SlowStart()
    data = memoryview(bytes(range(256)) * 16)
    apply(sink, [Write(at * 4096, data) for at in range(1000)])
    assert sink.most == BATCH_WRITES
    sink = SlowStart()
    apply(sink, [Write(at * 65536, memoryview(bytes(65535) + b"x")) for at in range(64)])
    assert sink.most == BATCH_BYTES // 65536


@pytest.mark.parametrize("number", [0, 3, 255, 256, 299])
@pytest.mark.parametrize("sink", [MemorySink, SlowStart])
def test_of_many_writes_the_one_that_failed_is_named(sink, number):
    data = memoryview(b"x" * 4096)
    with pytest.raises(SinkFailed, match=f"at byte {number * 8192}: Input/output error"):
        apply(sink(fail_at=number * 8192), [Write(at * 8192, data) for at in range(300)])


@pytest.mark.parametrize("fault", [ImageDamaged(format="qcow2", reason="for the test"), MemoryError()])
def test_a_decoder_that_fails_finds_no_write_under_way(fault):
    def feed():
        for at in range(300):
            yield Write(at * 4096, memoryview(b"x" * 4096))
        raise fault

    sink = SlowStart()
    with pytest.raises(type(fault)):
        apply(sink, feed())
    assert sink.begun == []


def test_a_fetch_finds_no_write_under_way():
    sink, fetch = SlowStart(), Fetch(512, 4)
    applier = Applier(sink)
    applier.begin(iter([iter([Write(0, memoryview(b"x" * 4096)), fetch])]))
    assert applier.run() is fetch
    assert sink.begun == []
    assert sink.content[:4096] == b"x" * 4096
    applier.close()
