"""`byoi deploy`: hands a job to the daemon. The job is sent as it was given, and only the daemon checks it."""

import argparse
import json
from typing import Any

from agent.cli.client import Client, socket_path
from agent.cli.disk_choice import read_hints
from agent.cli.failures import BadAnswer, Refused
from agent.cli.interrupt import cancel_on_signals
from agent.cli.job_options import by_option, job_text
from agent.cli.losses import confirm, is_person
from agent.cli.output import EXIT_DONE, print_json, print_stderr
from agent.cli.report import Report
from agent.cli.status import watch
from agent.errors import JobInvalid
from agent.model.disks import select_disks
from agent.model.job import Job, load_job


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi deploy` out; returns the exit status.

    Raises:
        JobInvalid: the options make no job; or the job has faults, and --disk-group or --disk-hint is given or somebody
            is asked.
        DeployError: somebody is asked, and the disk is refused or the answer was no.
        ClientError: the daemon cannot be asked, or refuses the job.
        OutputLost: stdout does not take the status.
    """
    job = job_text(options)
    selector = read_hints(options)
    if selector is not None:
        job = _with_choice(options, job, {"disk": dict(selector.posted), "diskGroupId": None})
    elif options.disk_group is not None:
        job = _with_choice(options, job, {"diskGroupId": options.disk_group, "disk": None})
    if options.disks is not None:
        job = _with_choice(options, job, {"disks": options.disks})
    if options.verify is not None and options.job is not None:
        job = _with_choice(options, job, {"verify": options.verify})
    client = Client(socket_path(options.socket))
    cancel_on_signals()
    report = await client.report()
    if is_person(options):
        await _agree(client, report, _checked(options, job))
    try:
        await client.deploy(server_name(client, report), job)
    except Refused as refused:
        refused.faults = by_option(options, refused.faults).faults
        raise
    if options.watch:
        return await watch(client, as_json=options.json, quiet=options.quiet)
    if options.json:
        print_json((await client.report()).document)
    elif not options.quiet:
        print_stderr("byoi-agent has taken the job; `byoi status --watch` follows it.")
    return EXIT_DONE


async def _agree(client: Client, report: Report, job: Job) -> None:
    """Ask whether what is on the disks may be destroyed, that the daemon would choose now.

    Raises:
        JobCancelled: it may not.
        DeployError: there is no such disk, or it would be refused.
        Refused: a deployment is under way.
    """
    if report.status is not None and not report.status.is_over:
        raise Refused(409, {"message": "A deployment is under way on this server."})
    inventory = await client.inventory()
    if job.disk_selector is not None:
        disks = job.disk_selector.select(inventory.disks, inventory.groups, count=job.disk_count)
    else:
        disks = select_disks(inventory.groups, job.disk_group_id, job.disk_count)
    losses = [(disk, inventory.contents[disk.path]) for disk in disks]
    await confirm(losses, "Nothing was given to byoi-agent.")


def server_name(client: Client, report: Report) -> str:
    """The name of the server, which stands in the routes of its deployment.

    Raises:
        BadAnswer: the daemon does not tell it.
    """
    if report.server_name is None:
        raise BadAnswer(client.path, "its status does not name the server")
    return report.server_name


def _with_choice(options: argparse.Namespace, job: bytes, choice: dict[str, Any]) -> bytes:
    """The job with other members that choose its disks."""
    _checked(options, job)  # only a job without faults can be decoded and changed
    return json.dumps(json.loads(job) | choice).encode()


def _checked(options: argparse.Namespace, job: bytes) -> Job:
    try:
        return load_job(job)
    except JobInvalid as error:
        raise by_option(options, error.faults) from None
