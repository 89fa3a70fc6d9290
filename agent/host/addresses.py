"""The addresses at which this machine can be reached, as the kernel tells them by rtnetlink(7), and by its routes."""

import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

# linux/netlink.h and linux/rtnetlink.h
_NETLINK_ROUTE = 0
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RT_SCOPE_LINK = 253
# linux/if_addr.h: addresses of a point-to-point link have the peer's in IFA_ADDRESS.
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_UNUSABLE = 0x08 | 0x20 | 0x40
"""IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE: nobody should begin anything with such an address."""

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg
_ATTRIBUTE = struct.Struct("=HH")  # rtattr
_SECONDS = 2.0


def machine_addresses() -> tuple[str, ...]:
    """IPv4 before IPv6, each in the order of the interfaces; without those of the machine itself and of a link.

    Raises:
        OSError: the kernel does not tell.
    """
    found = [address for answer in _answers() for address in read_addresses(answer)]
    return tuple(sorted(dict.fromkeys(found), key=lambda address: ":" in address))


def interface_addresses() -> dict[str, tuple[str, ...]]:
    """The addresses of each interface by its name; those that are for its link only come last.

    Raises:
        OSError: the kernel does not tell.
    """
    found: dict[str, list[tuple[bool, str]]] = {}
    for answer in _answers():
        for index, scope, address in _usable(answer):
            with suppress(OSError):  # it is gone since
                found.setdefault(socket.if_indextoname(index), []).append((scope >= _RT_SCOPE_LINK, address))
    return {
        name: tuple(address for _, address in sorted(several, key=lambda pair: pair[0]))
        for name, several in found.items()
    }


def _answers() -> Iterator[bytes]:
    """The datagrams of the kernel's answer to the question for all addresses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as netlink:
        netlink.settimeout(_SECONDS)
        length = _HEADER.size + _ADDRESS.size
        question = _HEADER.pack(length, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
        netlink.send(question + _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        while True:
            answer = netlink.recv(65536)
            yield answer
            if not answer or _is_last(answer):
                return


def address_towards(host: str) -> str:
    """The address of this machine that packets to `host` come from. Blocking: the host's name may have to be found.

    Raises:
        OSError: there is no route, or nobody knows the name.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol) as probe:
        probe.connect(address)  # of a datagram socket: nothing is sent
        return str(probe.getsockname()[0])


def read_addresses(answer: bytes) -> list[str]:
    """The addresses in one datagram of the answer that others may use."""
    return [address for _, scope, address in _usable(answer) if scope < _RT_SCOPE_LINK]


def _usable(answer: bytes) -> Iterator[tuple[int, int, str]]:
    """Interface index, scope and address of each that is more than the machine's own, in one datagram."""
    for kind, body in _messages(answer):
        if kind != _RTM_NEWADDR or len(body) < _ADDRESS.size:
            continue
        family, _, flags, scope, index = _ADDRESS.unpack_from(body)
        if scope > _RT_SCOPE_LINK or flags & _UNUSABLE:
            continue
        given = dict(_attributes(body[_ADDRESS.size :]))
        packed = given.get(_IFA_LOCAL, given.get(_IFA_ADDRESS, b""))
        if (family, len(packed)) in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            yield index, scope, str(ipaddress.ip_address(packed))


def _is_last(answer: bytes) -> bool:
    return any(kind in (_NLMSG_DONE, _NLMSG_ERROR) for kind, _ in _messages(answer))


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message."""
    while len(answer) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(answer)
        if length < _HEADER.size:
            return
        yield kind, answer[_HEADER.size : length]
        answer = answer[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
