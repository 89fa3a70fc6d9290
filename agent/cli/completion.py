"""Completion for bash, zsh and fish, made from a command's parser by shtab, which an installed agent does not have."""

import argparse
from collections.abc import Iterator

import shtab

from agent.model.job import CHECKSUM_DIGITS, IMAGE_TYPES
from agent.model.selector import ANY, KEYS
from agent.model.signature import OVER, SIGNATURE_TYPES

# Whole disks: no partitions, no memory, no loop or optical drives, and nothing that is made of disks.
_DISKS = (
    "lsblk --nodeps --noheadings --paths --output NAME | grep -vE '^/dev/(loop|ram|zram|sr|md|dm-|mapper/)'"
)
_GROUPS = "byoi disks --groups"
_FILES = ("FILE", "FILE|URL", "PATH", "JOB.json")
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
            action.complete = _from_command("_byoi_disks", _DISKS)  # type: ignore[attr-defined]
        case "disk_group":
            action.complete = _from_command("_byoi_groups", _GROUPS)  # type: ignore[attr-defined]
        case "disk_hint":
            # And then an equals sign, which bash would take for its own.
            action.choices = (*KEYS, ANY)
        case "type":
            action.choices = IMAGE_TYPES
        case "checksum":
            # And then a colon, which bash and zsh would take for their own.
            action.choices = tuple(CHECKSUM_DIGITS)
        case "signature":
            action.choices = SIGNATURE_TYPES
        case "signature_over":
            action.choices = OVER
        case "trusted_key":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        case _:
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]


def _from_command(function: str, command: str) -> dict[str, object]:
    """Values that a command prints, for shtab; run when they are asked for. Its own `cmd` has zsh run it at once."""
    quiet = f"2>/dev/null {command}"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({quiet})",
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "$({quiet})" -- "$1"\n}}',
            "zsh": f'{function}() {{\n  compadd -- ${{(f)"$({quiet})"}}\n}}',
        },
    }


def _all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - the only way to them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _all_actions(command)
