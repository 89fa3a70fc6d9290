"""Compressed streams as the real tools write them, in every chunking, cut, damaged and followed by garbage."""

import bz2
import contextlib
import gzip
import lzma
import os
import random
import struct
import zlib
from functools import partial

import lz4.frame
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.compressed import Decompressor
from agent.formats.extent import ImageTooLarge
from agent.formats.xz import check_xz_end
from agent.units import GiB, MiB
from tests.kit.fuzz import examples

KINDS = ("gzip", "xz", "zstd", "bzip2", "lz4")
COMPRESS = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "lz4": partial(lz4.frame.compress, content_checksum=True),
}


def inflate(kind, data, step=None, max_output=GiB, **options):
    return inflate_with_notes(kind, data, step, max_output, **options)[0]


def inflate_with_notes(kind, data, step=None, max_output=GiB, **options):
    decompressor = Decompressor(kind, max_output, **options)
    out = bytearray()
    view = memoryview(data)
    for at in range(0, len(data), step or max(len(data), 1)):
        # A copy that is spoilt afterwards: nothing may be read from a buffer that was fed before.
        buffer = bytearray(view[at : at + (step or len(data))])
        for piece in decompressor.feed(memoryview(buffer)):
            assert 0 < len(piece) <= MiB
            out += piece
        buffer[:] = b"\xee" * len(buffer)
    decompressor.finish()
    return bytes(out), decompressor.notes


def sample(size, seed=1):
    """Half of it text, a quarter random, a quarter zeros, in runs of odd lengths."""
    source = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        run = source.randrange(1, 200_000)
        out += source.choice(
            [
                b"the quick brown fox %d " % run * (run // 20 + 1),
                source.randbytes(run),
                bytes(run),
                b"abc" * run,
            ]
        )
    return bytes(out[:size])


SAMPLE = sample(3 * MiB + 12345)


def test_a_zstd_file_with_its_content_size_in_every_width():
    for size in (0, 255, 256, 300, 65_791, 65_792, 200_000):
        compressed = zstandard.ZstdCompressor().compress(bytes(size))
        assert inflate("zstd", compressed, 3) == bytes(size)


def test_xz_streams_may_have_padding_between_them():
    one = lzma.compress(b"one")
    assert inflate("xz", one + bytes(8) + one) == b"oneone"
    with pytest.raises(ImageDamaged, match="units of 4"):
        inflate("xz", one + bytes(5) + one)


def test_the_end_of_an_xz_file_tells_a_cut():
    whole = lzma.compress(SAMPLE)
    for padding in (0, 4, 512, 1024):
        check_xz_end((whole + bytes(padding))[-512:])
    for cut in range(1, 40):
        with pytest.raises(ImageDamaged, match="cut"):
            check_xz_end(whole[:-cut][-512:])


def test_gzip_members_may_not_follow_padding():
    one = gzip.compress(b"one")
    with pytest.raises(ImageDamaged, match="another stream follows its padding"):
        inflate("gzip", one + bytes(8) + one)


def gzip_member(data, flags):
    header = bytearray(b"\x1f\x8b\x08" + bytes([flags]) + b"\1\2\3\4\0\3")
    header += struct.pack("<H", 300) + os.urandom(300) if flags & 4 else b""
    header += b"a name\0" if flags & 8 else b""
    header += b"a comment\0" if flags & 16 else b""
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF) if flags & 2 else b""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    return bytes(header), body, struct.pack("<II", zlib.crc32(data), len(data))


@pytest.mark.parametrize("flags", range(32))
def test_every_field_of_a_gzip_header(flags):
    member = b"".join(gzip_member(SAMPLE[:5000], flags))
    for step in (1, 7, None):
        assert inflate("gzip", member * 2, step) == SAMPLE[:5000] * 2


def flipped(data, at, bit=6):
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.parametrize("step", [1, None])
def test_gzip_checks_every_checksum(step):
    header, body, trailer = gzip_member(b"some content", 2)
    for at in range(8):
        with pytest.raises(ImageDamaged, match="CRC" if at < 4 else "bytes, not"):
            inflate("gzip", header + body + flipped(trailer, at), step)
    for at in (4, 5, 8, 9, 10, 11):
        with pytest.raises(ImageDamaged, match="checksum of the header"):
            inflate("gzip", flipped(header, at) + body + trailer, step)
    with pytest.raises(ImageDamaged, match="flags"):
        inflate("gzip", header[:3] + b"\xe0" + header[4:] + body + trailer, step)
    with pytest.raises(ImageDamaged, match="method 7"):
        inflate("gzip", header[:2] + b"\x07" + header[3:] + body + trailer, step)


def test_an_endless_name_in_a_gzip_header_is_refused():
    with pytest.raises(ImageDamaged, match="longer than"):
        inflate("gzip", b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 200_000, 4096)


def test_an_xz_check_that_nobody_knows_is_refused():
    header = b"\xfd7zXZ\0" + (flags := b"\0\x02") + struct.pack("<I", zlib.crc32(flags))
    index = bytes(4)
    index += struct.pack("<I", zlib.crc32(index))
    footer = struct.pack("<I", 1) + flags
    stream = header + index + struct.pack("<I", zlib.crc32(footer)) + footer + b"YZ"
    with pytest.raises(ImageDamaged):
        inflate("xz", stream)


def test_a_window_within_the_bound_passes_and_one_beyond_it_is_refused():
    # Streamed, so that the header has the window asked for and not the size of the content.
    for log, accepted in ((25, True), (26, True), (27, False), (31, False)):
        parameters = zstandard.ZstdCompressionParameters(
            window_log=min(log, 27), hash_log=12, chain_log=12, enable_ldm=False
        )
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        compressed = bytearray(compressor.compress(b"content") + compressor.flush())
        assert compressed[5] >> 3 == min(log, 27) - 10
        compressed[5] = (log - 10) << 3
        if accepted:
            assert inflate("zstd", bytes(compressed)) == b"content"
            continue
        with pytest.raises(ImageUnsafe) as caught:
            inflate("zstd", bytes(compressed))
        assert "memory_limit" in caught.value.message
        assert str(2**log) in caught.value.detail


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_itself_is_allowed(kind):
    data = sample(1 * MiB)
    compressed = COMPRESS[kind](data)
    assert inflate(kind, compressed, max_output=len(data)) == data
    with pytest.raises(ImageTooLarge):
        inflate(kind, compressed, max_output=len(data) - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_another_format_is_not_taken_for_it(kind):
    for other in KINDS:
        if other != kind:
            with pytest.raises(ImageDamaged, match="does not begin"):
                inflate(kind, COMPRESS[other](b"content" * 100))


@settings(max_examples=examples(150))
@given(st.sampled_from(KINDS), st.binary(max_size=400), st.lists(st.integers(1, 64), min_size=1, max_size=8))
@example("gzip", b"", [1])
def test_any_chunking_gives_the_same(kind, data, steps):
    data = data * 37
    compressed = COMPRESS[kind](data) + COMPRESS[kind](data[:100])
    decompressor = Decompressor(kind, GiB)
    out, at, turn = bytearray(), 0, 0
    while at < len(compressed):
        step = steps[turn % len(steps)]
        out += b"".join(decompressor.feed(memoryview(compressed)[at : at + step]))
        at, turn = at + step, turn + 1
    decompressor.finish()
    assert out == data + data[:100]


@settings(max_examples=examples(400))
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=5),
    st.sampled_from([1, 64, 100_000]),
)
def test_mutants_raise_the_known_errors_only(kind, changes, step):
    compressed = bytearray(COMPRESS[kind](MUTATED))
    for at, value in changes:
        compressed[at % len(compressed)] = value
    with contextlib.suppress(DeployError, ImageTooLarge):
        inflate(kind, bytes(compressed), step, max_output=MiB)


MUTATED = sample(2000, 5)
