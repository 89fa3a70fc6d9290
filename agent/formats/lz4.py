"""LZ4, frame by frame. Source: LZ4 Frame Format Description 1.6.

A frame has a checksum of its content unless whoever made it wanted none. Blocks have at most 4 MiB.
"""

import lz4.frame

from agent.formats.intake import Intake
from agent.formats.parts import Cuts
from agent.formats.streams import Pieces, check_magic, frames, inflate


class _Frame:
    """lz4's decompressor, which says None where the others say that no bytes are left."""

    def __init__(self) -> None:
        self._library = lz4.frame.LZ4FrameDecompressor()

    @property
    def eof(self) -> bool:
        return bool(self._library.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._library.needs_input)

    @property
    def unused_data(self) -> bytes:
        return self._library.unused_data or b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return bytes(self._library.decompress(data, max_length))
        except RuntimeError as error:  # all that it raises for what is no lz4
            raise OSError(*error.args) from error


def lz4_frames(intake: Intake) -> Cuts:
    """All frames of a file; what they inflate to."""
    return frames(intake, lambda: _frame(intake))


def _frame(intake: Intake) -> Pieces:
    yield from check_magic(intake)
    yield from inflate(intake, _Frame(), OSError)
