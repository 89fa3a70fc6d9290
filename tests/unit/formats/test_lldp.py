"""LLDP frames: whole ones, those of others, and those that are cut."""

import pytest

from agent.formats.lldp import read_tlvs

HEAD = b"\x01\x80\xc2\x00\x00\x0e" + b"\x52\x54\x00\x00\x00\x01" + b"\x88\xcc"


def tlv(kind: int, value: bytes) -> bytes:
    return (kind << 9 | len(value)).to_bytes(2, "big") + value


CHASSIS = tlv(1, b"\x04\x52\x54\x00\x00\x00\x01")
LONG = tlv(127, b"\x00\x80\xc2\x03" + bytes(500))


def test_the_list_ends_where_the_frame_says_so_and_not_at_its_padding():
    frame = HEAD + CHASSIS + LONG + tlv(0, b"") + bytes(46)
    assert read_tlvs(frame) == ((1, CHASSIS[2:]), (127, LONG[2:]))


@pytest.mark.parametrize("cut", range(len(HEAD + CHASSIS + LONG)))
def test_of_a_frame_that_is_cut_whole_values_are_given(cut):
    tlvs = read_tlvs((HEAD + CHASSIS + LONG)[:cut])
    assert tlvs == (((1, CHASSIS[2:]),) if cut >= len(HEAD + CHASSIS) else ())


def test_another_protocol_is_not_read():
    assert read_tlvs(HEAD[:12] + b"\x08\x00" + CHASSIS) == ()
