"""Partitions that the kernel is told of by its own call: it works where it reads no partition tables."""

import ctypes
import fcntl
import os
from pathlib import Path

# linux/blkpg.h
_BLKPG, _ADD, _DELETE = 0x1269, 1, 2


class _Partition(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("number", ctypes.c_int),
        ("names", ctypes.c_char * 128),
    )


class _Argument(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("length", ctypes.c_int),
        ("data", ctypes.POINTER(_Partition)),
    )


def add_partition(disk: Path | str, number: int, start: int, length: int) -> None:
    """Have the kernel know a partition; `start` and `length` in bytes."""
    _call(disk, _ADD, _Partition(start, length, number))


def remove_partition(disk: Path | str, number: int) -> None:
    """Have the kernel forget it."""
    _call(disk, _DELETE, _Partition(0, 0, number))


def _call(disk: Path | str, operation: int, partition: _Partition) -> None:
    argument = _Argument(operation, 0, ctypes.sizeof(partition), ctypes.pointer(partition))
    fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKPG, argument)
    finally:
        os.close(fd)
