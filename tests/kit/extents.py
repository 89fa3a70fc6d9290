"""What a compressed extent puts on the disk, by the very code that a deployment uses."""

from agent.formats.extent import Inflate
from agent.transfer.inflate import inflate


def inflated(extent: Inflate) -> bytes:
    """The bytes of the guest disk."""
    target = bytearray(extent.inflated)
    inflate(extent, memoryview(target))
    return bytes(target[: extent.length])
