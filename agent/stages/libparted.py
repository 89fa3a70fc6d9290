"""Whether the chain of logical partitions can be followed, and whether libparted reads the image's partition table.

Both are asked before the first write where the bytes can be read by then, else in finish. The commit asks libparted
again: what it only complains about then is a fault of the disk, not of the image.

The plan decides what follows. A chain that cannot be followed is refused. A complaint of libparted alone is a note,
since firmware and kernels boot from such tables: an ISO with an Apple partition map beside its table, or a GPT whose
usable space begins within the entries.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from agent.aio import run_blocking
from agent.formats.tables.layout import finish_head
from agent.formats.tables.mbr import Mbr, Writes, parse_logicals
from agent.formats.tables.partition import Partition
from agent.formats.tables.read import Table, TableError
from agent.host import parttable
from agent.stages.context import Context
from agent.stages.machine import Machine
from agent.stages.preflight import guest_bytes

_LIBPARTED_SECTOR = 512
"""The sector size that libparted assumes for a regular file, in bytes."""


async def examine_table(ctx: Context) -> None:
    """Put `chain_fault` or `libparted` into `ctx.image`, as far as the bytes for it can be read by now.

    Raises:
        ImageDownload, ImageChanged: bytes were fetched by a request of their own, and that failed.
    """
    _, image = ctx.examined()
    if image.table is None or not ctx.head_window:
        return
    try:
        records = await _extended_records(ctx, image.table)
        if records is None:
            return  # finish asks, when they are on the disk
        libparted = await run_blocking(_complaint_about_image, ctx, image.table, records)
    except TableError as error:
        ctx.image = replace(image, chain_fault=str(error))
    except parttable.PartedMissing:
        keep_missing(ctx)
    else:
        keep_complaint(ctx, libparted)


def keep_complaint(ctx: Context, libparted: str | None) -> None:
    """Put the answer of `complaint_about` into `ctx.image`, and make a note of it where it is a complaint."""
    _keep(ctx, libparted=libparted)


def keep_missing(ctx: Context) -> None:
    """Put into `ctx.image` that libparted cannot be asked, so that nobody tries again, and make a note of it."""
    _keep(ctx, libparted_missing=True)


def _keep(ctx: Context, **changes: Any) -> None:
    _, image = ctx.examined()
    ctx.image = replace(image, **changes)
    if ctx.image.libparted_note is not None:
        ctx.note(ctx.image.libparted_note)


def complaint_about(
    machine: Machine, table: Table, writes: Iterable[tuple[int, bytes]], disk_size: int
) -> str | None:
    """Libparted's words where it does not read `table` from these writes, empty where it does.

    None where it cannot be asked: it reads files with sectors of 512 bytes only, and one as large as the disk may not
    be possible.

    Raises:
        PartedMissing: it cannot be asked on this machine.
    """
    if table.sector_size != _LIBPARTED_SECTOR:
        return None
    try:
        return missing_partition(machine.partitions_in(writes, disk_size), table.partitions) or ""
    except parttable.TableRefused as error:
        return error.strerror
    except parttable.PartedMissing:
        raise
    except OSError:
        return None


def missing_partition(report: parttable.ParttableReport, partitions: Iterable[Partition]) -> str | None:
    """Which of the partitions libparted does not see, in words."""
    seen = {(part.start, part.size) for part in report.partitions}
    for part in partitions:
        if (part.start, part.size) not in seen:
            return f"libparted does not see the partition at byte {part.start} of {part.size} bytes"
    return None


def _complaint_about_image(ctx: Context, table: Table, records: Mapping[int, bytes]) -> str | None:
    try:
        finished = finish_head(
            ctx.head_window, table, ctx.room, None, unique_guid=uuid.uuid4(), drive_type="iso9660"
        )
    except TableError:
        return None  # it does not fit on the disk: the plan says so
    writes: Writes = ((0, finished.head), *finished.tail_writes, *finished.other_writes)
    return complaint_about(ctx.machine, table, (*writes, *records.items()), ctx.room)


async def _extended_records(ctx: Context, table: Table) -> Mapping[int, bytes] | None:
    """The EBRs of the image by their offsets, or None where they cannot be had yet.

    Raises:
        TableError: their chain cannot be followed.
    """
    records: dict[int, bytes] = {}
    if not isinstance(table, Mbr) or table.extended is None:
        return records

    def read(offset: int, length: int) -> bytes:
        if offset not in records:
            raise _NotRead(offset, length)
        return records[offset]

    while True:
        try:
            parse_logicals(read, table.extended, table.sector_size)
        except _NotRead as wanted:
            data = await guest_bytes(ctx, wanted.offset, wanted.length)
            if data is None:
                return None
            records[wanted.offset] = data
        else:
            return records


class _NotRead(Exception):
    """Bytes of the guest disk are wanted that are not here yet."""

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(offset, length)
        self.offset = offset
        self.length = length
