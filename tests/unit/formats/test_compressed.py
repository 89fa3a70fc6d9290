"""Compressed streams as the real tools write them, in every chunking, cut, damaged and followed by garbage."""

import bz2
import contextlib
import gzip
import lzma
import os
import random
import struct
import subprocess
import time
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.compressed import Decompressor, OutputTooLarge, check_xz_end
from agent.units import GiB, KiB, MiB
from tests.fuzz import examples

KINDS = ("gzip", "xz", "zstd", "bzip2")
COMMANDS = {"gzip": ["gzip"], "xz": ["xz"], "zstd": ["zstd", "-q"], "bzip2": ["bzip2"]}
COMPRESS = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.compress, "bzip2": bz2.compress}


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


def tool(data, *argv):
    return subprocess.run(argv, input=data, capture_output=True, check=True, timeout=60).stdout


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 1000, 300_001])
@pytest.mark.parametrize("step", [1, 7, 511, 4096, 65536, None])
def test_what_the_tool_wrote_comes_back_in_every_chunking(kind, size, step):
    data = sample(size)
    assert inflate(kind, tool(data, *COMMANDS[kind], "-c"), step) == data


@pytest.mark.parametrize(
    ("kind", "argv"),
    [
        ("gzip", ["gzip", "-1"]),
        ("gzip", ["gzip", "-9"]),
        ("xz", ["xz", "-0"]),
        ("xz", ["xz", "-9e"]),
        ("xz", ["xz", "-T2", "--block-size=300KiB"]),
        ("xz", ["xz", "--check=none"]),
        ("xz", ["xz", "--check=sha256"]),
        ("xz", ["xz", "--x86", "--lzma2"]),
        ("zstd", ["zstd", "-q", "-1", "-T2", "-B524288"]),
        ("zstd", ["zstd", "-q", "-19"]),
        ("zstd", ["zstd", "-q", "--no-check"]),
        ("zstd", ["zstd", "-q", "--fast=5"]),
        ("zstd", ["zstd", "-q", "--long=25"]),
        ("zstd", ["zstd", "-q", "--rsyncable"]),
        ("bzip2", ["bzip2", "-1"]),
    ],
)
def test_every_setting_of_the_tools(kind, argv):
    compressed = tool(SAMPLE, *argv, "-c")
    for step in (777, 65536, None):
        assert inflate(kind, compressed, step) == SAMPLE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 7, 4096, None])
def test_several_in_a_row_are_one_file(kind, step):
    parts = [sample(size, size) for size in (5000, 0, 1, 100_000)]
    joined = b"".join(tool(part, *COMMANDS[kind], "-c") for part in parts)
    assert inflate(kind, joined, step) == b"".join(parts)


def test_a_zstd_file_with_its_content_size_in_every_width():
    for size in (0, 255, 256, 300, 65_791, 65_792, 200_000):
        compressed = zstandard.ZstdCompressor().compress(bytes(size))
        assert inflate("zstd", compressed, 3) == bytes(size)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed(kind):
    compressed = tool(sample(3000), *COMMANDS[kind], "-c")
    for length in range(len(compressed)):
        with pytest.raises(ImageDamaged):
            inflate(kind, compressed[:length])
        with pytest.raises(ImageDamaged):
            inflate(kind, compressed + compressed[:length] if length else b"")


@pytest.mark.parametrize("kind", ["xz", "zstd"])
@pytest.mark.parametrize(
    "garbage", [b"\0\1", b"g", b"<html>not found</html>" * 50, bytes(511) + b"x", b"\x1f\x8b"]
)
@pytest.mark.parametrize("step", [1, None])
def test_garbage_behind_the_end_is_an_error_where_the_tool_fails_on_it(kind, garbage, step):
    with pytest.raises(ImageDamaged):
        inflate(kind, tool(b"content", *COMMANDS[kind], "-c") + garbage, step)


# What OpenWrt's fwtool appends: JSON, a signature, a magic word.
FWTOOL = b'{ "metadata_version": "1.1" }untrusted comment: signed by key\nRWQ\nFWx0' + bytes(12)


@pytest.mark.parametrize("kind", ["gzip", "bzip2"])
@pytest.mark.parametrize(
    "trailer", [b"g", b"\0\1", FWTOOL, bytes(511) + b"x", b"<html>" * 50, b"\xa5" * MiB], ids=len
)
@pytest.mark.parametrize("step", [1, 4096, None])
def test_a_trailer_is_passed_over_and_noted(kind, trailer, step):
    """gzip and bzip2 warn: trailing garbage ignored."""
    content, notes = inflate_with_notes(kind, tool(b"content", *COMMANDS[kind], "-c") + trailer, step)
    assert content == b"content"
    (note,) = notes
    assert f"{len(trailer)} bytes follow the {kind} stream" in note


@pytest.mark.parametrize(
    ("kind", "trailer"),
    [
        *((kind, b"\xa5" * (MiB + 1)) for kind in ("gzip", "bzip2")),
        ("gzip", b"\x1f"),
        ("gzip", b"\x1f\x8b"),
        ("gzip", gzip.compress(b"more")[:-1]),
        ("gzip", b"\x1e" + gzip.compress(b"more")[1:] + gzip.compress(b"and more")),
        ("gzip", bytes(512) + gzip.compress(b"more")),
        ("bzip2", b"BZ"),
        ("bzip2", bz2.compress(b"more")[:-1]),
        ("bzip2", b"A" + bz2.compress(b"more")[1:]),
        ("bzip2", bytes(512) + bz2.compress(b"more")),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
@pytest.mark.parametrize("step", [1000, None])
def test_what_may_be_the_rest_of_a_stream_is_an_error(kind, trailer, step):
    with pytest.raises(ImageDamaged):
        inflate(kind, tool(b"content", *COMMANDS[kind], "-c") + trailer, step)


@pytest.mark.parametrize(
    ("kind", "length", "allowed"),
    [
        ("gzip", 1, True),
        ("gzip", 10240, True),
        ("xz", 4, True),
        ("xz", 10240, True),
        ("xz", 3, False),
        ("zstd", 4, False),
        ("bzip2", 1, True),
        ("bzip2", 10240, True),
    ],
)
@pytest.mark.parametrize("step", [1, 4096])
def test_zeros_behind_the_end_where_the_format_has_them(kind, length, allowed, step):
    padded = tool(b"content", *COMMANDS[kind], "-c") + bytes(length)
    if allowed:
        assert inflate(kind, padded, step) == b"content"
    else:
        with pytest.raises(ImageDamaged):
            inflate(kind, padded, step)


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


@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_bit_is_never_taken_for_good(kind):
    data = sample(2000)
    compressed = tool(data, *COMMANDS[kind], "-c")
    for at in range(len(compressed)):
        # A frame's or stream's header has bits that are allowed to differ: what comes out must not.
        with contextlib.suppress(ImageDamaged, ImageUnsafe):
            assert inflate(kind, flipped(compressed, at)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_bit_of_a_large_file_is_never_taken_for_good(kind):
    """Of several blocks and two members: anywhere, in the last bytes of each, and in the first ones of the second."""
    first, second = sample(400_000), sample(150_000, 8)
    one, two = (tool(data, *COMMANDS[kind], "-c") for data in (first, second))
    compressed, dice = one + two, random.Random(6)
    places = {*range(len(one) - 24, len(one) + 24), *range(len(compressed) - 24, len(compressed))}
    for at in sorted(places | {dice.randrange(len(compressed)) for _ in range(100)}):
        with contextlib.suppress(ImageDamaged, ImageUnsafe):
            assert inflate(kind, flipped(compressed, at, dice.randrange(8))) == first + second


def test_an_xz_check_that_nobody_knows_is_refused():
    header = b"\xfd7zXZ\0" + (flags := b"\0\x02") + struct.pack("<I", zlib.crc32(flags))
    index = bytes(4)
    index += struct.pack("<I", zlib.crc32(index))
    footer = struct.pack("<I", 1) + flags
    stream = header + index + struct.pack("<I", zlib.crc32(footer)) + footer + b"YZ"
    with pytest.raises(ImageDamaged):
        inflate("xz", stream)


def test_zstd_skippable_frames_are_passed_over():
    frame = tool(b"content", "zstd", "-q", "-c")
    skippable = struct.pack("<II", 0x184D2A5F, 1000) + os.urandom(1000)
    for step in (1, None):
        assert inflate("zstd", skippable + frame + skippable + frame + skippable, step) == b"contentcontent"
    with pytest.raises(ImageDamaged):
        inflate("zstd", skippable)
    with pytest.raises(ImageDamaged):
        inflate("zstd", frame + skippable[:-1])


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


def test_zstd_long_27_of_a_large_file_is_refused_by_its_window(tmp_path):
    big = tmp_path / "big"
    big.touch()
    os.truncate(big, 130 * MiB)
    with pytest.raises(ImageUnsafe, match="memory_limit"):
        inflate("zstd", tool(None, "zstd", "-q", "--long=27", "-c", str(big)))


def test_xz_is_held_to_the_memory_limit():
    compressed = tool(SAMPLE[:1000], "xz", "-9", "-c")
    assert inflate("xz", compressed) == SAMPLE[:1000]
    with pytest.raises(ImageUnsafe) as caught:
        inflate("xz", compressed, max_memory=32 * MiB)
    assert "xz -9" in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_as_soon_as_it_passes_the_bound(kind):
    bomb = tool(bytes(64 * MiB), *COMMANDS[kind], "-c")
    assert len(bomb) < 100 * KiB
    decompressor = Decompressor(kind, 3 * MiB)
    lengths = []
    tracemalloc.start()
    try:
        with pytest.raises(OutputTooLarge) as caught:
            lengths.extend(len(piece) for piece in decompressor.feed(memoryview(bomb)))
        # xz -6 has a dictionary of 8 MiB.
        assert tracemalloc.get_traced_memory()[1] < 12 * MiB
    finally:
        tracemalloc.stop()
    assert caught.value.limit == 3 * MiB


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_itself_is_allowed(kind):
    data = sample(1 * MiB)
    compressed = COMPRESS[kind](data)
    assert inflate(kind, compressed, max_output=len(data)) == data
    with pytest.raises(OutputTooLarge):
        inflate(kind, compressed, max_output=len(data) - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_another_format_is_not_taken_for_it(kind):
    for other in KINDS:
        if other != kind:
            with pytest.raises(ImageDamaged, match="does not begin"):
                inflate(kind, COMPRESS[other](b"content" * 100))


@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_empty_members_take_no_time_to_speak_of(kind):
    empty = tool(b"", *COMMANDS[kind], "-c")
    began = time.monotonic()
    assert inflate(kind, empty * (256 * KiB // len(empty)), max_output=0) == b""
    assert time.monotonic() - began < 10


@settings(max_examples=examples(150), deadline=None)
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


@settings(max_examples=examples(400), deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=5),
    st.sampled_from([1, 64, 100_000]),
)
def test_mutants_raise_the_known_errors_only(kind, changes, step):
    compressed = bytearray(COMPRESS[kind](MUTATED))
    for at, value in changes:
        compressed[at % len(compressed)] = value
    with contextlib.suppress(DeployError, OutputTooLarge):
        inflate(kind, bytes(compressed), step, max_output=MiB)


MUTATED = sample(2000, 5)
