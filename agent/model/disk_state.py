"""What a disk holds when a deployment has ended without success: the four states, and the words for them.

A fact of the deployment, kept by its tracker and, across restarts of the agent, in the journal. Every error of a
deployment tells it twice: as a member for programs, and as the last sentence of the hint for people.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class DiskState(StrEnum):
    """What is on the target disk."""

    UNTOUCHED = "untouched"
    """Nothing was written."""
    EMPTY = "empty"
    """Both ends were wiped: no firmware finds anything to boot."""
    COMMITTED = "committed"
    """The deployed system, whole."""
    UNKNOWN = "unknown"
    """The ends may have been written, and could not be wiped again or were not looked at."""

    @property
    def sentence(self) -> str:
        """The state in plain words."""
        return _SENTENCES[self]


_SENTENCES = {
    DiskState.UNTOUCHED: "Nothing was written: the disk holds what it held before.",
    DiskState.EMPTY: "The disk is empty and cannot boot: deploy again to install a system.",
    DiskState.COMMITTED: "The disk holds the deployed system and can boot.",
    DiskState.UNKNOWN: (
        "What is on the disk is not known: it may boot the old system, the new one, or none. "
        "Deploy again, to this or to another disk."
    ),
}


def with_disk_state(error: Mapping[str, Any], state: DiskState) -> dict[str, Any]:
    """The document of an error with the state of the disk: in `diskState`, and at the end of its hint."""
    hint = " ".join(text for text in (error["hint"], state.sentence) if text)
    return {**error, "hint": hint, "diskState": state.value}
