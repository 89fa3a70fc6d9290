"""Completion for bash, zsh and fish, made from a command's parser by shtab, which an installed agent does not have."""

import argparse
from collections.abc import Iterator

import shtab

from agent.model.job import CHECKSUM_DIGITS, IMAGE_TYPES

# Whole disks: no partitions, and neither memory (1), loop devices (7) nor optical drives (11).
_DISKS = "lsblk --nodeps --noheadings --paths --exclude 1,7,11 --output NAME"
_GROUPS = "byoi disks --groups"
_FILES = ("FILE", "PATH", "JOB.json")
"""Metavars of values that are paths."""


def completion(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The files of one command, by the names that the shells look for."""
    for action in _all_actions(parser):
        _tell_values(action)
    return {
        f"{parser.prog}.bash": shtab.complete(parser, "bash"),
        f"_{parser.prog}": shtab.complete(parser, "zsh"),
        f"{parser.prog}.fish": shtab.complete(parser, "fish"),
    }


def _tell_values(action: argparse.Action) -> None:
    """Say what may stand there, for shtab: in `choices`, or in an attribute of its own."""
    match action.dest:
        case "disk":
            action.complete = shtab.cmd(_DISKS)  # type: ignore[attr-defined]
        case "disk_group":
            action.complete = shtab.cmd(_GROUPS)  # type: ignore[attr-defined]
        case "type":
            action.choices = IMAGE_TYPES
        case "checksum":
            action.choices = tuple(
                CHECKSUM_DIGITS
            )  # and then a colon, which bash and zsh would take for their own
        case _ if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - the only way to them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _all_actions(command)
