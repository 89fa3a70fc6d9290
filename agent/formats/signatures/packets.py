"""OpenPGP's packets (RFC 9580, section 4): taken apart, bounded, nothing decompressed or verified. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.formats.signatures.findings import Refused

SIGNATURE, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY, USER_ID, PUBLIC_SUBKEY = 2, 5, 6, 7, 13, 14
IGNORED = (10, 12, 17, 21)
"""Marker, trust, user attribute (a picture) and padding: they say nothing that is looked for."""

_NAMES = {
    1: "an encrypted session key",
    4: "a one-pass signature: a whole message, not a detached signature",
    8: "compressed data",
    9: "encrypted data",
    11: "literal data: a whole message, not a detached signature",
    18: "encrypted data",
}
MAX_PACKETS = 20_000


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet, and the bytes that it was read from."""

    tag: int
    body: bytes
    raw: bytes

    def __str__(self) -> str:
        return _NAMES.get(self.tag, f"a packet of type {self.tag}")


def read_packets(data: bytes) -> Iterator[Packet]:
    """The packets, one after the other.

    Raises:
        Refused: one is cut, or of a length that is not known before its end, or there are too many of them.
    """
    at = count = 0
    while at < len(data):
        tag, start, length = _header(data, at)
        if start + length > len(data):
            raise Refused(
                f"it is cut: a packet of {length} bytes begins at byte {at}, but there are {len(data)} bytes"
            )
        count += 1
        if count > MAX_PACKETS:
            raise Refused(f"it has more than {MAX_PACKETS} packets")
        yield Packet(tag, data[start : start + length], data[at : start + length])
        at = start + length


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Type, offset of the body, and length of the body."""
    first = data[at]
    if not first & 0x80:
        raise Refused(f"byte {at} does not begin a packet")
    if first & 0x40:
        length, size = read_length(data, at + 1)
        return first & 0x3F, at + 1 + size, length
    if first & 3 == 3:
        raise Refused(f"the packet at byte {at} does not say how long it is")
    size = 1 << (first & 3)
    return first >> 2 & 0xF, at + 1 + size, int.from_bytes(_cut(data, at + 1, size), "big")


def read_length(data: bytes, at: int) -> tuple[int, int]:
    """A length of the newer format, and how many bytes it takes (section 4.2.1; subpackets have the same)."""
    first = _cut(data, at, 1)[0]
    if first < 192:
        return first, 1
    if first < 224:
        return (first - 192 << 8) + _cut(data, at + 1, 1)[0] + 192, 2
    if first == 255:
        return int.from_bytes(_cut(data, at + 1, 4), "big"), 5
    raise Refused(f"a packet at byte {at} comes in parts, which keys and signatures do not")


def _cut(data: bytes, at: int, length: int) -> bytes:
    piece = data[at : at + length]
    if len(piece) < length:
        raise Refused(f"it is cut within the header of a packet, at byte {at}")
    return piece


def read_mpi_bits(body: bytes, at: int) -> int:
    """The length of a number in bits, as it says itself (section 3.2)."""
    return int.from_bytes(_cut(body, at, 2), "big")
