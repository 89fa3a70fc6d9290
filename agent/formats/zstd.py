"""zstd, frame by frame, with skippable ones between them. Source: RFC 8878.

Where a frame ends is told by the headers of its blocks, nothing is inflated for that: a frame that is short becomes a
part.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain, repeat

import zstandard

from agent.formats.intake import Intake
from agent.formats.parts import Cuts, Part, fits
from agent.formats.streams import Window, check_magic, frames
from agent.units import KiB, MiB

# RFC 8878, section 3.1
_BLOCK = 128 * KiB
_BLOCKS_AT_ONCE = 2
_RLE_BLOCK, _RESERVED_BLOCK = 1, 3

# A frame that inflates to more does not become a part: `pzstd -19` makes frames of 32 MiB.
_PART_INFLATED = 32 * MiB


def zstd_frames(intake: Intake, window: Window, memory: int) -> Cuts:
    """All frames of a file. Those that are small enough for `memory` bytes become parts.

    Not so the first one: most files have no other, and it would only come later and take more memory.
    """
    memories = chain((0,), repeat(memory))
    return frames(intake, lambda: _frame(intake, window, next(memories)))


def _frame(intake: Intake, window: Window, memory: int) -> Cuts:
    yield from check_magic(intake)
    header = yield from _header(intake)
    window.reserve(header.window)
    frame = _Frame(intake, header, window.limit)
    apart = header.inflated <= _PART_INFLATED
    inflated = length = 0
    while not frame.complete:
        blocks = yield from _some_blocks(intake)
        if blocks.last and header.has_checksum:
            blocks.data += yield from intake.take(4, "a frame's checksum")
        frame.add(blocks)
        inflated, length = inflated + blocks.most, length + len(blocks.data)
        if apart and (inflated > _PART_INFLATED or not fits(memory, inflated, length, header.window)):
            apart = False
        if not apart:
            yield from frame.inflate()
    if apart:
        yield Part(length, header.window, inflated, frame.inflate)


@dataclass(frozen=True, slots=True)
class _Header:
    """A frame's header (RFC 8878, section 3.1.1.1). Sizes in bytes."""

    data: bytes
    window: int
    inflated: int
    """What it inflates to; 0 where it does not say."""
    has_checksum: bool


def _header(intake: Intake) -> Generator[None, None, _Header]:
    what = "a frame's header"
    start = bytes((yield from intake.take(5, what)))
    flags = start[4]
    single_segment = bool(flags & 0x20)
    dictionary_bytes = (0, 1, 2, 4)[flags & 3]
    size_bytes = (int(single_segment), 2, 4, 8)[flags >> 6]
    window_bytes = 0 if single_segment else 1
    rest = bytes((yield from intake.take(window_bytes + dictionary_bytes + size_bytes, what)))
    # A size of two bytes counts from 256.
    inflated = int.from_bytes(rest[window_bytes + dictionary_bytes :], "little") + (
        256 if size_bytes == 2 else 0
    )
    if single_segment:
        window = inflated  # the whole content is the window
    else:
        base = 1 << (10 + (rest[0] >> 3))
        window = base + base // 8 * (rest[0] & 7)
    return _Header(start + rest, window, inflated, bool(flags & 4))


@dataclass(slots=True)
class _Blocks:
    """A few blocks as they are."""

    data: bytearray
    last: bool = False
    """Whether the frame's last block is among them."""
    most: int = 0
    """What they inflate to at the most."""


def _some_blocks(intake: Intake) -> Generator[None, None, _Blocks]:
    """The next blocks of a frame (RFC 8878, section 3.1.1.2)."""
    blocks = _Blocks(bytearray())
    for _ in range(_BLOCKS_AT_ONCE):
        header = yield from intake.take(3, "a block")
        number = int.from_bytes(header, "little")
        kind, size = number >> 1 & 3, number >> 3
        if kind == _RESERVED_BLOCK or size > _BLOCK:
            raise intake.damaged(f"there is no block at byte {intake.offset - 3}")
        blocks.data += header
        blocks.data += yield from intake.take(1 if kind == _RLE_BLOCK else size, "a block")
        blocks.most += _BLOCK
        if number & 1:
            blocks.last = True
            break
    return blocks


class _Frame:
    """Inflates the blocks of one frame. A block gives 128 KiB at most: handing over a few at a time bounds the output,
    which the library itself does not.
    """

    def __init__(self, intake: Intake, header: _Header, max_window: int) -> None:
        self._damaged = intake.damaged
        self._place = intake.offset - len(header.data)
        self._header = header.data
        self._max_window = max_window
        self._library: zstandard.ZstdDecompressionObj | None = None
        self._waiting: list[bytearray] = []
        self.complete = False
        """Whether all blocks were added."""

    def add(self, blocks: _Blocks) -> None:
        """Add blocks that follow."""
        self._waiting.append(blocks.data)
        self.complete = blocks.last

    def inflate(self) -> Iterator[bytes]:
        """What was added, which is let go of."""
        if self._library is None:
            self._library = zstandard.ZstdDecompressor(max_window_size=self._max_window).decompressobj(
                write_size=_BLOCKS_AT_ONCE * _BLOCK
            )
            self._waiting[0][:0] = self._header
        library = self._library
        waiting, self._waiting = self._waiting, []
        waiting.reverse()
        while waiting:
            try:
                piece = library.decompress(bytes(waiting.pop()))
            except zstandard.ZstdError as error:
                raise self._damaged(f"the frame at byte {self._place} does not inflate: {error}") from error
            if piece:
                yield piece
        if self.complete and (not library.eof or library.unused_data):
            raise self._damaged(f"the frame at byte {self._place} does not end where it says")
