"""The addresses of this machine, for whoever stands before it and wants to know where it can be reached."""

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

# linux/sockios.h; netdevice(7): the name in 16 bytes, then a sockaddr_in with the address at byte 4 of it.
_SIOCGIFADDR = 0x8915
_IFREQ = struct.Struct("16s24x")
_ADDRESS = slice(20, 24)
_IF_INET6 = Path("/proc/net/if_inet6")
_GLOBAL_SCOPE = "00"
MOST = 8
"""Addresses that are told."""


def addresses() -> list[str]:
    """The first IPv4 address of each interface, then the global IPv6 ones, at most MOST. Waits for no device."""
    found = [*_ipv4(), *_ipv6()]
    return [text for text in dict.fromkeys(found) if not ipaddress.ip_address(text).is_loopback][:MOST]


def _ipv4() -> list[str]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, _IFREQ.pack(name.encode()))
                found.append(socket.inet_ntoa(answer[_ADDRESS]))
    return found


def _ipv6() -> list[str]:
    """Lines of `address index length scope flags name`, all but the name in hexadecimal digits."""
    try:
        lines = _IF_INET6.read_text(encoding="ascii").splitlines()
    except OSError:  # a kernel without IPv6
        return []
    fields = [line.split() for line in lines]
    return [
        str(ipaddress.IPv6Address(bytes.fromhex(field[0]))) for field in fields if field[3] == _GLOBAL_SCOPE
    ]
