"""Every disk that a power cut could leave: the prefixes of a record of writes, with choices of what was not flushed.

What has been flushed is on the disk; of what has not been, any sector may be there or not.
"""

import random
from collections.abc import Iterable, Iterator

from agent.units import MiB
from tests.kit.deployments import Outcome

SECTOR = 512
SAMPLES = 12
Write = tuple[int, bytes]


def steps(outcome: Outcome) -> Iterator[Write | None]:
    """The record of a deployment: what was written where, zeros as zeros; None for a flush."""
    at = 0
    for name, offset, length in outcome.calls:
        if name == "flush":
            yield None
        elif name == "zero":
            yield offset, bytes(length)
        else:
            yield offset, outcome.data[at : at + length]
            at += length
    assert at == len(outcome.data)


def in_sectors(write: Write, size: int) -> list[Write]:
    """A write in the pieces that a power cut can part: sectors at the ends of the disk; elsewhere, where nothing is to
    be shown, the whole."""
    offset, data = write
    if MiB <= offset and offset + len(data) <= size - MiB:
        return [write]
    return [(offset + at, data[at : at + SECTOR]) for at in range(0, len(data), SECTOR)]


def choices(pieces: list[Write], chance: random.Random) -> Iterator[list[Write]]:
    """What of the unflushed pieces may have reached the disk: nothing, all, all but one, one, random ones."""
    yield []
    yield pieces
    numbers = sorted({*range(min(4, len(pieces))), *range(max(0, len(pieces) - 4), len(pieces))})
    for number in numbers:
        yield [pieces[number]]
        yield pieces[:number] + pieces[number + 1 :]
    for _ in range(SAMPLES):
        share = chance.choice((0.01, 0.5, 0.99))
        yield [piece for piece in pieces if chance.random() < share]


class Medium:
    """What is durable, with a choice of what is not laid over it for a while."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)

    def apply(self, writes: Iterable[Write]) -> list[Write]:
        """Write, and give what puts it back."""
        undo = []
        for offset, data in writes:
            undo.append((offset, bytes(self.content[offset : offset + len(data)])))
            self.content[offset : offset + len(data)] = data
        return undo[::-1]

    def replay(self, record: Iterable[Write | None]) -> list[Write]:
        """Write all; give what was never flushed."""
        pending: list[Write] = []
        for step in record:
            if step is None:
                pending = []
            else:
                self.apply([step])
                pending.append(step)
        return pending


def crashes(old: bytes, record: list[Write | None], chance: random.Random) -> Iterator[tuple[int, bytearray]]:
    """Each disk that a power cut could leave, after so many steps of the record. It is the same object each time."""
    medium = Medium(old)
    pieces: list[Write] = []
    for number, step in enumerate(record, 1):
        if step is None:
            medium.apply(pieces)
            pieces = []
        else:
            pieces += in_sectors(step, len(old))
        # Without a first sector nobody looks at what lies between the ends.
        visible = any(medium.content[:SECTOR]) or any(offset < SECTOR for offset, _ in pieces)
        for chosen in choices(pieces if visible else [p for p in pieces if len(p[1]) <= SECTOR], chance):
            undo = medium.apply(chosen)
            yield number, medium.content
            medium.apply(undo)


def state(content: bytes | bytearray, old: bytes, new: bytes | None) -> str:
    """What such a disk is: `old`, `headless` or `blank`, `new`, or `BROKEN`; without `new` there is no whole one."""
    if not any(content[:SECTOR]):
        return "blank" if content[:MiB] == content[-MiB:] == bytes(MiB) else "headless"
    if content == old:
        return "old"
    return "new" if content == new else "BROKEN"
