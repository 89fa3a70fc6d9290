"""A deployment in this process, for `byoi write`: carried out under a display, or planned and printed.

Importing this module loads what a deployment needs. `agent.cli.write` does so once the job and the options have been
accepted.
"""

import asyncio
import dataclasses
from collections.abc import Iterator

from agent.cli.losses import confirm, lines_of
from agent.cli.output import EXIT_DONE, end_with_json, exit_status, print_failure, print_stdout
from agent.cli.progress import show_progress
from agent.cli.receipt_file import Keep
from agent.command_line import EXIT_OUTPUT
from agent.deploy.plan import Plan
from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.model.job import Job
from agent.text import printable


async def deploy(job: Job, options: Options, *, quiet: bool, as_json: bool, keep: Keep | None = None) -> int:
    """Deploy to the end, with progress on stderr; returns the exit status. A cancellation ends with the status 130.

    Args:
        job: what to deploy.
        options: how.
        quiet: without progress.
        as_json: whether the last status goes to stdout.
        keep: keeps the receipt.
    """
    display = show_progress(quiet=quiet)
    deployment = Deployment(job, options, display.listen)
    try:
        async with display.following(deployment.snapshot):
            status = await deployment.run()
    except asyncio.CancelledError:
        status = deployment.snapshot()
    if status.error is not None:
        print_failure(status.error)
    end = EXIT_DONE if status.error is None else exit_status(status.error)
    document = status.document()
    if keep is not None and not keep(document):
        end = end or EXIT_OUTPUT
    return end_with_json(end, document) if as_json else end


async def agree(job: Job, options: Options) -> Options:
    """Ask whether what is on the disks may be destroyed; returns the options for a deployment to these very disks.

    Raises:
        JobCancelled: it may not.
        DeployError: there is no such disk, or it would be refused.
    """
    plan = await Deployment(job, options).outline()
    if plan.refusals:
        raise plan.refusals[0]
    await confirm(list(zip(plan.targets, plan.contents, strict=True)), "Nothing was written.")
    return dataclasses.replace(options, agreed=tuple(disk.identity for disk in plan.targets))


async def preview(job: Job, options: Options, *, as_json: bool) -> int:
    """Print the plan and all its refusals on stdout; returns the exit status of the first refusal. Writes nothing.

    Raises:
        DeployError: there is no such disk, or the image cannot be reached.
        OutputLost: stdout does not take the plan.
    """
    plan = await Deployment(job, options).preview()
    end = exit_status(plan.refusals[0].document()) if plan.refusals else EXIT_DONE
    if as_json:
        return end_with_json(end, plan.document())
    # A refusal may quote what a server or a disk calls itself.
    print_stdout("\n".join(printable(line) for text in _plan_lines(plan) for line in text.splitlines()))
    return end


def _plan_lines(plan: Plan) -> Iterator[str]:
    yield from plan.notes
    for disk, contents in zip(plan.targets, plan.contents, strict=bool(plan.contents)):
        yield "on the disk, and lost:" if len(plan.targets) == 1 else f"on {disk.path}, and lost:"
        yield from (f"  {line}" for line in lines_of(contents))
    yield "stages:"
    for step in plan.steps:
        yield f"  {'!' if step.destructive else ' '} {step.stage.value:<10} {step.title}"
    yield "  (! writes to the disk)"
    if not plan.refusals:
        yield "No check refuses it. Nothing was written."
    for refusal in plan.refusals:
        yield f"refused [{refusal.code}]: {refusal}"
        if refusal.hint:
            yield f"  hint: {refusal.hint}"
