"""Listens for what switches tell by LLDP. Blocks for as long as it is told to, and sends nothing.

The multicast groups of LLDP are joined while it listens; the interfaces are left as they were.
"""

import selectors
import socket
import struct
import time
from collections.abc import Collection
from contextlib import ExitStack

from agent.formats.lldp import ETHERTYPE, GROUPS, Tlv, read_tlvs

# linux/if_packet.h, which Python's socket module lacks
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST = 1, 0
_MEMBERSHIP = struct.Struct("=iHH8s")  # packet_mreq
_MAX_FRAME = 65536


def listen(names: Collection[str], seconds: float) -> dict[str, tuple[Tlv, ...]]:
    """The first LLDP frame that comes in on each interface.

    Args:
        names: of the interfaces. One that is down, or is gone, hears nothing.
        seconds: how long to wait; switches send every 30 seconds. It ends before if each interface has heard something.

    Returns:
        The TLVs by interface; empty for one that heard nothing.

    Raises:
        OSError: EPERM without the right to listen (CAP_NET_RAW).
    """
    heard: dict[str, tuple[Tlv, ...]] = dict.fromkeys(names, ())
    deadline = time.monotonic() + seconds
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for name in heard:
            listener = stack.enter_context(_socket())
            if _bind(listener, name):
                waiting.register(listener, selectors.EVENT_READ, name)
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                frame = _receive(key.fileobj)
                heard[key.data] = () if frame is None else read_tlvs(frame)
                if frame is None or heard[key.data]:
                    waiting.unregister(key.fileobj)
    return heard


def _socket() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    # Without a protocol it hears nothing until it is bound, so that no frame of another interface gets in.
    return socket.socket(socket.AF_PACKET, kind, 0)


def _bind(listener: socket.socket, name: str) -> bool:
    try:
        listener.bind((name, ETHERTYPE))
        index = socket.if_nametoindex(name)
        for group in GROUPS:
            membership = _MEMBERSHIP.pack(index, _PACKET_MR_MULTICAST, len(group), group)
            listener.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    except OSError:
        return False
    return True


def _receive(listener: object) -> bytes | None:
    """One frame; None where the interface is down, or gone."""
    if not isinstance(listener, socket.socket):
        return None
    try:
        return listener.recv(_MAX_FRAME)
    except BlockingIOError:
        return b""
    except OSError:
        return None
