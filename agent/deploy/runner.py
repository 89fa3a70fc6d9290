"""The runner: carries out a plan, stage by stage, and leaves the disk in one of two states.

Either the commit was reached and the disk holds the verified system, or both ends of the disk are zero and
nothing boots. There is nothing between, whatever fails and whenever it is cancelled.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from agent.aio import run_blocking
from agent.deploy.plan import Facts, Plan, plan
from agent.deploy.target import (
    Options,
    find_firmware,
    find_shared,
    find_target,
    is_chosen_by_name,
    make_drive,
)
from agent.deploy.tracker import Tracker
from agent.errors import DeployError, DiskIo, JobCancelled, unforeseen
from agent.formats.image import ImageFacts
from agent.host.disk import TargetDisk
from agent.host.drive import Drive
from agent.model.disk_state import DiskState
from agent.model.disks import Disk
from agent.model.events import DeployEvent, Listener
from agent.model.job import Job
from agent.model.seal import Seal
from agent.model.stage import UNCOMMITTED, State
from agent.model.status import Status
from agent.stages.claim import claim, wipe_ends
from agent.stages.commit import commit, seal, settle
from agent.stages.context import Context
from agent.stages.finish import finish
from agent.stages.opinion import examine_table
from agent.stages.preflight import find_own_drive, probe_image
from agent.stages.verify import examine_written, verify
from agent.stages.write import write_image
from agent.transfer.open import open_source

log = structlog.get_logger(__name__)


def _nobody(_: DeployEvent) -> None:
    """The listener of a deployment that nobody watches."""


Keep = Callable[[DiskState | Seal], Awaitable[None]]
"""Makes durable what the next agent has to know, where this one dies: the state of the disk, or the seal."""


async def _unkept(_: DiskState | Seal) -> None:
    """What is kept of a deployment that has no journal."""


class Deployment:
    """One job on its way to one disk. `run` is called once; `snapshot` at any time."""

    def __init__(
        self,
        job: Job,
        options: Options,
        listener: Listener = _nobody,
        *,
        keep: Keep = _unkept,
        attempt: int = 1,
        floor: float = 0.0,
        disk_state: DiskState = DiskState.UNTOUCHED,
    ) -> None:
        """Nothing happens yet.

        Args:
            job: what is to be deployed.
            options: how, and where to.
            listener: is told the events, on the event loop.
            keep: is awaited with the state of the disk before the claim and after it, and with the seal right
                before the commit.
            attempt: which one this is, where an agent that was restarted begins again.
            floor: the percentage that clients have seen of the attempt before.
            disk_state: what the attempt before left of the disk.
        """
        self._job = job
        self._options = options
        self._keep = keep
        self._tracker = Tracker(
            job, options.server_name, listener, attempt=attempt, floor=floor, disk_state=disk_state
        )
        self._ctx: Context | None = None
        self._unwiped: str | None = None
        """Why the ends of a disk that was not committed could not be wiped."""

    def snapshot(self) -> Status:
        """The status now."""
        return self._tracker.snapshot()

    def pulse(self) -> tuple[object, ...]:
        """Differs from the last one while anything moves: a stage, bytes, a retry, the disk (a long zeroing moves no
        bytes of the image).
        """
        tracker = self._tracker
        disk = None if self._ctx is None else self._ctx.disk
        moved = tracker.progress().bytes_downloaded, 0 if disk is None else disk.operations
        return tracker.state, tracker.attempt, tracker.noted, *moved

    async def preview(self) -> Plan:
        """The plan with all its refusals, from the same facts that `run` decides by. Nothing is written.

        Raises:
            DeployError: there is no such disk, or the image cannot be reached.
        """
        facts, ctx = await self._begin()
        try:
            first = plan(self._job, facts)
            return first if first.refusals else plan(self._job, await self._examine(facts, ctx))
        finally:
            await self._end(ctx)

    async def run(self) -> Status:
        """Deploy, and return the final status, `done` or `error`.

        Raises:
            asyncio.CancelledError: cancelled; by then the threads have stopped and the disk's ends are zero,
                unless nothing had been written yet, or the deployment was done already (the status tells).
        """
        try:
            await self._run()
        except asyncio.CancelledError:
            self._fail(JobCancelled())
            raise
        except DeployError as error:
            log.info("deploy_failed", code=error.code, message=error.message, detail=error.detail)
            self._fail(error)
        except Exception as error:
            log.exception("deploy_crashed")
            self._fail(unforeseen(error))
        return self._tracker.snapshot()

    def _fail(self, error: DeployError) -> None:
        # Cleaning up can fail or be cancelled too, but it undoes no disk that has been committed and verified.
        if self._tracker.state is State.DONE:
            return
        if self._unwiped is not None:
            error.detail = f"{error.detail}; {self._unwiped}" if error.detail else self._unwiped
            error.hint = error.hint or DiskIo.default_hint
        self._tracker.fail(error)
        # The tracker keeps the error, and its traceback would keep everything that was in use.
        error.__traceback__ = error.__cause__ = error.__context__ = None

    async def _run(self) -> None:
        self._tracker.next()
        facts, ctx = await self._begin()
        try:
            self._accept(plan(self._job, facts))
            facts = await self._examine(facts, ctx)
            self._accept(plan(self._job, facts))
            await self._write(facts, ctx)
        finally:
            await self._end(ctx)

    async def _begin(self) -> tuple[Facts, Context]:
        """Facts that need no image, and the context of all that follows."""
        job, options = self._job, self._options
        target = await run_blocking(find_target, job, options)
        self._tracker.disk = target.to_json()
        drive, tree = await run_blocking(make_drive, job, target.logical_sector_size)
        facts = self._facts(target, drive, shared=await run_blocking(find_shared, job, target))
        source = open_source(
            job.url,
            headers=[(header.key, header.value or "") for header in job.http_headers],
            checksummed=job.checksum is not None,
            ca_file=options.ca_file,
            limits=options.limits,
            on_event=self._tracker.source_event,
        )
        loop = asyncio.get_running_loop()

        def note(text: str) -> None:
            # Stages note things from their threads; the tracker belongs to the loop.
            loop.call_soon_threadsafe(self._tracker.note, text)

        ctx = Context(job=job, target=target, source=source, drive=drive, drive_tree=tree, note=note)
        self._ctx = ctx
        self._tracker.progress = ctx.meter.progress
        return facts, ctx

    def _facts(
        self, target: Disk, drive: Drive | None, image: ImageFacts | None = None, shared: str | None = None
    ) -> Facts:
        return Facts(
            target=target,
            explicit=is_chosen_by_name(self._options),
            firmware=find_firmware(target, self._options),
            policy=self._options.policy,
            drive_size=None if drive is None else len(drive.image),
            image=image,
            shared=shared,
        )

    async def _examine(self, facts: Facts, ctx: Context) -> Facts:
        await probe_image(ctx)
        return await self._suit(facts, ctx)

    async def _examine_late(self, facts: Facts, ctx: Context) -> None:
        """The guest's first bytes came late in the file: what was left open then is decided now, before the commit."""
        _, image = ctx.examined()
        if not image.examined:
            await run_blocking(examine_written, ctx)
            self._accept(plan(self._job, await self._suit(facts, ctx)))

    async def _suit(self, facts: Facts, ctx: Context) -> Facts:
        """The facts with those of the image, and a config drive that suits both."""
        _, image = ctx.examined()
        if facts.target.kind == "file" and image.sector_size is not None:
            # A file has no sectors of its own: the drive has to suit the disk that the image is for.
            ctx.drive, ctx.drive_tree = await run_blocking(make_drive, self._job, image.sector_size)
        await find_own_drive(ctx)
        await examine_table(ctx)
        ctx.window = b""
        return self._facts(facts.target, ctx.drive, ctx.image)

    def _accept(self, decided: Plan) -> None:
        if decided.refusals:
            raise decided.refusals[0]
        self._tracker.use_steps(decided.steps)

    async def _write(self, facts: Facts, ctx: Context) -> None:
        tracker = self._tracker
        before = tracker.disk_state
        try:
            tracker.next()
            await self._set_disk_state(DiskState.UNKNOWN)
            await run_blocking(claim, ctx)
            await self._set_disk_state(DiskState.EMPTY)
            tracker.next()
            await write_image(ctx, tracker.restart)
            tracker.next()
            await run_blocking(verify, ctx)
            await self._examine_late(facts, ctx)
            tracker.checksum = f"{ctx.digest.algorithm}:{ctx.digest.hexdigest()}"
            tracker.next()
            await run_blocking(finish, ctx)
            await self._keep(await run_blocking(seal, ctx))
            tracker.next()
            await run_blocking(commit, ctx)
            await run_blocking(settle, ctx)
            tracker.disk_state = DiskState.COMMITTED
            tracker.next()
        except BaseException as error:
            if ctx.disk is None:
                tracker.disk_state = before  # the claim did not come to it
            elif tracker.state in UNCOMMITTED:
                await self._abandon(ctx.disk, error)
            raise

    async def _set_disk_state(self, state: DiskState) -> None:
        self._tracker.disk_state = state
        await self._keep(state)

    async def _abandon(self, disk: TargetDisk, reason: BaseException) -> None:
        """Make sure once more that nothing boots from a disk that was not committed."""

        def wipe() -> None:
            # What came of it is kept here: a cancellation meanwhile would outrank it.
            self._tracker.disk_state = DiskState.UNKNOWN
            try:
                wipe_ends(disk)
                self._tracker.disk_state = DiskState.EMPTY
            except OSError as error:
                self._unwiped = (
                    f"the ends of {disk.path} could not be wiped: {error.strerror or type(error).__name__}"
                )

        try:
            await run_blocking(wipe)
        finally:
            if self._unwiped is not None:
                reason.add_note(self._unwiped)
                self._tracker.note(self._unwiped)

    async def _end(self, ctx: Context) -> None:
        try:
            with contextlib.suppress(OSError):
                await ctx.source.close()
        finally:
            ctx.close()  # a cancel in between must not keep the claim on the disk
            self._ctx = None
