"""Reads LLDP frames: what a switch tells of itself on a port. Pure. Source: IEEE 802.1AB-2016, clauses 7 and 8."""

from collections.abc import Iterator

ETHERTYPE = 0x88CC
GROUPS = (b"\x01\x80\xc2\x00\x00\x0e", b"\x01\x80\xc2\x00\x00\x03", b"\x01\x80\xc2\x00\x00\x00")
"""The addresses that LLDP frames are sent to: nearest bridge, nearest non-TPMR bridge, nearest customer bridge."""

Tlv = tuple[int, bytes]
"""Type and value."""

_HEADER_BYTES = 14  # destination, source, EtherType
_END = 0


def read_tlvs(frame: bytes) -> tuple[Tlv, ...]:
    """The TLVs of an Ethernet frame, without the one that ends the list; none if it is no LLDP frame.

    Of a frame that is cut those are given that are whole.
    """
    if int.from_bytes(frame[12:_HEADER_BYTES], "big") != ETHERTYPE:
        return ()
    return tuple(_tlvs(frame[_HEADER_BYTES:]))


def _tlvs(data: bytes) -> Iterator[Tlv]:
    while len(data) >= 2:
        head = int.from_bytes(data[:2], "big")
        kind, length = head >> 9, head & 0x1FF
        if kind == _END or len(data) < 2 + length:
            return
        yield kind, data[2 : 2 + length]
        data = data[2 + length :]
