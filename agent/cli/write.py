"""`byoi write`: a deployment in this process, to a disk or a file, without a daemon and without a reboot."""

import argparse
import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.cli.display import show_progress
from agent.cli.groups import configured_groups
from agent.cli.interrupt import cancel_on_signals
from agent.cli.job_options import job_text, usage
from agent.cli.output import EXIT_DONE, end_with_json, exit_status, print_failure, say
from agent.deploy.plan import Plan
from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.errors import DiskGroupUnknown
from agent.host.disk import make_sparse
from agent.host.syscalls import return_large_blocks
from agent.logs import set_up
from agent.model.job import Job, load_job
from agent.units import MiB


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi write` out."""
    return_large_blocks(4 * MiB)
    _configure_log(verbose=options.verbose)
    job = load_job(job_text(options))
    if options.disk is None and options.disk_group is None and job.disk_group_id is None:
        raise usage("--disk", "name the disk with --disk PATH, or its group with --disk-group N")
    if options.disk_group is not None:
        job = _with_group(job, options.disk_group)
    deploy_options = Options(
        disk=options.disk,
        firmware=None if options.firmware == "auto" else options.firmware,
        ca_file=options.ca_file,
        groups=() if options.disk is not None else configured_groups(options.config),
    )
    cancel_on_signals()
    with _new_file(options.disk, options.size, discard=options.dry_run):
        if options.dry_run:
            return await _preview(job, deploy_options, as_json=options.json)
        return await _deploy(job, deploy_options, options)


async def _deploy(job: Job, deploy_options: Options, options: argparse.Namespace) -> int:
    display = show_progress(quiet=options.quiet)
    deployment = Deployment(job, deploy_options, display.listen)
    try:
        async with display.following(deployment.snapshot):
            status = await deployment.run()
    except asyncio.CancelledError:
        status = deployment.snapshot()
    if status.error is not None:
        print_failure(status.error)
    end = EXIT_DONE if status.error is None else exit_status(status.error)
    return end_with_json(end, status.document()) if options.json else end


async def _preview(job: Job, deploy_options: Options, *, as_json: bool) -> int:
    plan = await Deployment(job, deploy_options).preview()
    end = exit_status(plan.refusals[0].document()) if plan.refusals else EXIT_DONE
    if as_json:
        return end_with_json(end, plan.document())
    say("\n".join(_plan_lines(plan)))
    return end


def _plan_lines(plan: Plan) -> Iterator[str]:
    yield from plan.notes
    yield "stages:"
    for step in plan.steps:
        yield f"  {'!' if step.destructive else ' '} {step.stage.value:<10} {step.title}"
    yield "  (! writes to the disk)"
    if not plan.refusals:
        yield "Nothing stands against it. Nothing was written."
    for refusal in plan.refusals:
        yield f"refused [{refusal.code}]: {refusal}"
        if refusal.hint:
            yield f"  hint: {refusal.hint}"


@contextmanager
def _new_file(path: str | None, size: int | None, *, discard: bool) -> Iterator[None]:
    """Make the file of --size; a dry run takes it away again."""
    if size is None:
        yield
        return
    if path is None:
        raise usage("--size", "needs --disk PATH, the file to make")
    existed = Path(path).exists()
    try:
        make_sparse(path, size)
    except FileExistsError:
        raise usage(
            "--size", f"{path} exists and is no regular file of {size} bytes; it is left alone"
        ) from None
    except OSError as error:
        raise usage("--size", f"{path} could not be made: {error.strerror}") from None
    try:
        yield
    finally:
        if discard and not existed:
            Path(path).unlink(missing_ok=True)


def _with_group(job: Job, group: int) -> Job:
    if group < 0:
        raise DiskGroupUnknown(group=group)
    return dataclasses.replace(job, disk_group_id=group)


def _configure_log(*, verbose: bool) -> None:
    set_up(logging.DEBUG if verbose else logging.CRITICAL, as_json=False)
