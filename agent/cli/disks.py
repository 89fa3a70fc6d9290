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
from agent.cli.output import EXIT_DONE, print_json, say, tell
from agent.text import printable
from agent.units import format_size


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi disks` out."""
    try:
        document = await Client(socket_path(options.socket)).disks()
        asked = True
    except Unreachable as error:
        if options.socket or os.environ.get(SOCKET_VARIABLE):
            raise
        document = await run_blocking(_look, options.config)
        asked = False
        _tell_source(error, document)
    if options.json:
        print_json({**document, "agentAsked": asked, "configuredGroups": _has_configured(document)})
    else:
        _print_table(document)
    return EXIT_DONE


def _look(config: str | None) -> Mapping[str, Any]:
    """The inventory without the daemon, with the groups that it would have."""
    from agent.deploy.disks import inventory_document  # noqa: PLC0415 - much to load, for nothing where it was asked

    return inventory_document(configured_groups(config))


def _tell_source(error: Unreachable, document: Mapping[str, Any]) -> None:
    groups = (
        "those of its configuration"
        if _has_configured(document)
        else "made of like disks: it configures none"
    )
    for text in (f"byoi-agent was not asked: {error.message}", f"the disk groups are {groups}"):
        tell(f"note: {text}")


def _has_configured(document: Mapping[str, Any]) -> bool:
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
    say(drawn.get())


def _row(disk: Mapping[str, Any]) -> tuple[str, ...]:
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
