"""What an extent puts on the disk; a compressed one by the very code that a deployment uses."""

from agent.formats.extent import Inflate, Write, Zero
from agent.transfer.inflate import inflate


def content_of(extent: object) -> bytes:
    """The bytes of the guest disk that a decoder of OVA, VMDK or of a compressed raw image gave."""
    match extent:
        case Write():
            return bytes(extent.data)
        case Zero():
            return bytes(extent.length)
        case Inflate():
            return inflated(extent)
        case _:
            raise AssertionError(f"no content: {extent!r}")


def inflated(extent: Inflate) -> bytes:
    """The bytes of the guest disk."""
    target = bytearray(extent.inflated)
    inflate(extent, memoryview(target))
    return bytes(target[: extent.length])
