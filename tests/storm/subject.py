"""What a subject of the images storm is: a sample, what reads it, and what is known of what it holds."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

Read = Callable[[bytes, random.Random], bytes]


def as_it_is(data: bytes, chance: random.Random) -> bytes:
    return data


@dataclass(frozen=True)
class Subject:
    """A format, or something else that is parsed."""

    name: str
    data: bytes = field(repr=False)
    read: Read = field(repr=False)
    """Gives what the file holds; an empty one where there is nothing to compare."""
    content: bytes = field(default=b"", repr=False)
    qemu: str = ""
    """The format's name for qemu-img, where it reads it too."""
    sealed: bool = False
    """Checksums of its own find every change."""
    refusals: tuple[type[Exception], ...] = ()
    mended: Callable[[bytes, random.Random], bytes] = field(default=as_it_is, repr=False)
    """Makes checksums right again, or the storm would see nothing but them."""


def parser(parse: Callable[[bytes], object]) -> Read:
    """A reader of something whose content there is nothing to compare with."""

    def read(data: bytes, chance: random.Random) -> bytes:
        parse(data)
        return b""

    return read
