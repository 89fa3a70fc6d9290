"""The runner: carries out a plan, stage by stage, and leaves the disk in one of two states.

Either the commit was reached and the disk holds the verified system, or both ends of the disk are zero and
nothing boots. There is nothing between, whatever fails and whenever it is cancelled.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from agent.aio import run_blocking
from agent.deploy.plan import Facts, Plan, plan
from agent.deploy.target import Options, find_firmware, find_target, is_chosen_by_name, make_drive
from agent.deploy.tracker import Tracker
from agent.errors import DeployError, InternalFault, JobCancelled
from agent.formats.image import ImageFacts
from agent.host.drive import Drive
from agent.lean import structlog
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

_UNTOUCHED = "Nothing was written: the disk holds what it held before."
_UNTOUCHED_NOW = (
    "This attempt wrote nothing; an earlier one may have wiped the disk. Deploy again to install a system."
)
_UNWIPED = (
    "The disk fails, and what is on it is not known: it may boot the old system, the new one, or none. "
    "Look at the kernel's log and at SMART, and deploy again or to another disk."
)


def _nobody(_: DeployEvent) -> None:
    """The listener of a deployment that nobody watches."""


async def _unkept(_: Seal) -> None:
    """What happens to the seal of a deployment that has no journal."""


class Deployment:
    """One job on its way to one disk. `run` is called once; `snapshot` at any time."""

    def __init__(
        self,
        job: Job,
        options: Options,
        listener: Listener = _nobody,
        *,
        keep: Callable[[Seal], Awaitable[None]] = _unkept,
        attempt: int = 1,
        floor: float = 0.0,
    ) -> None:
        """Nothing happens yet.

        Args:
            job: what is to be deployed.
            options: how, and where to.
            listener: is told the events, on the event loop.
            keep: is awaited right before the commit, to make the seal durable.
            attempt: which one this is, where an agent that was restarted begins again.
            floor: the percentage that clients have seen of the attempt before.
        """
        self._job = job
        self._options = options
        self._keep = keep
        self._tracker = Tracker(job, options.server_name, listener, attempt=attempt, floor=floor)
        self._is_first = attempt == 1
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
            self._fail(self._cancelled())
            raise
        except DeployError as error:
            log.info("deploy_failed", code=error.code, message=error.message, detail=error.detail)
            self._fail(error)
        except Exception as error:
            log.exception("deploy_crashed")
            self._fail(InternalFault(reason=type(error).__name__))
        return self._tracker.snapshot()

    def _cancelled(self) -> JobCancelled:
        if self._ctx is not None and self._ctx.disk is not None:
            return JobCancelled()
        return JobCancelled(hint=_UNTOUCHED if self._is_first else _UNTOUCHED_NOW)

    def _fail(self, error: DeployError) -> None:
        # Cleaning up can fail or be cancelled too, but it undoes no disk that has been committed and verified.
        if self._tracker.state is State.DONE:
            return
        if self._unwiped is not None:
            error.detail = f"{error.detail}; {self._unwiped}" if error.detail else self._unwiped
            error.hint = _UNWIPED
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
        facts = self._facts(target, drive)
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

    def _facts(self, target: Disk, drive: Drive | None, image: ImageFacts | None = None) -> Facts:
        return Facts(
            target=target,
            explicit=is_chosen_by_name(self._options),
            firmware=find_firmware(target, self._options),
            policy=self._options.policy,
            drive_size=None if drive is None else len(drive.image),
            image=image,
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
        try:
            tracker.next()
            await run_blocking(claim, ctx)
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
            tracker.next()
        except BaseException as error:
            if tracker.state in UNCOMMITTED and ctx.disk is not None:
                await self._abandon(ctx, error)
            raise

    async def _abandon(self, ctx: Context, reason: BaseException) -> None:
        """Make sure once more that nothing boots from a disk that was not committed."""
        disk = ctx.disk
        if disk is None:
            return

        def wipe() -> None:
            try:
                wipe_ends(disk)
            except OSError as error:  # kept here: a cancellation meanwhile would outrank it
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
