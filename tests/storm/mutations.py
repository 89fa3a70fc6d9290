"""Mutations of a file: what a storage fault, a cut, or somebody with bad intent makes of it."""

import random
import re
from collections.abc import Callable

INTERESTING = (0, 1, 2, 3, 7, 8, 9, 16, 63, 64, 127, 128, 255, 256, 511, 512, 513, 4095, 4096, 65535, 65536,
               2**20, 2**21 - 1, 2**21, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1)  # fmt: skip
HEAD = 4096
SOMETHING = re.compile(rb"[^\0]")
MOST = 5


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with one to five mutations."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, MOST))):
        chance.choice(MUTATIONS)(out, chance)
    return bytes(out)


def _place(out: bytearray, chance: random.Random) -> int:
    """Somewhere: in the head, or where there is something, more often than among zeros."""
    if not out:
        return 0
    at = chance.randrange(min(HEAD, len(out)) if chance.random() < 0.4 else len(out))
    if out[at] or chance.random() < 0.15:
        return at
    found = SOMETHING.search(out, at) or SOMETHING.search(out)
    return (
        at
        if found is None
        else min(found.start() + chance.choice((0, 0, chance.randrange(64))), len(out) - 1)
    )


def _flip(out: bytearray, chance: random.Random) -> None:
    if out:
        out[_place(out, chance)] ^= 1 << chance.randrange(8)


def _byte(out: bytearray, chance: random.Random) -> None:
    if out:
        out[_place(out, chance)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def _number(out: bytearray, chance: random.Random) -> None:
    width, order = chance.choice((2, 4, 8)), chance.choice(("little", "big"))
    at = _place(out, chance) // width * width
    if at + width > len(out):
        return
    if chance.random() < 0.4:
        number = int.from_bytes(out[at : at + width], order) + chance.choice((-512, -1, 1, 512, 65536))
    else:
        number = chance.choice((*INTERESTING, len(out), len(out) // 512))
    out[at : at + width] = (number % 256**width).to_bytes(width, order)


def _cut(out: bytearray, chance: random.Random) -> None:
    del out[_place(out, chance) :]


def _longer(out: bytearray, chance: random.Random) -> None:
    out += chance.choice((bytes, chance.randbytes))(chance.randint(1, 2048))


def _copied(out: bytearray, chance: random.Random) -> None:
    """A piece is where another one was."""
    length = chance.choice((1, 4, 8, 64, 512, 4096))
    there, here = _place(out, chance), _place(out, chance)
    piece = out[there : there + length]
    out[here : here + len(piece)] = piece


def _zeroed(out: bytearray, chance: random.Random) -> None:
    at, length = _place(out, chance), chance.choice((1, 4, 8, 64, 512, 4096))
    length = min(length, len(out) - at)
    out[at : at + length] = bytes(length)


def _inserted(out: bytearray, chance: random.Random) -> None:
    at = _place(out, chance)
    out[at:at] = chance.choice((bytes, chance.randbytes))(chance.choice((1, 4, 512)))


def _removed(out: bytearray, chance: random.Random) -> None:
    at = _place(out, chance)
    del out[at : at + chance.choice((1, 4, 512))]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip,) * 4, *(_byte,) * 3, *(_number,) * 6, _cut, _longer, _copied, _copied, _zeroed, _inserted, _removed,
)  # fmt: skip
