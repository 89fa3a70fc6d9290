"""Who is at the other end of a connection, as the kernel tells it."""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
_IPV6_SITE = 64
"""Bits of an IPv6 address that one site has in common: it can use all the others as it likes."""


@dataclass(frozen=True, slots=True)
class Peer:
    """An address and a port over the network, a user and a process on the Unix socket."""

    address: str = ""
    port: int = 0
    uid: int | None = None
    """None over the network."""
    pid: int = 0

    @property
    def is_remote(self) -> bool:
        """Whether it is connected over the network; who cannot be told is."""
        return self.uid is None

    @property
    def is_root(self) -> bool:
        """Whether it is root on the Unix socket."""
        return self.uid == 0

    @property
    def who(self) -> str:
        """Whose it is, from one connection to the next: a user, an IPv4 address, an IPv6 network of 64 bits."""
        if self.uid is not None:
            return f"uid {self.uid}"
        try:
            address = ip_address(self.address.partition("%")[0])
        except ValueError:
            return self.address
        if not isinstance(address, IPv6Address):
            return str(address)
        if address.ipv4_mapped is not None:  # a listener on [::] has IPv4 clients too
            return str(address.ipv4_mapped)
        return str(ip_network((address, _IPV6_SITE), strict=False))

    def __str__(self) -> str:
        if self.uid is not None:
            return f"uid {self.uid}, pid {self.pid}"
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def peer_of(client: socket.socket) -> Peer:
    """The other end of a connected socket.

    Raises:
        OSError: it is gone already.
    """
    if client.family == socket.AF_UNIX:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        return Peer(uid=uid, pid=pid)
    address, port, *_ = client.getpeername()
    return Peer(address=address, port=port)
