"""`byoi write`: a deployment in this process, to a disk or a file, without a daemon and without a reboot.

The job and the options are judged first. What carries a deployment out (`agent.cli.local`) is imported only then, so
that a job with faults is refused without loading it.
"""

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.disk_choice import read_hints
from agent.cli.groups import configured_groups, configured_keys
from agent.cli.interrupt import cancel_on_signals
from agent.cli.job_options import by_option, job_text, usage
from agent.cli.losses import is_person
from agent.cli.output import EXIT_DONE, print_stderr
from agent.cli.receipt_file import receipt_file
from agent.command_line import EXIT_OUTPUT
from agent.errors import DiskGroupUnknown, JobInvalid
from agent.host.disk import make_sparse
from agent.host.syscalls import return_large_blocks
from agent.logs import set_up
from agent.model.job import Job, load_job
from agent.units import MiB

if TYPE_CHECKING:
    from agent.deploy.target import Options


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi write` out; returns the exit status.

    Raises:
        DeployError: the job or the options cannot be used (JobInvalid, ConfigInvalid), a dry run finds no disk or no
            image, or somebody was asked: the disk is refused, or the answer was no. Nothing has been written.
        OutputLost: stdout does not take the plan of a dry run.
    """
    return_large_blocks(4 * MiB)
    set_up(logging.DEBUG if options.verbose else logging.CRITICAL, as_json=False)
    job = _read_job(options)
    from agent.cli.local import agree, deploy, preview  # noqa: PLC0415 - not for a job that is refused

    deploy_options = _deploy_options(options, job)
    cancel_on_signals()
    with receipt_file(options) as keep_receipt, _new_files(options.disk or (), options.size) as keep:
        if options.dry_run:
            return await preview(job, deploy_options, as_json=options.json)
        if is_person(options):
            deploy_options = await agree(job, deploy_options)
        status = await deploy(
            job, deploy_options, quiet=options.quiet, as_json=options.json, keep=keep_receipt
        )
        if status in (EXIT_DONE, EXIT_OUTPUT):
            keep()
        return status


def _read_job(options: argparse.Namespace) -> Job:
    """The job, with the disk group of --disk-group or the selector of --disk-hint in it.

    Raises:
        JobInvalid: the job or a hint has faults, or nothing names a disk.
        DiskGroupUnknown: the group is no number of one.
    """
    try:
        job = load_job(job_text(options))
    except JobInvalid as error:
        raise by_option(options, error.faults) from None
    if options.verify is not None:
        job = dataclasses.replace(job, verify=options.verify)
    if options.disks is not None or options.disk is not None:
        job = _with_count(job, options)
    if (selector := read_hints(options)) is not None:
        return dataclasses.replace(job, disk_selector=selector, disk_group_id=None)
    given = (options.disk, options.disk_group, job.disk_group_id, job.disk_selector)
    if all(choice is None for choice in given):
        raise usage(
            "--disk",
            "name the disk with --disk PATH, its group with --disk-group N, or what it is with --disk-hint",
        )
    if options.disk_group is None:
        return job
    if options.disk_group < 0:
        raise DiskGroupUnknown(group=options.disk_group)
    return dataclasses.replace(job, disk_group_id=options.disk_group, disk_selector=None)


def _with_count(job: Job, options: argparse.Namespace) -> Job:
    """The job with as many disks as the command names.

    Raises:
        JobInvalid: these are not as many as the mirror has, or two numbers.
    """
    named = options.disk or ()
    if named and options.disks is not None:
        raise usage("--disks", "stands beside --disk; give one of them")
    count = options.disks or len(named)
    if job.raid is not None and count != job.raid.disks:
        option = "--disk" if named else "--disks"
        raise usage(option, f"{count} given, and a mirror has {job.raid.disks}")
    return dataclasses.replace(job, disk_count=count)


def _deploy_options(options: argparse.Namespace, job: Job) -> "Options":
    """How the deployment runs. Reads the agent's configuration where it needs its disk groups or its keys; blocking.

    Raises:
        ConfigInvalid: the configuration cannot be read or has faults.
    """
    from agent.deploy.target import Options  # noqa: PLC0415 - loaded with agent.cli.local

    needs_keys = job.signature is not None and job.signature.public_key is None
    return Options(
        disks=tuple(options.disk or ()),
        firmware=None if options.firmware == "auto" else options.firmware,
        ca_file=options.ca_file,
        connections=options.connections,
        groups=() if options.disk is not None else configured_groups(options.config),
        trusted_keys=configured_keys(options.config) if needs_keys else "",
    )


@contextmanager
def _new_files(paths: Sequence[str], size: int | None) -> Iterator[Callable[[], None]]:
    """While the block runs, the sparse files of --size (bytes) are there.

    They are removed again, unless the block calls what it is given; those that were there before stay.

    Raises:
        JobInvalid: --disk names no file to make, or it cannot be made.
    """
    with ExitStack() as on_failure:
        if size is not None:
            if not paths:
                raise usage("--size", "needs --disk PATH, the file to make")
            for path in paths:
                if not Path(path).exists():
                    on_failure.callback(_remove, path)
                _make(path, size)

        def keep() -> None:
            on_failure.pop_all()

        yield keep


def _remove(path: str) -> None:
    if Path(path).exists():
        print_stderr(f"{path} is removed again: --size had made it")
        Path(path).unlink(missing_ok=True)


def _make(path: str, size: int) -> None:
    try:
        make_sparse(path, size)
    except FileExistsError:
        raise usage(
            "--size", f"{path} exists and is no regular file of {size} bytes; it is left alone"
        ) from None
    except OSError as error:
        raise usage("--size", f"{path} could not be made: {error.strerror}") from None
