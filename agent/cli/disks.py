"""`byoi disks`: the inventory, the disk groups, and why a disk is not eligible."""

import argparse
import os

from rich.console import Console
from rich.table import Table

from agent.aio import run_blocking
from agent.cli.output import EXIT_DONE, print_json
from agent.errors import DiskIo
from agent.host import inventory
from agent.model.disks import Disk, disk_groups, eligibility
from agent.units import format_size

NAME = "disks"
HELP = "list the disks and disk groups of this machine"
DESCRIPTION = """\
List the disks with the group that diskGroupId names, and the reasons why a disk cannot be written. Groups
are made of like disks (transport, rotation, size, model) and numbered in an order that does not depend on
how the kernel found them.
"""
EXAMPLES = """\
examples:
  byoi disks
  byoi disks --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `byoi disks`."""
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi disks` out."""
    try:
        found = await run_blocking(inventory.list_disks)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise DiskIo(device=error.filename or "the inventory", reason=reason) from error
    groups = {disk.path: group.id for group in disk_groups(found) for disk in group.disks}
    if options.json:
        print_json({"disks": [_document(disk, groups.get(disk.path)) for disk in found]})
    else:
        _print_table(found, groups)
    return EXIT_DONE


def _document(disk: Disk, group: int | None) -> dict[str, object]:
    reasons = eligibility(disk, explicit=False)
    return disk.to_json() | {"diskGroupId": group, "eligible": not reasons, "reasons": list(reasons)}


def _print_table(found: tuple[Disk, ...], groups: dict[str, int]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "disk", "size", "sectors", "kind", "model", "serial", "eligible"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for disk in found:
        reasons = eligibility(disk, explicit=False)
        kind = f"{disk.transport or disk.kind} {'rotating' if disk.rotational else 'solid'}"
        table.add_row(
            str(groups.get(disk.path, "-")),
            disk.path,
            format_size(disk.size),
            f"{disk.logical_sector_size}/{disk.physical_sector_size}",
            kind,
            disk.model or "-",
            disk.serial or "-",
            "no: " + "; ".join(reasons) if reasons else "yes",
        )
    Console(highlight=False).print(table)
