"""Parts of a compressed file that inflate by themselves: what several cores can work on at once.

A parser of a compressed stream gives pieces of what is in it, and where it was allowed memory for that, parts instead:
the next stretch of the file, cut out as it is. Whoever drives the parser inflates parts in any thread, and takes what
comes out of them in the order of the file. What the file says about lengths is believed to choose what becomes a part,
and no further: a part holds what has come, and is inflated piece by piece.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from agent.units import MiB

# Nothing that is longer becomes a part, whatever the memory: it would come late, all at once.
MAX_INFLATED = 256 * MiB


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the file, in order, that needs nothing from before it. Sizes in bytes."""

    length: int
    """Its compressed bytes, which it holds."""
    window: int
    """What inflating takes beside them."""
    ahead: int
    """What it inflates to, as far as is known: so much of it may wait until it is its turn."""
    inflate: Callable[[], Iterator[bytes]]
    """Gives what is in it, in pieces of at most 256 KiB, once, in any thread.

    Raises:
        ImageDamaged: as the parser would.
    """

    @property
    def memory(self) -> int:
        """All that it takes until it has been used."""
        return self.length + self.window + self.ahead


# What a parser gives: pieces, parts, and None where it needs more bytes.
Cuts = Generator[bytes | Part | None, None, None]


# What was cut, and what it inflates to; None for what came inflated.
Inflated = tuple[Part | None, Iterator[bytes | memoryview]]


def fits(memory: int, *takes: int) -> bool:
    """Whether parts that take so much can be inflated side by side in `memory` bytes: two at least."""
    return 2 * sum(takes) <= memory
