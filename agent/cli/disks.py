"""`byoi disks`: the inventory, the disk groups, and why a disk is not eligible."""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.aio import run_blocking
from agent.cli.client import Client, socket_path
from agent.cli.commands import SOCKET_VARIABLE
from agent.cli.failures import Unreachable
from agent.cli.groups import configured_groups
from agent.cli.output import EXIT_DONE, print_json, print_stderr, print_stdout
from agent.text import printable
from agent.units import format_size


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
    if options.json:
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


def _has_configured_groups(document: Mapping[str, Any]) -> bool:
    groups = document.get("groups")
    return isinstance(groups, list) and any(
        isinstance(group, dict) and group.get("configured") for group in groups
    )


def _print_table(document: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "disk", "size", "sectors", "kind", "model", "serial", "eligible"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for disk in document["disks"]:
        if isinstance(disk, dict):
            table.add_row(*(Text(printable(cell)) for cell in _row(disk)))
    console = Console(highlight=False)
    with console.capture() as drawn:
        console.print(table, end="")
    print_stdout(drawn.get())


def _row(disk: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one disk; "-" where the document does not say."""

    def text(key: str) -> str:
        value = disk.get(key)
        return "-" if value is None or value == "" else str(value)

    size, reasons = disk.get("size"), disk.get("reasons")
    reasons = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
    transport = text("transport") if disk.get("transport") else text("kind")
    return (
        text("diskGroupId"),
        text("path"),
        format_size(size) if isinstance(size, int) and 0 <= size < 2**63 else "-",
        f"{text('logicalSectorSize')}/{text('physicalSectorSize')}",
        f"{transport} {'rotating' if disk.get('rotational') else 'solid'}",
        text("model"),
        text("serial"),
        "no: " + "; ".join(reasons) if reasons else "yes",
    )
