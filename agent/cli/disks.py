"""`byoi disks`: the inventory, the disk groups, and why a disk is not eligible."""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from agent.aio import run_blocking
from agent.cli.client import Client, socket_path
from agent.cli.columns import Column, table
from agent.cli.commands import SOCKET_VARIABLE
from agent.cli.failures import Unreachable
from agent.cli.groups import configured_groups
from agent.cli.output import EXIT_DONE, print_json, print_stderr, print_stdout
from agent.cli.screen import Style, styled, terminal_size
from agent.text import printable
from agent.units import format_size

# At 80 columns a disk has all that tells it from others; at 40 name, size, group, and whether it can be written.
COLUMNS = (
    Column("disk", least=12),
    Column("size", least=10, right=True),
    Column("model", least=8, rank=3),
    Column("serial/wwn", least=18, rank=4),
    Column("sector", least=6, rank=5, right=True),
    Column("physical", rank=7, extra=True, right=True),
    Column("kind", rank=6, extra=True),
    Column("wwn", rank=8, extra=True),
    Column("group", least=5, rank=1, right=True),
    Column("eligible", least=8, rank=2),
)


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi disks` out; returns the exit status.

    Raises:
        ClientError: the daemon refuses, or does not answer on a socket that was named.
        ConfigInvalid: the daemon does not run, and its configuration has faults.
        OutputLost: stdout does not take the list.
    """
    try:
        document = await Client(socket_path(options.socket)).disks()
        asked = True
    except Unreachable as error:
        if options.socket or os.environ.get(SOCKET_VARIABLE):
            raise
        document = await run_blocking(_read_inventory, options.config)
        asked = False
        _print_source(error, document)
    if options.groups:
        print_stdout("\n".join(printable(str(group)) for group in _group_ids(document)))
    elif options.json:
        print_json({**document, "agentAsked": asked, "configuredGroups": _has_configured_groups(document)})
    else:
        _print_table(document)
    return EXIT_DONE


def _read_inventory(config: str | None) -> Mapping[str, Any]:
    """The inventory as this process sees it, with the groups that the daemon would have. Blocking."""
    from agent.deploy.disks import inventory_document  # noqa: PLC0415 - pyudev is not needed where the daemon answers

    return inventory_document(configured_groups(config))


def _print_source(error: Unreachable, document: Mapping[str, Any]) -> None:
    """Say on stderr that the daemon was not asked, and where the groups come from."""
    groups = (
        "those of its configuration"
        if _has_configured_groups(document)
        else "made of like disks: it configures none"
    )
    for text in (f"byoi-agent was not asked: {error.message}", f"the disk groups are {groups}"):
        print_stderr(f"note: {text}")


def _group_ids(document: Mapping[str, Any]) -> list[Any]:
    groups = document.get("groups")
    return (
        [group.get("id") for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    )


def _has_configured_groups(document: Mapping[str, Any]) -> bool:
    groups = document.get("groups")
    return isinstance(groups, list) and any(
        isinstance(group, dict) and group.get("configured") for group in groups
    )


def _print_table(document: Mapping[str, Any]) -> None:
    # In a pipe or a file nothing is cut: a script may want any of it.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    width = terminal_size(os.environ, sys.stdout).columns if is_terminal else None
    heading, *lines = lines_of(document, width)
    if is_terminal and os.environ.get("TERM") not in ("dumb", "unknown"):
        heading = styled(heading, Style.BOLD)
    print_stdout("\n".join((heading, *lines)))


def lines_of(document: Mapping[str, Any], width: int | None) -> list[str]:
    """The inventory as lines: the headings, then one for each disk. `width`: of the terminal; None: cut nothing."""
    rows = [[printable(cell) for cell in _row(disk)] for disk in document["disks"] if isinstance(disk, dict)]
    return table(COLUMNS, rows, width)


def _row(disk: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one disk; "-" where the document does not say."""

    def text(key: str) -> str:
        value = disk.get(key)
        return "-" if value is None or value == "" else str(value)

    size, reasons = disk.get("size"), disk.get("reasons")
    reasons = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
    transport = text("transport") if disk.get("transport") else text("kind")
    return (
        text("path"),
        format_size(size) if isinstance(size, int) and 0 <= size < 2**63 else "-",
        text("model"),
        text("serial") if disk.get("serial") else text("wwn"),
        text("logicalSectorSize"),
        text("physicalSectorSize"),
        f"{transport} {'rotating' if disk.get('rotational') else 'solid'}",
        text("wwn"),
        text("diskGroupId"),
        "no: " + "; ".join(reasons) if reasons else "yes",
    )
