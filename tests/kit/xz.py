"""Files of .xz that hold their data as it is: whole ones to every reader, made without the time of a compressor."""

import lzma
import struct
import zlib

from agent.units import KiB

CHUNK = 64 * KiB
"""What a chunk of LZMA2 holds at most where nothing is compressed."""


_FLAGS = b"\x00\x01"
"""Of a stream with CRC32."""


def stored_xz(data: bytes) -> bytes:
    """A file (The .xz File Format, 1.1.0) of one block, with the window of `xz -9`: 64 MiB."""
    chunks = bytearray()
    for at in range(0, len(data), CHUNK):
        piece = data[at : at + CHUNK]
        chunks += bytes([2 if at else 1]) + struct.pack(">H", len(piece) - 1) + piece
    # The dictionary size 28: 64 MiB
    return _stream([_block(data, bytes(chunks) + b"\x00", 28, sized=False)])


def xz_of_blocks(pieces: list[bytes], *, sized: bool = True) -> bytes:
    """A file of one block for each piece, as `xz -T2` makes it; not `sized`: whose headers tell no lengths."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    # The dictionary size 12: 256 KiB, that of `xz -0`
    return _stream(
        [
            _block(piece, lzma.compress(piece, lzma.FORMAT_RAW, filters=filters), 12, sized=sized)
            for piece in pieces
        ]
    )


def _block(data: bytes, packed: bytes, dictionary: int, *, sized: bool) -> tuple[bytes, bytes]:
    """A block, and its record in the index."""
    sizes = _number(len(packed)) + _number(len(data)) if sized else b""
    # One filter, LZMA2 (0x21), with the size of its dictionary
    header = bytes([0xC0 if sized else 0]) + sizes + b"\x21\x01" + bytes([dictionary])
    header += bytes(-(len(header) + 1) % 4)
    block = _with_crc(bytes([(len(header) + 1) // 4]) + header) + packed
    record = _number(len(block) + 4) + _number(len(data))
    return block + bytes(-len(block) % 4) + struct.pack("<I", zlib.crc32(data)), record


def _stream(blocks: list[tuple[bytes, bytes]]) -> bytes:
    flags, block = _FLAGS, b"".join(block for block, _ in blocks)
    index = b"\x00" + _number(len(blocks)) + b"".join(record for _, record in blocks)
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
