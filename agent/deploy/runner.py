"""The runner: carries out a plan, step by step, and answers for the state of the disks.

When `run` returns or raises, each disk is as it was (nothing was written), or they hold the verified system
(committed), or both ends of each are zero and nothing boots, whatever failed and whenever it was cancelled. Where the
ends could not be zeroed, because a disk fails, the error says so.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import structlog

from agent.aio import run_blocking
from agent.deploy.acts import Keep, Work
from agent.deploy.plan import Facts, Plan, Step, plan
from agent.deploy.target import (
    Options,
    chosen_by,
    find_firmware,
    find_shared,
    find_targets,
    is_chosen_by_name,
    make_drive,
)
from agent.deploy.tracker import Tracker
from agent.errors import DeployError, DiskIo, ImageDamaged, ImageTruncated, JobCancelled, unforeseen
from agent.host.contents import read_contents
from agent.host.drive import Drive
from agent.model.disk_state import DiskState
from agent.model.events import DeployEvent, Listener
from agent.model.job import Job
from agent.model.seal import Seal
from agent.model.stage import UNCOMMITTED, State
from agent.model.status import Status
from agent.model.verification import reads_back
from agent.stages.context import Context
from agent.stages.machine import LocalMachine, Machine
from agent.stages.targets import Target
from agent.stages.verify import may_be_cut
from agent.tracebacks import without_traceback
from agent.transfer.fetch import Fetcher
from agent.transfer.http.options import HttpOptions
from agent.transfer.meter import Meter
from agent.transfer.open import open_registry, open_source
from agent.transfer.pool import BufferPool
from agent.transfer.source import EventHook, RegistryImage, Source

log = structlog.get_logger(__name__)


def _ignore(_: DeployEvent) -> None:
    """The listener of a deployment that nobody watches."""


async def _keep_nothing(_: DiskState | Seal) -> None:
    """For a deployment without a journal."""


class Deployment:
    """One job on its way to its disks. `run` is called once; `snapshot` at any time."""

    def __init__(
        self,
        job: Job,
        options: Options,
        listener: Listener = _ignore,
        *,
        keep: Keep = _keep_nothing,
        attempt: int = 1,
        min_percent: float = 0.0,
        disk_state: DiskState = DiskState.UNTOUCHED,
        machine: Machine | None = None,
    ) -> None:
        """Nothing happens yet.

        Args:
            job: what is to be deployed.
            options: how, and where to.
            listener: is told the events, on the event loop.
            keep: is awaited with the state of the disk before the claim and after it, and with the seal right
                before the commit.
            attempt: which one this is, where an agent that was restarted begins again.
            min_percent: what clients were told of an attempt before this one: they are never told less.
            disk_state: what the attempt before left of the disk.
            machine: opens the disk and looks at it; this machine as a rule.
        """
        self._job = job
        self._options = options
        self._keep = keep
        self._machine = machine or LocalMachine()
        self._tracker = Tracker(
            job,
            options.server_name,
            listener,
            attempt=attempt,
            min_percent=min_percent,
            disk_state=disk_state,
        )
        self._ctx: Context | None = None
        self._unwiped = ""
        """Why the ends of disks that were not committed could not be wiped."""

    def snapshot(self) -> Status:
        """The status now."""
        return self._tracker.snapshot()

    def activity(self) -> tuple[object, ...]:
        """Differs from the last one while anything moves: a stage, bytes, a retry, the disk (a long zeroing moves no
        bytes of the image).
        """
        tracker = self._tracker
        moved = tracker.progress().bytes_downloaded, 0 if self._ctx is None else self._ctx.operations
        return tracker.state, tracker.attempt, tracker.noted, *moved

    async def outline(self) -> Plan:
        """The plan as far as it is known without the image, with what is on the disks. Nothing is opened but these,
        for reading.

        Raises:
            DeployError: there is no such disk.
        """
        facts, _, _ = await self._find_facts()
        return plan(self._job, await _with_contents(facts))

    async def preview(self) -> Plan:
        """The plan with all its refusals, the very one that `run` would carry out, and with what is on the disk.
        Nothing is written.

        Raises:
            DeployError: there is no such disk, or the image cannot be reached.
        """
        facts, ctx = await self._begin()
        try:
            return await self._decide(await _with_contents(facts), self._work(facts, ctx))
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
        # It was committed and verified before: what fails or is cancelled while cleaning up does not change that.
        if self._tracker.state is State.DONE:
            return
        if self._unwiped:
            error.detail = f"{error.detail}; {self._unwiped}" if error.detail else self._unwiped
            error.hint = error.hint or DiskIo.default_hint
        self._tracker.fail(without_traceback(error))  # the tracker keeps it

    async def _run(self) -> None:
        self._tracker.next()
        facts, ctx = await self._begin()
        try:
            work = self._work(facts, ctx)
            decided = await self._decide(facts, work)
            self._accept(decided)
            await self._carry_out(decided.steps[1:], work)
        except (ImageDamaged, ImageTruncated) as error:
            may_be_cut(ctx, error)
            raise
        finally:
            await self._end(ctx)

    async def _decide(self, facts: Facts, work: Work) -> Plan:
        """The plan from all that can be known before the first write: its own first step finds most of that out."""
        first = plan(self._job, facts)
        if first.refusals:
            return first
        self._tracker.weights = first.weights
        await first.steps[0].act(work)
        return plan(work.ctx.job, _with_image(facts, work.ctx))

    async def _carry_out(self, steps: Sequence[Step], work: Work) -> None:
        """Do what writes to the disk, step by step; on any failure before the end the disk is made unbootable."""
        tracker, ctx = self._tracker, work.ctx
        before = tracker.disk_state
        try:
            for step in steps:
                tracker.next(step.stage)
                await step.act(work)
            tracker.next()
        except BaseException as error:
            claimed = [target for target in ctx.targets if target.disk is not None]
            if not claimed:
                tracker.disk_state = before  # the claim did not come to it
            elif tracker.state in UNCOMMITTED:
                await self._abandon(claimed, error)
            raise

    async def _find_facts(self) -> tuple[Facts, Drive | None, dict[str, bytes]]:
        """Facts that need no image, and the config drive with its tree."""
        job, options = self._job, self._options
        targets = await run_blocking(find_targets, job, options)
        self._tracker.disks = [disk.to_json() for disk in targets]
        drive, tree = await run_blocking(make_drive, job, targets[0].logical_sector_size)
        facts = Facts(
            targets=targets,
            explicit=is_chosen_by_name(job, options),
            chosen_by=chosen_by(job, options),
            firmware=find_firmware(targets[0], options),
            policy=options.policy,
            drive_size=None if drive is None else len(drive.image),
            shared=await run_blocking(find_shared, job, targets),
        )
        return facts, drive, tree

    async def _begin(self) -> tuple[Facts, Context]:
        """Facts that need no image, and the context of all that follows."""
        job, options = self._job, self._options
        facts, drive, tree = await self._find_facts()
        headers = [(header.key, header.value or "") for header in job.http_headers]
        pool = BufferPool()
        source, registry = self._open_source(headers, pool)
        loop = asyncio.get_running_loop()

        def note(text: str) -> None:
            # Stages note things from their threads; the tracker belongs to the loop.
            loop.call_soon_threadsafe(self._tracker.note, text)

        ctx = Context(
            job=job,
            targets=tuple(Target(disk) for disk in facts.targets),
            source=source,
            drive=drive,
            drive_tree=tree,
            note=note,
            machine=self._machine,
            pool=pool,
            meter=Meter(connections=lambda: source.connections, slow_disk=lambda: ctx.slow_disk),
            registry=registry,
            trusted_keys=options.trusted_keys,
            reads_back=reads_back(job.verify, options.policy.verify),
            allow_failed=options.policy.several.allow_failed,
            fetcher=Fetcher(job.url, self._http_options(headers, self._tracker.fetch_event)),
        )
        self._ctx = ctx
        self._tracker.progress = ctx.meter.progress
        self._tracker.failed = partial(_failures, ctx.targets)
        return facts, ctx

    def _http_options(self, headers: Sequence[tuple[str, str]], on_event: EventHook) -> HttpOptions:
        options = self._options
        return HttpOptions(headers=headers, ca_file=options.ca_file, limits=options.limits, on_event=on_event)

    def _open_source(
        self, headers: Sequence[tuple[str, str]], pool: BufferPool
    ) -> tuple[Source, RegistryImage | None]:
        """The source of the image, and the same where it is in a registry."""
        job, options = self._job, self._options
        http = self._http_options(headers, self._tracker.source_event)
        if job.is_in_registry:
            registry = open_registry(
                job.url,
                http,
                auth=job.registry_auth,
                mirrors=job.mirrors,
                lender=pool,
                connections=options.connections,
            )
            return registry, registry
        source = open_source(
            job.url,
            http,
            mirrors=job.mirrors,
            checksummed=job.tells_content,
            lender=pool,
            connections=options.connections,
        )
        return source, None

    def _work(self, facts: Facts, ctx: Context) -> Work:
        def decide() -> None:
            self._accept(plan(ctx.job, _with_image(facts, ctx)))

        return Work(ctx, self._tracker, self._keep, decide)

    def _accept(self, decided: Plan) -> None:
        if decided.refusals:
            raise decided.refusals[0]
        self._tracker.weights = decided.weights

    async def _abandon(self, targets: Sequence[Target], reason: BaseException) -> None:
        """Make sure once more that nothing boots from disks that were not committed."""

        def wipe() -> None:
            # Set in the thread: where a cancellation comes meanwhile, `run_blocking` drops its result.
            self._tracker.disk_state = DiskState.UNKNOWN
            faults = [fault for target in targets if (fault := target.blank()) is not None]
            self._unwiped = "; ".join(faults)
            if not faults:
                self._tracker.disk_state = DiskState.EMPTY

        try:
            await run_blocking(wipe)
        finally:
            if self._unwiped:
                reason.add_note(self._unwiped)
                self._tracker.note(self._unwiped)

    async def _end(self, ctx: Context) -> None:
        try:
            with contextlib.suppress(OSError):
                await ctx.source.close()
        finally:
            ctx.close()  # also where closing the source was cancelled: the disk must not stay claimed
            self._ctx = None
            if ctx.signature is not None:
                await run_blocking(ctx.signature.close)


def _failures(targets: Sequence[Target]) -> dict[str, str]:
    """Why disks are kept out, by their paths."""
    return {target.found.path: target.failed for target in targets if target.failed is not None}


async def _with_contents(facts: Facts) -> Facts:
    """The facts with what is on the disks."""
    contents = [await run_blocking(read_contents, disk) for disk in facts.targets]
    return replace(facts, contents=tuple(contents))


def _with_image(facts: Facts, ctx: Context) -> Facts:
    """The facts with those of the image, and of the config drive that was fitted to it."""
    return replace(facts, drive_size=None if ctx.drive is None else len(ctx.drive.image), image=ctx.image)
