"""Reads the SMBIOS tables of a machine for the memory that is installed. Pure.

Source: DMTF DSP0134, SMBIOS 3.7, sections 6.1 (structures) and 7.18 (memory device).
"""

from collections.abc import Iterator

from agent.units import KiB, MiB

_MEMORY_DEVICE = 17
_END_OF_TABLE = 127
_MAX_STRUCTURES = 65536
_NOT_KNOWN, _EXTENDED = 0xFFFF, 0x7FFF


def installed_memory(tables: bytes) -> int:
    """The sum of all memory devices in bytes; 0 where none tells its size.

    Args:
        tables: the content of `/sys/firmware/dmi/tables/DMI`, cut or damaged as it may be.
    """
    return sum(_device_size(body) for kind, body in _structures(tables) if kind == _MEMORY_DEVICE)


def _structures(tables: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and formatted area of each structure. The strings behind the area end with two zeros."""
    at = 0
    for _ in range(_MAX_STRUCTURES):
        if at + 4 > len(tables):
            return
        kind, length = tables[at], tables[at + 1]
        if length < 4 or kind == _END_OF_TABLE or at + length > len(tables):
            return
        yield kind, tables[at : at + length]
        strings_end = tables.find(b"\0\0", at + length)
        if strings_end < 0:
            return
        at = strings_end + 2


def _device_size(body: bytes) -> int:
    size = int.from_bytes(body[0x0C:0x0E], "little")
    if len(body) < 0x0E or size == _NOT_KNOWN:
        return 0
    if size == _EXTENDED:
        return (int.from_bytes(body[0x1C:0x20], "little") & 0x7FFFFFFF) * MiB
    return (size & 0x7FFF) * (KiB if size & 0x8000 else MiB)
