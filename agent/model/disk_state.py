"""The state of the target disk when a deployment ends without success, and a sentence about it for people.

The tracker of a deployment keeps it, and so does the journal, across restarts of the agent. The error of a deployment
has it twice: as the member `diskState` for programs, and as the last sentence of the hint for people.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class DiskState(StrEnum):
    """What is on the target disk."""

    UNTOUCHED = "untouched"
    """Nothing was written."""
    EMPTY = "empty"
    """The first and last MiB were zeroed: firmware finds nothing to boot."""
    COMMITTED = "committed"
    """The deployed system is complete."""
    UNKNOWN = "unknown"
    """The first and last MiB may have been written, and could not be zeroed again or were not examined."""

    @property
    def sentence(self) -> str:
        """The state in one or two sentences for people."""
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


def without_disk_state(error: Mapping[str, Any]) -> tuple[dict[str, Any], DiskState | None]:
    """The document of an error with its hint alone, and the state that `with_disk_state` had added to that."""
    try:
        state = DiskState(error["diskState"])
    except (KeyError, ValueError):  # the error of a command, or a state of a newer agent
        return dict(error), None
    hint = (error["hint"] or "").removesuffix(state.sentence).rstrip()
    return {**error, "hint": hint or None}, state


def with_disk_state(error: Mapping[str, Any], state: DiskState) -> dict[str, Any]:
    """The document of an error with the disk's state added: as `diskState`, and at the end of the hint."""
    hint = " ".join(text for text in (error["hint"], state.sentence) if text)
    return {**error, "hint": hint, "diskState": state.value}
