"""The acts that the steps of a plan carry: what each stage does, in which order, and what is kept of it.

Started by the runner alone, one after the other. An act puts blocking work into threads and returns when its stage is
over; whatever it raises ends the deployment. It changes no state of the table in model/stage.py.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from agent.aio import run_blocking, run_lasting, run_together
from agent.deploy.target import make_drive
from agent.deploy.tracker import Tracker
from agent.errors import DiskIo, DiskReadback
from agent.model.disk_state import DiskState
from agent.model.seal import Seal
from agent.model.stage import State
from agent.model.verification import COMMIT, READBACK
from agent.stages.checksum import resolve_checksum
from agent.stages.claim import claim
from agent.stages.commit import commit, seal, settle
from agent.stages.config_drive import fetch_drive
from agent.stages.context import Context
from agent.stages.finish import finish
from agent.stages.libparted import examine_table
from agent.stages.mirror import examine_root
from agent.stages.preflight import find_own_drive, probe_image
from agent.stages.readback import ReadingBack, read_back
from agent.stages.registry import resolve_image
from agent.stages.signature import prepare_signature, verify_signature
from agent.stages.targets import Target
from agent.stages.verify import examine_written, verify
from agent.stages.write import write_image
from agent.transfer.record import Record

Keep = Callable[[DiskState | Seal], Awaitable[None]]
"""Makes durable what the next agent has to know, where this one dies: the state of the disk, or the seal."""


@dataclass(slots=True)
class Work:
    """What the acts of one deployment share."""

    ctx: Context
    tracker: Tracker
    keep: Keep
    decide: Callable[[], None]
    """Makes the plan again, with what is known of the image by now, and raises its first refusal."""

    async def set_disk_state(self, state: DiskState) -> None:
        """Say what is on the disk, to the status and to the next agent."""
        self.tracker.disk_state = state
        await self.keep(state)


Act = Callable[[Work], Awaitable[None]]


async def _preflight(work: Work) -> None:
    ctx = work.ctx
    await resolve_image(ctx)
    work.tracker.registry = None if ctx.resolved is None else ctx.resolved.document()
    await resolve_checksum(ctx)
    work.tracker.signature = ctx.vouched
    await prepare_signature(ctx)
    work.tracker.signature = ctx.vouched
    if await fetch_drive(ctx):
        await _make_drive(ctx, ctx.sector_size)
    try:
        await probe_image(ctx)
    finally:
        # Also of an image that is refused.
        work.tracker.image_type = ctx.container or None
        work.tracker.image_packing = ctx.packing
    await _use_image_facts(ctx)


async def _claim(work: Work) -> None:
    await work.set_disk_state(DiskState.UNKNOWN)
    await run_blocking(claim, work.ctx)
    await work.set_disk_state(DiskState.EMPTY)


async def _write(work: Work) -> None:
    await write_image(work.ctx, work.tracker.restart)


async def _verify(work: Work) -> None:
    ctx = work.ctx
    await run_blocking(verify, ctx)
    await run_blocking(verify_signature, ctx)
    work.tracker.signature = ctx.vouched
    _, image = ctx.examined()
    if not image.examined:
        # The guest's first bytes came late in the file: what preflight left open is decided now.
        await run_blocking(examine_written, ctx)
        await _use_image_facts(ctx)
        work.decide()
    work.tracker.checksum = f"{ctx.digest.algorithm}:{ctx.digest.hexdigest()}"


async def _read_back(work: Work) -> None:
    record = work.ctx.recorded()
    await _read_all(work, {target.found.path: record for target in work.ctx.live})
    work.tracker.read_back = READBACK
    work.ctx.record = None  # the memory is finish's


async def _read_all(work: Work, records: Mapping[str, Record]) -> None:
    """Compare the disks that are left with these records, by their paths, side by side."""
    ctx = work.ctx
    totals = [await run_blocking(records[target.found.path].total) for target in ctx.live]
    reading = ReadingBack(sum(totals))
    work.tracker.read_back_share = reading.share

    async def one(target: Target) -> None:
        disk, held = target.opened()
        record, passed = records[target.found.path], reading.passed(disk.path)
        try:
            await run_lasting(lambda: read_back(record, disk, held, passed), reading.stop, "byoi-readback")
        except (DiskIo, DiskReadback) as error:
            if not await run_blocking(ctx.goes_on_without, target, error):
                raise

    await run_together(*(one(target) for target in ctx.live))


async def _finish(work: Work) -> None:
    ctx = work.ctx
    records = {target.found.path: target.begin_record() for target in ctx.live if ctx.reads_back}
    await run_blocking(finish, ctx)
    if records:
        await _read_all(work, records)
    await work.keep(await run_blocking(seal, ctx))


async def _commit(work: Work) -> None:
    ctx = work.ctx
    sealed = ctx.live
    await run_blocking(commit, ctx)
    if ctx.live != sealed:
        await work.keep(await run_blocking(seal, ctx))
    await run_blocking(settle, ctx)
    work.tracker.disk_state = DiskState.COMMITTED
    work.tracker.read_back = work.tracker.read_back or COMMIT


async def _use_image_facts(ctx: Context) -> None:
    """Fit the config drive to the image, and look at the image's partitions."""
    _, image = ctx.examined()
    if ctx.to_file and image.sector_size is not None:
        # A file has no sectors of its own: the drive has to suit the disk that the image is for.
        await _make_drive(ctx, image.sector_size)
    if image.examined:
        ctx.drive_content = None  # it is not made again
    await find_own_drive(ctx)
    await examine_root(ctx)
    await examine_table(ctx)
    ctx.window = b""


async def _make_drive(ctx: Context, sector_size: int) -> None:
    ctx.drive, ctx.drive_tree = await run_blocking(make_drive, ctx.job, sector_size, ctx.drive_content)


ACTS: Mapping[State, Act] = {
    State.PREFLIGHT: _preflight,
    State.CLAIM: _claim,
    State.WRITE: _write,
    State.VERIFY: _verify,
    State.READBACK: _read_back,
    State.FINISH: _finish,
    State.COMMIT: _commit,
}
