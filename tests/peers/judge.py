"""What a disk holds after a tool had it, and whether that and what the tool said are right."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from agent.units import MiB

BLOCK = 4096
SECTOR = 512
ENTRIES = slice(2 * SECTOR, 3 * SECTOR)
"""The first partitions in a GPT of 512-byte sectors, which stay where they are on a larger disk."""


def what_is_on(disk: Path, content: bytes, old: bytes, image: bytes) -> str:
    """In words.

    Args:
        disk: the device, for tools that look at its table.
        content: all that is on it.
        old: what was on it before.
        image: what was to be on it, as the machine would see it.
    """
    if content == old:
        return "untouched"
    if not any(content[:SECTOR]):
        return "blank" if content[:MiB] == content[-MiB:] == bytes(MiB) else "no first sector"
    # The ends are a table's, which some fit to the disk.
    body, wanted = content[MiB : len(image) - MiB], image[MiB:-MiB]
    if body == wanted:
        return _table_of(disk)
    if content[ENTRIES] == image[ENTRIES]:
        return (
            "old data in its holes"
            if _differs_in_holes(body, wanted)
            else "part of the image, under its table"
        )
    return "something else"


def _table_of(disk: Path) -> str:
    said = subprocess.run(["sgdisk", "--verify", disk], capture_output=True, text=True, check=False).stdout
    if "Creating new GPT entries" in said:
        return "whole, no table that this disk's sectors show"
    return "whole" if "No problems found" in said else "whole, the backup GPT not at the end"


def _differs_in_holes(body: bytes, wanted: bytes) -> bool:
    """Whether only blocks are wrong that should be zero."""
    return len(body) == len(wanted) and all(
        body[at : at + BLOCK] == wanted[at : at + BLOCK] or not any(wanted[at : at + BLOCK])
        for at in range(0, len(wanted), BLOCK)
    )


WHOLE = "whole"
HARMLESS = ("untouched", "blank", "no first sector")


@dataclass(frozen=True)
class Outcome:
    """A cell of the table: a tool in a case."""

    ended: str
    """`done`, `error`, `killed`, `cancelled`, `waits`; `not run` and why."""
    disk: str = ""
    told: str = ""
    """The last line of what it said."""
    traces: str = ""
    """What should not be there, or should not have happened."""

    def is_right(self, *, refused: bool) -> bool:
        """Whether nobody is deceived: a whole system that is said to be one, or an error and nothing that boots.

        Args:
            refused: nothing can come of this case, and it has to be said before the first write.
        """
        if self.traces:
            return False
        if refused:
            return self.ended == "error" and self.disk == "untouched"
        if self.ended == "done":
            return self.disk == WHOLE
        return self.ended != "waits" and self.disk in HARMLESS
