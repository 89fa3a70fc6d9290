"""What the kernel answers to the question for addresses, and what is left out of it."""

import socket
import struct

import pytest

from agent.host.addresses import read_addresses

GLOBAL, LINK, HOST = 0, 253, 254
V4, V6 = socket.AF_INET, socket.AF_INET6


def message(address: str, *, scope: int = GLOBAL, flags: int = 0x80, peer: str | None = None) -> bytes:
    """RTM_NEWADDR as the kernel sends it: IFA_ADDRESS, for IPv4 IFA_LOCAL too, and a label."""
    family = V6 if ":" in address else V4
    attributes = attribute(1, socket.inet_pton(family, peer or address))
    if family == V4:
        attributes += attribute(2, socket.inet_pton(family, address)) + attribute(3, b"eth0\0")
    body = struct.pack("=BBBBi", family, 24, flags, scope, 2) + attributes
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 1) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 1, 0)


def test_those_that_others_can_use():
    answer = message("127.0.0.1", scope=HOST) + message("192.0.2.7") + message("fe80::1", scope=LINK)
    assert read_addresses(answer + message("2001:db8::7") + DONE) == ["192.0.2.7", "2001:db8::7"]


def test_of_a_point_to_point_link_the_own_end():
    assert read_addresses(message("192.0.2.7", peer="192.0.2.8")) == ["192.0.2.7"]


@pytest.mark.parametrize("flag", [0x08, 0x20, 0x40])
def test_one_that_is_being_checked_or_given_up_is_left_out(flag):
    assert read_addresses(message("2001:db8::7", flags=flag)) == []


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_an_answer_that_is_cut_harms_nothing(cut):
    whole = message("192.0.2.7") + message("2001:db8::7")
    assert set(read_addresses(whole[:cut])) <= {"192.0.2.7"}
    assert read_addresses(bytes(64)) == []
