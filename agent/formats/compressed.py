"""Compressed streams: gzip, xz, zstd, bzip2 and LZ4, with any number of members, streams or frames in a row.

Bytes in, bytes out, in pieces of at most 256 KiB, so that no few bytes of input become an unbounded output at once.
Every checksum that a format has is checked. What gzip and bzip2 themselves warn about and pass over behind the end, as
the signature that OpenWrt appends, is passed over and noted.

Sources: RFC 1951, RFC 1952, RFC 8878, the .xz file format 1.2.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from agent.formats.extent import ImageTooLarge
from agent.formats.intake import Intake, Parser
from agent.formats.parts import Cuts, Inflated, Part
from agent.formats.streams import Window
from agent.units import MiB

Kind = Literal["gzip", "xz", "zstd", "bzip2", "lz4"]

# What a decompressor may hold for its window or dictionary where nobody allows it more: xz -9 (65 MiB) and zstd windows
# of 64 MiB pass, zstd --long=27 (128 MiB) does not: with it alone a deployment would take more than 128 MiB. Of xz no
# more is ever allowed: its presets need no more.
MAX_MEMORY = 66 * MiB


class Decompressor:
    """One compressed file, fed in order, in pieces of any length; an `Unpacker`.

    It is driven by `feed` and `finish` in one thread; or by `cut` and `cut_rest` in one, which give the parts of the
    file, and by `join` in another, which takes in their order what they inflate to.

    Memory: `max_memory` for the window of xz and zstd (gzip and bzip2 need less than 4 MiB, LZ4 less than 9), and
    pieces of 256 KiB. What parts take is in the hands of whoever cuts.
    """

    size = None

    def __init__(
        self, kind: Kind, max_output: int, max_memory: int = MAX_MEMORY, parts_memory: int = 0
    ) -> None:
        """`max_output`, `max_memory` and `parts_memory` in bytes; with 0 of the last there are no parts."""
        self.kind = kind
        self._max_output = max_output
        self._output = 0
        self._window = Window(kind, min(max_memory, MAX_MEMORY) if kind == "xz" else max_memory)
        self.parts_memory = parts_memory
        """What the parts that are inflated side by side may take together."""
        self.notes: list[str] = []
        """What was passed over behind the end, in words for people."""
        intake = Intake(kind)
        steps = _parse(kind, intake, self._window, self.notes, parts_memory)
        self._parser: Parser[Part | bytes] = Parser(intake, steps)

    @property
    def held(self) -> int:
        """Bytes that the window takes, once there is one."""
        return self._window.size

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Take the next bytes and give what they inflate to; the views stay valid as long as they are held.

        Raises:
            ImageTooLarge: more than `max_output` bytes have come out; the last piece is withheld.
            ImageDamaged: the stream is damaged, or followed by what may be the rest of one.
            ImageUnsafe: it needs more memory than `max_memory` (check `memory_limit`).
        """
        return self._count(_inflated(self.cut(data)))

    def finish(self) -> None:
        """The file has ended.

        Raises:
            ImageDamaged: it is not whole.
        """
        for _ in self.cut_rest():
            raise RuntimeError(f"the {self.kind} stream kept bytes back")

    def cut(self, data: memoryview) -> Iterator[Part | bytes]:
        """Take the next bytes of the file; gives parts of it, and what it inflates to where it cannot be divided.

        Raises:
            ImageDamaged, ImageUnsafe: as `feed`.
        """
        return self._parser.feed(data)

    def cut_rest(self) -> Iterator[Part | bytes]:
        """The file has ended: the last parts.

        Raises:
            ImageDamaged: it is not whole.
        """
        return self._parser.finish()

    def join(self, inflated: Iterator[Inflated]) -> Iterator[memoryview]:
        """Take all that was cut, in the order of the file, each with what it inflates to; gives the same as `feed`.

        Raises:
            ImageTooLarge, ImageDamaged: as `feed`.
        """
        if self.kind == "bzip2" and self.parts_memory:
            from agent.formats.bzip2 import join_segments  # noqa: PLC0415 - see _parse

            return self._count(join_segments(inflated, self.notes))
        return self._count(piece for _, pieces in inflated for piece in pieces)

    def _count(self, pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            self._output += len(piece)
            if self._output > self._max_output:
                raise ImageTooLarge(self._max_output)
            yield memoryview(piece)


def _inflated(cuts: Iterable[Part | bytes]) -> Iterator[bytes]:
    for cut in cuts:
        if isinstance(cut, Part):
            yield from cut.inflate()
        else:
            yield cut


def _parse(kind: Kind, intake: Intake, window: Window, notes: list[str], parts_memory: int) -> Cuts:
    """What takes the file apart. No library but its own is loaded: beside a long window there is little room."""
    match kind:
        case "gzip":
            from agent.formats.gzip import gzip_members  # noqa: PLC0415

            return gzip_members(intake, notes, divide=parts_memory > 0)
        case "xz":
            from agent.formats.xz import xz_streams  # noqa: PLC0415

            return xz_streams(intake, window, parts_memory)
        case "zstd":
            from agent.formats.zstd import zstd_frames  # noqa: PLC0415

            return zstd_frames(intake, window, parts_memory)
        case "bzip2":
            from agent.formats.bzip2 import bzip2_segments, bzip2_streams  # noqa: PLC0415

            return bzip2_segments(intake) if parts_memory else bzip2_streams(intake, notes)
        case "lz4":
            from agent.formats.lz4 import lz4_frames  # noqa: PLC0415

            return lz4_frames(intake)
