"""The memory that the firmware's tables name, in all the ways that it may say so, and damaged ones."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.smbios import installed_memory
from agent.units import GiB, KiB, MiB, TiB

END = struct.pack("<BBH", 127, 4, 0xFEFF) + b"\0\0"


def structure(kind: int, body: bytes, *strings: bytes) -> bytes:
    text = b"".join(string + b"\0" for string in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), 0x1100 + kind) + body + text + b"\0"


def device(size: int, extended: int = 0, length: int = 0x28) -> bytes:
    body = bytearray(length - 4)
    struct.pack_into("<H", body, 0x0C - 4, size)
    if length >= 0x20:
        struct.pack_into("<I", body, 0x1C - 4, extended)
    return structure(17, bytes(body), b"DIMM 0", b"BANK 0")


BIOS = structure(0, bytes(20), b"SeaBIOS", b"1.16", b"04/01/2014")


@pytest.mark.parametrize(
    ("size", "extended", "installed"),
    [
        (16384, 0, 16 * GiB),
        (0, 0, 0),
        (0xFFFF, 0, 0),
        (0x8000 | 512, 0, 512 * KiB),
        (0x7FFF, 1024 * 1024, TiB),
        (0x7FFF, 0x80000000 | 64, 64 * MiB),
    ],
)
def test_a_device_says_its_size_in_one_of_three_ways(size, extended, installed):
    assert installed_memory(BIOS + device(size, extended) + END) == installed


def test_the_devices_of_a_machine_are_added():
    assert (
        installed_memory(BIOS + device(8192) * 4 + device(0) + device(0x2000, length=0x15) + END) == 40 * GiB
    )


def test_nothing_behind_the_end_counts():
    assert installed_memory(BIOS + END + device(8192)) == 0


@pytest.mark.parametrize("tables", [b"", b"\x11", b"\x11\x03\0\0\0\0", device(8192)[:20], BIOS[:30]])
def test_what_is_damaged_tells_nothing(tables):
    assert installed_memory(tables) == 0


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(tables):
    assert installed_memory(tables) >= 0
