"""What unpacks side by side gives the same as what unpacks in one thread: the bytes, and the fault behind them."""

import asyncio
import bz2
import functools
import gzip
import lzma
import random
import struct
import threading
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged
from agent.formats.chain import BLOCK_BYTES, Chained
from agent.formats.compressed import Decompressor
from agent.formats.extent import ImageTooLarge
from agent.formats.raw import RawDecoder
from agent.transfer.digest import Digest
from agent.transfer.meter import Meter
from agent.transfer.pipeline import copy
from agent.transfer.pool import BufferPool
from agent.transfer.sink import SinkFailed
from agent.transfer.source import TransferRestart
from agent.units import GiB, KiB, MiB
from tests.kit.fuzz import examples
from tests.kit.xz import xz_of_blocks
from tests.unit.formats.test_compressed import flipped, sample
from tests.unit.transfer.test_pipeline import MemorySource, SlowSink, comes_true

PAGE = 4096


def bgzip(data, step=5000):
    """As bgzip writes it: members that say how long they are, and an empty one at the end."""
    out = bytearray()
    for at in (*range(0, len(data), step), len(data)):
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        piece = data[at : at + step]
        body = deflate.compress(piece) + deflate.flush()
        out += b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        out += body + struct.pack("<II", zlib.crc32(piece), len(piece))
    return bytes(out)


def xz(data, step=100_000):
    return xz_of_blocks([data[at : at + step] for at in range(0, len(data), step)])


def zstd_frames(data, step=70_000):
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(compressor.compress(data[at : at + step]) for at in range(0, len(data), step))


MAKE = {
    "gzip": bgzip,
    "xz": xz,
    "zstd": zstd_frames,
    "bzip2": lambda data: bz2.compress(data, 1),
}


def outcome(kind, data, step, parts_memory=0, max_output=GiB):
    """What comes out, and the class of the fault behind it; in one thread, the parts cut and joined in turn."""
    decompressor = Decompressor(kind, max_output, parts_memory=parts_memory)
    parts = []

    def cuts():
        for at in range(0, len(data), step):
            buffer = bytearray(data[at : at + step])
            yield from list(decompressor.cut(memoryview(buffer)))
            buffer[:] = b"\xee" * len(buffer)
        yield from decompressor.cut_rest()

    def inflated():
        for cut in cuts():
            if isinstance(cut, bytes):
                yield cut, iter((cut,))
            else:
                parts.append(cut)
                yield cut, cut.inflate()

    out, fault = bytearray(), None
    try:
        for piece in decompressor.join(inflated()):
            out += piece
    except (DeployError, ImageTooLarge) as error:
        fault = type(error)
    return bytes(out), fault, len(parts), decompressor.notes


SAMPLE = sample(700_000, 3)
PACKED = {kind: make(SAMPLE) for kind, make in MAKE.items()}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("step", [1, 511, 65536, GiB])
def test_the_parts_of_a_file_are_the_file(kind, step):
    data = PACKED[kind] if step > 1 else MAKE[kind](SAMPLE[:120_000])
    expected = SAMPLE if step > 1 else SAMPLE[:120_000]
    out, fault, parts, _ = outcome(kind, data, step, GiB)
    assert (out, fault) == (expected, None)
    assert parts > (1 if step > 1 else 0)


@settings(max_examples=examples(60))
@given(
    st.sampled_from(sorted(MAKE)),
    st.binary(max_size=300),
    st.integers(1, 400),
    st.integers(1, 5000),
    st.sampled_from([0, 1, 7, 600, 30_000]),
    st.sampled_from([40 * MiB, GiB]),
)
def test_parts_give_the_same_under_every_chunking(kind, seed, times, step, more, memory):
    data = seed * times
    packed = (
        zstd_frames(data, 10_000)
        if kind == "zstd"
        else bgzip(data)
        if kind == "gzip"
        else lzma.compress(data)
        if kind == "xz"
        else bz2.compress(data, 1)
    )
    packed += {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.compress, "bzip2": bz2.compress}[
        kind
    ](random.Random(more).randbytes(more))
    assert outcome(kind, packed, step, memory)[0::3] == outcome(kind, packed, step)[0::3]
    assert outcome(kind, packed, step, memory)[1] is None


@settings(max_examples=examples(200))
@given(
    st.sampled_from(sorted(MAKE)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=0, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from([333, 70_000]),
)
def test_damaged_files_fail_alike(kind, changes, cut, step):
    packed = bytearray(PACKED[kind])
    for at, value in changes:
        packed[at % len(packed)] = value
    del packed[len(packed) - cut % (len(packed) if cut % 3 else 1) :]
    serial, fault, _, notes = outcome(kind, bytes(packed), step)
    out, found, _, found_notes = outcome(kind, bytes(packed), step, GiB)
    if len(changes) + bool(cut) > 1:
        # Each may come upon another one first: the head of a part is read before what is in front of it inflates.
        assert (found is None) == (fault is None)
    else:
        assert found is fault
    if fault is None:
        assert (out, found_notes) == (serial, notes)


@pytest.mark.parametrize("told", [0, 1, 17, 300, 65_535])
def test_a_member_of_bgzip_that_tells_a_wrong_length_is_damaged_in_one_thread_too(told):
    packed = bytearray(PACKED["gzip"])
    packed[16:18] = told.to_bytes(2, "little")
    alike = {outcome("gzip", bytes(packed), 5000, memory)[1] for memory in (0, GiB)}
    # Told to be shorter than its header, a member is one of plain gzip.
    assert alike == ({None} if told < 25 else {ImageDamaged})


# -- hostile files


def with_mark_within(data, mark=0x314159265359, times=1):
    """A bzip2 file of one block, among whose selectors are the bits that a block begins with.

    More selectors than are used are allowed. Each is a number in ones with a zero behind it: the mark is read as one.
    """
    packed = bz2.compress(data, 1)
    bits = bin(int.from_bytes(b"\1" + packed, "big"))[3:]
    at = 32 + 48 + 32 + 1 + 24  # header, mark, checksum, randomised, pointer
    used = bits[at : at + 16]
    at += 16 + 16 * used.count("1")
    groups, count = int(bits[at : at + 3], 2), int(bits[at + 3 : at + 18], 2)
    assert groups > 2, "a selector of the mark would name a table that is not there"
    first = end = at + 18
    for _ in range(count):
        end = bits.index("0", end) + 1
    extra = f"{mark:048b}0" * times
    more = f"{count + extra.count('0'):015b}"
    body = bits[: at + 3] + more + bits[first:end] + extra + bits[end:]
    body = body[: body.rindex(f"{0x177245385090:048b}") + 80]
    body += "0" * (-len(body) % 8)
    return int(body, 2).to_bytes(len(body) // 8, "big")


@pytest.mark.parametrize("step", [1000, GiB])
@pytest.mark.parametrize("mark", [0x314159265359, 0x177245385090])
@pytest.mark.parametrize("times", [1, 3])
def test_a_mark_of_bzip2_within_a_block_is_no_end_of_it(mark, times, step):
    data = random.Random(5).randbytes(60_000)
    strange = with_mark_within(data, mark, times)
    assert bz2.decompress(strange) == data
    packed = bz2.compress(b"before") + strange + bz2.compress(data * 2, 1) + strange
    expected = (b"before" + data + data * 2 + data, None)
    out, fault, parts, _ = outcome("bzip2", packed, step, GiB)
    assert (out, fault) == expected
    assert parts > 8


def test_bzip2_without_a_mark_for_long_is_damaged():
    packed = bz2.compress(b"content")[:30] + bytes(4 * MiB)
    assert outcome("bzip2", packed, MiB, GiB)[1] is ImageDamaged


@pytest.mark.parametrize("level", [b"0", b"1", b":"])
def test_the_level_of_a_bzip2_stream_counts(level):
    """A block that is longer than its stream allows is damaged, although the library would take it alone."""
    packed = bytearray(bz2.compress(random.Random(1).randbytes(300_000), 9))
    packed[3:4] = level
    assert (
        outcome("bzip2", bytes(packed), GiB)[1]
        is outcome("bzip2", bytes(packed), GiB, GiB)[1]
        is ImageDamaged
    )


@pytest.mark.parametrize("sized", [True, False])
def test_xz_blocks_that_say_nothing_of_their_length_are_inflated_in_their_turn(sized):
    out, fault, parts, _ = outcome(
        "xz", xz_of_blocks([SAMPLE[:5000], b"", SAMPLE[5000:]], sized=sized), 999, GiB
    )
    assert (out, fault, parts) == (SAMPLE, None, 3 if sized else 0)


def test_xz_blocks_that_are_longer_than_they_say_are_damaged():
    whole = xz_of_blocks([bytes(300_000)] * 2)
    # In the header of the first block: its sizes, of two and three bytes. With its checksum, as a liar would have it.
    length = (whole[12] + 1) * 4
    for at in range(14, 19):
        header = bytearray(whole[12 : 12 + length - 4])
        header[at - 12] ^= 1
        liar = whole[:12] + header + struct.pack("<I", zlib.crc32(header)) + whole[12 + length :]
        for memory in (0, GiB):
            assert outcome("xz", liar, 777, memory)[1] is ImageDamaged


def test_an_index_that_tells_of_other_blocks_is_damaged():
    one, two = xz_of_blocks([b"a" * 1000, b"b" * 900]), xz_of_blocks([b"a" * 900, b"b" * 1000])
    index = one.rindex(b"\0\2", 0, -12)
    for memory in (0, GiB):
        assert outcome("xz", one[:index] + two[two.rindex(b"\0\2", 0, -12) :], GiB, memory)[1] is ImageDamaged


def test_a_frame_that_says_less_than_it_has_is_damaged():
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=False).compress(bytes(100_000)))
    size = frame.index(struct.pack("<I", 100_000), 4)
    for claim in (0, 99_999, 2**31):
        frame[size : size + 4] = struct.pack("<I", claim)
        for memory in (0, GiB):
            assert outcome("zstd", bytes(frame), GiB, memory)[1] is not None


def test_a_frame_that_goes_on_becomes_no_part():
    packed = zstandard.ZstdCompressor().compressobj()  # does not say how much it has
    data = sample(3 * MiB)
    frame = packed.compress(data) + packed.flush()
    out, fault, parts, _ = outcome("zstd", frame + frame, 65536, 8 * MiB)
    assert (out, fault, parts) == (data * 2, None, 0)


def test_a_member_of_bgzip_that_lies_about_its_length_is_damaged():
    packed = bytearray(bgzip(SAMPLE[:20_000]))
    for change in (-1, 1, 200):
        liar = packed[:]
        liar[16:18] = struct.pack("<H", int.from_bytes(packed[16:18], "little") + change)
        assert outcome("gzip", bytes(liar), GiB, GiB)[1] is ImageDamaged


@pytest.mark.parametrize("kind", MAKE)
def test_the_bound_of_what_comes_out_holds_for_parts(kind):
    assert outcome(kind, PACKED[kind], 5000, GiB, len(SAMPLE))[:2] == (SAMPLE, None)
    assert outcome(kind, PACKED[kind], 5000, GiB, len(SAMPLE) - 1)[1] is ImageTooLarge


@pytest.mark.parametrize("kind", ["xz", "zstd"])
def test_what_does_not_fit_twice_becomes_no_part(kind):
    """One at a time would take more memory, and no less time."""
    assert outcome(kind, PACKED[kind], GiB, 4 * MiB)[2] > 1
    assert outcome(kind, PACKED[kind], GiB, 256 * KiB)[2] == 0


# -- in threads


def decoder_for(kind, parts_memory=64 * MiB, max_output=GiB):
    return Chained(
        Decompressor(kind, max_output, parts_memory=parts_memory), lambda content: RawDecoder(None)
    )


# The head has to look like a disk, or what is inside would be taken for something else.
DISK = bytes(510) + b"\x55\xaa" + random.Random(7).randbytes(2 * BLOCK_BYTES) + bytes(MiB) + b"tail"


@functools.cache
def packed_disk(kind):
    return MAKE[kind](DISK)


async def unpack(kind, packed, sink, source=None, decoder=None):
    pool = BufferPool(count=4, size=PAGE)
    meter = Meter(len(packed))
    try:
        await copy(
            source or MemorySource(packed), pool, [Digest()], decoder or decoder_for(kind), sink, meter
        )
        assert pool.in_use == 0
        assert meter.written == len(packed)
    finally:
        pool.reclaim()
        pool.close()


def at_work():
    names = ("byoi-hash", "byoi-unpack", "byoi-write", "byoi-part")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("parts_memory", [0, 66 * MiB])
async def test_what_is_packed_comes_to_the_disk_in_order(kind, parts_memory):
    sink = SlowSink(len(DISK))
    await unpack(kind, packed_disk(kind), sink, decoder=decoder_for(kind, parts_memory))
    assert sink.content == DISK
    assert await comes_true(lambda: not at_work())


@pytest.mark.parametrize("kind", MAKE)
async def test_a_fault_comes_behind_all_that_is_in_front_of_it(kind):
    packed = packed_disk(kind)
    sink = SlowSink(len(DISK))
    with pytest.raises(ImageDamaged):
        await unpack(kind, flipped(packed, len(packed) * 9 // 10), sink)
    # Whole blocks of what is inside, up to the one that the fault is in.
    assert sink.content.startswith(DISK[:BLOCK_BYTES])
    assert await comes_true(lambda: not at_work())


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_disk_that_fails_ends_all_threads(kind, at):
    sink = SlowSink(len(DISK), fault=OSError(5, "Input/output error", "/dev/x"), fault_at=at * MiB)
    with pytest.raises(SinkFailed):
        await unpack(kind, packed_disk(kind), sink)
    assert await comes_true(lambda: not at_work())


@pytest.mark.parametrize("kind", MAKE)
async def test_a_restart_ends_all_threads_and_the_next_attempt_is_whole(kind):
    packed, sink = packed_disk(kind), SlowSink(len(DISK))
    with pytest.raises(TransferRestart):
        await unpack(
            kind, packed, sink, MemorySource(packed, fault=TransferRestart(), fault_at=len(packed) // 2)
        )
    assert await comes_true(lambda: not at_work())
    await unpack(kind, packed, sink)
    assert sink.content == DISK


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("given", [0.0, 0.01, 0.5, 0.95])
async def test_a_cancelled_copy_ends_its_threads_wherever_it_is(kind, given):
    packed = packed_disk(kind)

    class Silent(MemorySource):
        async def fill(self, buffer):
            if self.position >= given * len(packed):
                reached.set()
                await asyncio.Event().wait()
            return await super().fill(buffer)

    reached, sink = asyncio.Event(), SlowSink(len(DISK), pause=0.001)
    task = asyncio.get_running_loop().create_task(unpack(kind, packed, sink, Silent(packed)))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sink.busy.locked()
    assert await comes_true(lambda: not at_work())
    written = bytes(sink.content)
    await asyncio.sleep(0.01)
    assert bytes(sink.content) == written


async def test_a_copy_that_is_cancelled_while_the_disk_is_slow_ends_its_threads():
    """All of them wait for room then: the one that unpacks for a block, those of the parts for their turn."""
    for kind in MAKE:
        for memory in (0, 66 * MiB):
            sink = SlowSink(len(DISK), pause=0.05)
            task = asyncio.get_running_loop().create_task(
                unpack(kind, packed_disk(kind), sink, decoder=decoder_for(kind, memory))
            )
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await comes_true(lambda: not at_work())


async def test_what_parts_inflate_to_unexpectedly_waits_in_the_same_memory():
    """A block of bzip2 may have 45 MiB of zeros; its length does not tell."""
    data = DISK[:512] + bytes(200 * MiB)
    sink = SlowSink(len(data))
    sink.zero = lambda offset, length: None
    tracemalloc.start()
    try:
        await unpack("bzip2", bz2.compress(data), sink)
        assert tracemalloc.get_traced_memory()[1] < (64 + 8) * MiB
    finally:
        tracemalloc.stop()
