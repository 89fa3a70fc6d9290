"""The maps of sparse members of a tar archive: which bytes are stored, and that zeros are everywhere else.

GNU tar has four ways to write one, and other tools follow it: in the header of a member of type `S` and blocks behind
it (formats oldgnu and gnu), in pax records (versions 0.0 and 0.1), and at the beginning of the member's data (1.0).
Source: the GNU tar manual, "Storing Sparse Files".
"""

from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence

from agent.formats.intake import Intake

# 4 MiB of memory. A file of 1 TiB has so many where one piece follows another every 4 MiB.
MAX_PIECES = 2**18

BLOCK = 512
# The old header: four pieces of 2 x 12 bytes, a flag, and the member's size; a block behind it has 21 and a flag.
_HEADER_MAP, _HEADER_PIECES, _HEADER_SIZE = 386, 4, 483
_BLOCK_PIECES = 21
_NUMBER_BYTES = 12
# Of 64 bits
_MAX_DIGITS = 19

Steps = Generator[None, None, None]


class SparseMap:
    """The stored pieces of one member, in ascending order. Memory: 16 bytes each, for at most 2^18 of them."""

    def __init__(self, intake: Intake, size: int) -> None:
        """`size` is the member's length in bytes, holes included."""
        self.size = size
        self.stored = 0
        """Bytes in all pieces."""
        self._intake = intake
        self._pieces = array("Q")
        self._end = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Offset in the member and length of each piece."""
        return zip(self._pieces[::2], self._pieces[1::2], strict=True)

    def add(self, offset: int, length: int) -> None:
        """Add the next piece.

        Raises:
            ImageDamaged: it overlaps the one before, ends behind the member, or is one too many.
        """
        if offset < self._end:
            raise self._intake.damaged(f"a sparse map has byte {offset} after byte {self._end}")
        if offset + length > self.size:
            raise self._intake.damaged(
                f"a sparse map reaches to byte {offset + length} of a member of {self.size} bytes"
            )
        if len(self._pieces) >= 2 * MAX_PIECES:
            raise self._intake.damaged(f"a sparse map has more than {MAX_PIECES} pieces")
        self._pieces.extend((offset, length))
        self._end = offset + length
        self.stored += length


def decimal(intake: Intake, text: bytes) -> int:
    """A decimal number of at most 64 bits; raises ImageDamaged if the text is something else."""
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise intake.damaged(f"a header before byte {intake.offset} has the number {text[:40]!r}")
    return int(text)


def map_of_records(intake: Intake, records: Mapping[str, Sequence[bytes]]) -> SparseMap:
    """The map in the pax records of a member, versions 0.0 and 0.1; a piece is added by each record or pair.

    Raises:
        ImageDamaged: the records contradict themselves.
    """
    found = SparseMap(intake, decimal(intake, _last(intake, records, "GNU.sparse.size")))
    if "GNU.sparse.map" in records:
        numbers = records["GNU.sparse.map"][-1].split(b",")
        offsets, lengths = numbers[::2], numbers[1::2]
    else:
        offsets = list(records.get("GNU.sparse.offset", ()))
        lengths = list(records.get("GNU.sparse.numbytes", ()))
    if len(offsets) != len(lengths):
        raise intake.damaged(f"a sparse map before byte {intake.offset} ends within a piece")
    for offset, length in zip(offsets, lengths, strict=True):
        found.add(decimal(intake, offset), decimal(intake, length))
    return found


def read_map_in_data(
    intake: Intake, records: Mapping[str, Sequence[bytes]]
) -> Generator[None, None, SparseMap]:
    """Take the map at the beginning of a member's data, version 1.0: lines of numbers, padded with zeros to a block.

    Raises:
        ImageDamaged: it contradicts itself.
    """
    version = [_last(intake, records, f"GNU.sparse.{part}") for part in ("major", "minor")]
    if version != [b"1", b"0"]:
        raise intake.damaged(f"a sparse map has the unknown version {b'.'.join(version)[:40]!r}")
    found = SparseMap(intake, decimal(intake, _last(intake, records, "GNU.sparse.realsize")))
    lines = _Lines(intake)
    for _ in range((yield from lines.number())):
        offset = yield from lines.number()
        found.add(offset, (yield from lines.number()))
    if lines.rest.strip(b"\0"):
        raise intake.damaged(f"a sparse map has more pieces than it says, before byte {intake.offset}")
    return found


def read_old_map(intake: Intake, header: bytes) -> Generator[None, None, SparseMap]:
    """Take the map of a member of type `S`: the end of its header, and the blocks behind it that continue it.

    Raises:
        ImageDamaged: it contradicts itself.
    """
    found = SparseMap(intake, old_number(intake, header[_HEADER_SIZE : _HEADER_SIZE + _NUMBER_BYTES]))
    block, start, count = header, _HEADER_MAP, _HEADER_PIECES
    while True:
        end = start + count * 2 * _NUMBER_BYTES
        for at in range(start, end, 2 * _NUMBER_BYTES):
            offset, length = (
                block[at : at + _NUMBER_BYTES],
                block[at + _NUMBER_BYTES : at + 2 * _NUMBER_BYTES],
            )
            if length[0]:
                found.add(old_number(intake, offset), old_number(intake, length))
        if not block[end]:
            return found
        block = bytes((yield from intake.take(BLOCK, "a sparse map")))
        start, count = 0, _BLOCK_PIECES


def old_number(intake: Intake, field: bytes) -> int:
    """A field of a header: octal digits, or GNU's base-256 form, whose first byte is 0x80.

    Raises:
        ImageDamaged: it is neither, or has more than 63 bits.
    """
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0") or b"0"
        if not all(digit in b"01234567" for digit in digits):
            raise intake.damaged(f"a header before byte {intake.offset} has no readable number in {field!r}")
        value = int(digits, 8)
    if value >= 2**63:
        raise intake.damaged(f"a header before byte {intake.offset} has the number {value}")
    return value


class _Lines:
    """The numbers of a map in a member's data, block by block."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.rest = b""
        """What of the last block has not been read."""

    def number(self) -> Generator[None, None, int]:
        line, newline, rest = self.rest.partition(b"\n")
        while not newline:
            if len(line) > _MAX_DIGITS:
                raise self._intake.damaged(f"a sparse map before byte {self._intake.offset} is malformed")
            line, newline, rest = (
                line + bytes((yield from self._intake.take(BLOCK, "a sparse map")))
            ).partition(b"\n")
        self.rest = rest
        return decimal(self._intake, line)


def _last(intake: Intake, records: Mapping[str, Sequence[bytes]], key: str) -> bytes:
    if key not in records:
        raise intake.damaged(f"a sparse member before byte {intake.offset} has no {key}")
    return records[key][-1]
