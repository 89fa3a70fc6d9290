"""What may stand behind the end of a gzip or bzip2 file: padding, and a trailer as OpenWrt's signature.

The tools of both warn of it and pass it over. What may be the rest of a damaged file is damage here.
"""

import struct
import zlib
from collections.abc import Generator

from agent.formats.intake import Intake
from agent.formats.streams import MAGIC, PIECE_BYTES, skip_zeros
from agent.units import MiB

# What a stream has at its beginning and a trailer hardly by chance.
_SIGNS = {"gzip": b"\x1f\x8b\x08", "bzip2": b"1AY&SY"}
# No trailer that tools append has more: what has is the rest of a file that something happened to.
MAX_TRAILER = MiB
# One that inflates to more is none.
_MOST_INFLATED = 64 * MiB

# The flags of a member of gzip (RFC 1952, section 2.3.1).
FHCRC, FEXTRA, FNAME, FCOMMENT = 2, 4, 8, 16


def another_follows(intake: Intake, notes: list[str]) -> Generator[None, None, bool]:
    """Whether another stream follows; a trailer is passed over and noted, zeros before it or alone as well.

    Raises:
        ImageDamaged: what follows may be the rest of a stream: it begins as one, has one within it, is one but for its
            first bytes, or is too long for a trailer.
    """
    magic = MAGIC[intake.content]
    end = intake.offset
    padding = yield from skip_zeros(intake)
    start = intake.offset
    begin = yield from intake.up_to(len(magic))
    if begin and magic.startswith(begin):
        if padding:
            raise intake.damaged(f"another stream follows its padding, at byte {start}")
        intake.give_back(begin)
        return True
    trailer = begin + (yield from intake.up_to(MAX_TRAILER))
    if (
        len(trailer) > MAX_TRAILER
        or _SIGNS[intake.content] in trailer
        or (intake.content == "gzip" and _is_beheaded_member(trailer))
    ):
        raise intake.damaged(f"garbage follows at byte {start}, which may be the rest of a damaged file")
    length = padding + len(trailer)
    if trailer or (
        padding and intake.content == "bzip2"
    ):  # gzip passes zeros over without a word, bzip2 does not
        notes.append(f"{length} bytes follow the {intake.content} stream at byte {end} and were passed over")
    return False


def _is_beheaded_member(data: bytes) -> bool:
    """Whether this is a member whose first bytes are damaged: behind its header it inflates to an end, and to what its
    checksum says, or to more than any trailer would.
    """
    start, flags = 10, data[3] if len(data) > 3 else 0
    if flags & FEXTRA:
        start += 2 + int.from_bytes(data[10:12], "little")
    for flag in (FNAME, FCOMMENT):
        if flags & flag:
            start = data.find(b"\0", start) + 1 or len(data)
    start += 2 if flags & FHCRC else 0
    library, rest, crc, length = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0, 0
    while not library.eof and length < _MOST_INFLATED:
        try:
            piece = library.decompress(rest, PIECE_BYTES)
        except zlib.error:
            return False
        if not piece and not library.eof:
            return False
        crc, length, rest = zlib.crc32(piece, crc), length + len(piece), library.unconsumed_tail
    return not library.eof or library.unused_data[:4] == struct.pack("<I", crc)
