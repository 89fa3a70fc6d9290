"""The mirror of a job with `raid`: what can be seen of the image before the first write, and the array as it is made.

All disks get the same bytes of the root from one stream, so the array is in sync as far as the image's root reaches;
what lies behind is left to the kernel. The recipe is that of docs/raid.md.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from agent.errors import RaidDisks, RaidLayout, ToolMissing
from agent.formats.grub_config import root_names
from agent.formats.tables.md import Array, member_gap, member_layout, member_writes, uuid_text
from agent.formats.tables.mirror import (
    HEAD_BYTES,
    layout_fault,
    renewed,
    room_fault,
    root_end,
    root_fault,
    root_of,
    widened,
)
from agent.formats.tables.read import Table
from agent.stages.context import Context
from agent.stages.preflight import guest_bytes
from agent.stages.targets import Target
from agent.text import printable


@dataclass(frozen=True, slots=True)
class Mirror:
    """An array over all targets, and the table of each, in their order."""

    array: Array
    tables: tuple[Table, ...]


async def examine_root(ctx: Context) -> None:
    """Put into `ctx.image` what is wrong with the root of a mirror, as far as its first bytes can be read by now.

    Raises:
        ImageDownload, ImageChanged: bytes were fetched by a request of their own, and that failed.
    """
    _, image = ctx.examined()
    table = image.table
    if ctx.job.raid is None or table is None or layout_fault(table, image.own_drive) is not None:
        return  # the plan refuses it
    root = root_of(table)
    head = await guest_bytes(ctx, root.start, min(HEAD_BYTES, root.size))
    if head is not None:
        ctx.image = replace(image, root_fault=root_fault(head))


def make_mirror(ctx: Context, table: Table, target: Target) -> Mirror:
    """Choose the array, once the slots of the config drive are known.

    Args:
        ctx: whose targets are written. The array is made for all of them: one that was kept out may be replaced.
        table: the image's.
        target: the one that the root is looked at on.

    Raises:
        RaidLayout: the image cannot become a mirror; found now where it could not be seen before the first write.
        RaidDisks: a disk has no room for a member.
        OSError: a disk cannot be read.
    """
    _, image = ctx.examined()
    if (fault := layout_fault(table, image.own_drive)) is not None:
        raise RaidLayout(reason=fault)
    root = root_of(table)
    if (fault := root_fault(target.opened()[1].read(root.start, min(HEAD_BYTES, root.size)))) is not None:
        raise RaidLayout(reason=fault)
    tables = []
    for one in ctx.targets:
        end = root_end(table, one.opened()[0].size, one.slot)
        if (fault := room_fault(table, end)) is not None:
            raise RaidDisks(reason=f"{one.found.path}: {fault}")
        tables.append(widened(renewed(table), end))
    wanted = None if ctx.job.raid is None else ctx.job.raid.uuid
    array = Array(
        uuid=wanted or uuid.uuid4(),
        ctime=int(ctx.clock()),
        size=min(member_layout(root_of(own).size).data_bytes for own in tables),
        resync=root.size,
        members=len(tables),
    )
    ctx.note(f"a mirror (raid1) of partition {root.number} over {_paths(ctx.live)}: {uuid_text(array.uuid)}")
    note_root_names(ctx, table, target)
    return Mirror(array, tuple(tables))


def note_root_names(ctx: Context, table: Table, target: Target) -> None:
    """Note how the image names its root, as far as an ESP has a grub.cfg that says so. Nothing is refused by it: the
    kernel's command line may as well be elsewhere. Blocking.
    """
    disk, sink = target.opened()
    for esp in table.partitions:
        if not esp.is_esp or esp.start < len(sink.head) or esp.end > sink.tail_offset:
            continue
        # A note is no reason to fail.
        with suppress(OSError, ToolMissing):
            for path, config in ctx.machine.grub_configs(disk.path, esp.start).items():
                names = root_names(config)
                where = f"raid1: {printable(path)} on the ESP names the root"
                if names.of_partition:
                    told = _shown(names.of_partition)
                    ctx.note(
                        f"{where} by a partition ({told}): so it does not start as a mirror; UUID or LABEL does"
                    )
                elif names.of_filesystem:
                    ctx.note(
                        f"{where} by its filesystem, as a mirror needs it ({_shown(names.of_filesystem)})"
                    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(printable(name, 80) for name in names[:3])


def write_member(target: Target, mirror: Mirror, role: int) -> None:
    """Make the root of a disk the member `role` of the array. What reaches into the disk's end waits for the commit.

    Raises:
        OSError: the disk failed.
    """
    _, sink = target.opened()
    root = root_of(mirror.tables[role])
    offset, length = member_gap(mirror.array, root.size)
    sink.zero(root.start + offset, length)
    for at, data in member_writes(mirror.array, role, root.size, uuid.uuid4()):
        sink.write(root.start + at, memoryview(data))


def _paths(targets: Sequence[Target]) -> str:
    return " and ".join(target.found.path for target in targets)
