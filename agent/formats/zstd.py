"""zstd, frame by frame, with skippable ones between them. Source: RFC 8878."""

from collections.abc import Generator

import zstandard

from agent.formats.intake import Intake
from agent.formats.streams import Pieces, Window, check_magic, frames
from agent.units import KiB

# RFC 8878, section 3.1
_BLOCK = 128 * KiB
_BLOCKS_AT_ONCE = 2
_RLE_BLOCK, _RESERVED_BLOCK = 1, 3


def zstd_frames(intake: Intake, window: Window) -> Pieces:
    """All frames of a file; what they inflate to."""
    context = zstandard.ZstdDecompressor(max_window_size=window.limit)

    def frame() -> Pieces:
        yield from check_magic(intake)
        header, has_checksum = yield from _header(intake, window)
        yield from _blocks(intake, context.decompressobj(), header, has_checksum=has_checksum)

    return frames(intake, frame)


def _header(intake: Intake, window: Window) -> Generator[None, None, tuple[bytes, bool]]:
    """A frame's header, and whether a checksum ends the frame (RFC 8878, section 3.1.1.1)."""
    what = "a frame's header"
    start = bytes((yield from intake.take(5, what)))
    flags = start[4]
    single_segment = bool(flags & 0x20)
    dictionary_bytes = (0, 1, 2, 4)[flags & 3]
    size_bytes = (int(single_segment), 2, 4, 8)[flags >> 6]
    window_bytes = 0 if single_segment else 1
    rest = bytes((yield from intake.take(window_bytes + dictionary_bytes + size_bytes, what)))
    if single_segment:
        # The whole content is the window; a size of two bytes counts from 256.
        size = int.from_bytes(rest[dictionary_bytes:], "little") + (256 if size_bytes == 2 else 0)
    else:
        base = 1 << (10 + (rest[0] >> 3))
        size = base + base // 8 * (rest[0] & 7)
    window.reserve(size)
    return start + rest, bool(flags & 4)


def _blocks(
    intake: Intake, library: "zstandard.ZstdDecompressionObj", header: bytes, *, has_checksum: bool
) -> Pieces:
    """The blocks of a frame. A block gives 128 KiB at most: handing over a few at a time bounds the output, which the
    library itself does not.
    """
    pending = header
    ended = False
    while not ended:
        blocks, ended = yield from _some_blocks(intake)
        if ended and has_checksum:
            blocks += yield from intake.take(4, "a frame's checksum")
        try:
            piece = library.decompress(pending + blocks)
        except zstandard.ZstdError as error:
            raise intake.damaged(f"the data before byte {intake.offset} does not inflate: {error}") from error
        pending = b""
        if piece:
            yield piece
    if not library.eof or library.unused_data:
        raise intake.damaged(f"the frame before byte {intake.offset} does not end where it says")


def _some_blocks(intake: Intake) -> Generator[None, None, tuple[bytearray, bool]]:
    """The next blocks of a frame as they are, and whether the last one is among them (RFC 8878, section 3.1.1.2)."""
    blocks = bytearray()
    for _ in range(_BLOCKS_AT_ONCE):
        header = yield from intake.take(3, "a block")
        number = int.from_bytes(header, "little")
        kind, size = number >> 1 & 3, number >> 3
        if kind == _RESERVED_BLOCK or size > _BLOCK:
            raise intake.damaged(f"there is no block at byte {intake.offset - 3}")
        blocks += header
        blocks += yield from intake.take(1 if kind == _RLE_BLOCK else size, "a block")
        if number & 1:
            return blocks, True
    return blocks, False
