"""Compressed streams as the real tools write them, in every chunking, cut, damaged and followed by garbage."""

import bz2
import contextlib
import gzip
import os
import random
import struct
import subprocess
import time
import tracemalloc

import pytest

from agent.errors import ImageDamaged, ImageUnsafe
from agent.formats.compressed import Decompressor
from agent.formats.extent import ImageTooLarge
from agent.units import GiB, KiB, MiB
from tests.unit.formats.test_compressed import (
    KINDS,
    SAMPLE,
    flipped,
    inflate,
    inflate_with_notes,
    sample,
)
from tests.unit.transfer.test_unpack import outcome

COMMANDS = {"gzip": ["gzip"], "xz": ["xz"], "zstd": ["zstd", "-q"], "bzip2": ["bzip2"], "lz4": ["lz4", "-q"]}


def tool(data, *argv):
    return subprocess.run(argv, input=data, capture_output=True, check=True, timeout=60).stdout


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
        ("lz4", ["lz4", "-q", "-12"]),
        ("lz4", ["lz4", "-q", "--fast=5"]),
        ("lz4", ["lz4", "-q", "-B4", "-BD"]),
        ("lz4", ["lz4", "-q", "-B7", "-BI", "-BX"]),
        ("lz4", ["lz4", "-q", "--no-frame-crc"]),
    ],
)
def test_every_setting_of_the_tools(kind, argv):
    compressed = tool(SAMPLE, *argv, "-c")
    for step in (777, 65536, None):
        assert inflate(kind, compressed, step) == SAMPLE


@pytest.mark.parametrize(
    ("kind", "argv"),
    [
        ("xz", ["xz", "-T2", "-0", "--block-size=300KiB"]),
        ("xz", ["xz", "-T2", "-1", "--block-size=1MiB", "--check=sha256"]),
        ("xz", ["xz", "-T2", "--block-size=500KiB", "--check=none", "--x86", "--lzma2=preset=0"]),
        ("bzip2", ["bzip2", "-1"]),
        ("bzip2", ["bzip2", "-9"]),
        ("zstd", ["pzstd", "-q", "-p", "3", "-1"]),
    ],
)
@pytest.mark.parametrize("step", [777, 65536, GiB])
def test_what_the_tools_divide_is_divided(kind, argv, step):
    data = SAMPLE * (10 if kind == "zstd" else 1)  # frames of pzstd have MiBs
    out, fault, parts, _ = outcome(kind, tool(data, *argv, "-c"), step, GiB)
    assert (out == data, fault) == (True, None)
    assert parts > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 7, 4096, None])
def test_several_in_a_row_are_one_file(kind, step):
    parts = [sample(size, size) for size in (5000, 0, 1, 100_000)]
    joined = b"".join(tool(part, *COMMANDS[kind], "-c") for part in parts)
    assert inflate(kind, joined, step) == b"".join(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed(kind):
    compressed = tool(sample(3000), *COMMANDS[kind], "-c")
    for length in range(len(compressed)):
        with pytest.raises(ImageDamaged):
            inflate(kind, compressed[:length])
        with pytest.raises(ImageDamaged):
            inflate(kind, compressed + compressed[:length] if length else b"")


@pytest.mark.parametrize("kind", ["xz", "zstd", "lz4"])
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


def test_zstd_skippable_frames_are_passed_over():
    frame = tool(b"content", "zstd", "-q", "-c")
    skippable = struct.pack("<II", 0x184D2A5F, 1000) + os.urandom(1000)
    for step in (1, None):
        assert inflate("zstd", skippable + frame + skippable + frame + skippable, step) == b"contentcontent"
    with pytest.raises(ImageDamaged):
        inflate("zstd", skippable)
    with pytest.raises(ImageDamaged):
        inflate("zstd", frame + skippable[:-1])


def test_skippable_frames_of_lz4_are_passed_over():
    skippable = struct.pack("<II", 0x184D2A5F, 1000) + os.urandom(1000)
    frame = tool(b"content", "lz4", "-q", "-c")
    for step in (1, None):
        assert inflate("lz4", frame + skippable + frame + skippable, step) == b"contentcontent"


def test_zstd_long_27_of_a_large_file_is_refused_by_its_window(tmp_path):
    big = tmp_path / "big"
    big.touch()
    os.truncate(big, 130 * MiB)
    with pytest.raises(ImageUnsafe, match="memory_limit"):
        inflate("zstd", tool(None, "zstd", "-q", "--long=27", "-c", str(big)))


@pytest.mark.parametrize("log", [27, 29, 31])
def test_longer_windows_of_zstd_pass_where_they_are_allowed(log):
    compressed = tool(SAMPLE, "zstd", "-q", f"--long={log}", "-c")
    assert inflate("zstd", compressed, 4096, max_memory=2 * GiB) == SAMPLE
    with pytest.raises(ImageUnsafe, match="memory_limit"):
        inflate("zstd", compressed, max_memory=2**log - 1)


def test_xz_is_held_to_the_memory_limit():
    compressed = tool(SAMPLE[:1000], "xz", "-9", "-c")
    assert inflate("xz", compressed) == SAMPLE[:1000]
    with pytest.raises(ImageUnsafe) as caught:
        inflate("xz", compressed, max_memory=32 * MiB)
    assert "xz -9" in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_as_soon_as_it_passes_the_bound(kind):
    bomb = tool(bytes(64 * MiB), *COMMANDS[kind], "-c")
    assert len(bomb) < (300 if kind == "lz4" else 100) * KiB
    decompressor = Decompressor(kind, 3 * MiB)
    lengths = []
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge) as caught:
            lengths.extend(len(piece) for piece in decompressor.feed(memoryview(bomb)))
        # xz -6 has a dictionary of 8 MiB.
        assert tracemalloc.get_traced_memory()[1] < 12 * MiB
    finally:
        tracemalloc.stop()
    assert caught.value.size == 3 * MiB


@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_empty_members_take_no_time_to_speak_of(kind):
    empty = tool(b"", *COMMANDS[kind], "-c")
    began = time.monotonic()
    assert inflate(kind, empty * (256 * KiB // len(empty)), max_output=0) == b""
    assert time.monotonic() - began < 10
