"""Files of .xz that hold their data as it is: whole ones to every reader, made without the time of a compressor."""

import struct
import zlib

from agent.units import KiB

CHUNK = 64 * KiB
"""What a chunk of LZMA2 holds at most where nothing is compressed."""


def stored_xz(data: bytes) -> bytes:
    """A file (The .xz File Format, 1.1.0) of one block, with the window of `xz -9`: 64 MiB."""
    flags = b"\x00\x01"  # CRC32
    chunks = bytearray()
    for at in range(0, len(data), CHUNK):
        piece = data[at : at + CHUNK]
        chunks += bytes([2 if at else 1]) + struct.pack(">H", len(piece) - 1) + piece
    # LZMA2 (0x21) with the dictionary size 28: 64 MiB
    block = _with_crc(b"\x02\x00\x21\x01\x1c\x00\x00\x00") + chunks + b"\x00"
    sizes = _number(len(block) + 4) + _number(len(data))
    block += bytes(-len(block) % 4) + struct.pack("<I", zlib.crc32(data))
    index = b"\x00\x01" + sizes
    index = _with_crc(index + bytes(-len(index) % 4))
    backward = struct.pack("<I", len(index) // 4 - 1) + flags
    footer = struct.pack("<I", zlib.crc32(backward)) + backward + b"YZ"
    return b"\xfd7zXZ\x00" + _with_crc(flags) + block + index + footer


def _with_crc(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def _number(value: int) -> bytes:
    """As .xz writes one: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
