"""`byoi deploy`: hands a job to the daemon. The daemon is the one judge of the job: it is sent as it was given."""

import argparse
import json

from agent.cli.client import Client, socket_path
from agent.cli.failures import BadAnswer
from agent.cli.interrupt import cancel_on_signals
from agent.cli.job_options import job_text
from agent.cli.output import EXIT_DONE, print_json, tell
from agent.cli.report import Report
from agent.cli.status import watch
from agent.model.job import load_job


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi deploy` out."""
    job = job_text(options)
    if options.disk_group is not None:
        job = _with_group(job, options.disk_group)
    client = Client(socket_path(options.socket))
    cancel_on_signals()
    await client.deploy(server_name(client, await client.report()), job)
    if options.watch:
        return await watch(client, as_json=options.json, quiet=options.quiet)
    if options.json:
        print_json((await client.report()).document)
    elif not options.quiet:
        tell("byoi-agent has taken the job; `byoi status --watch` follows it.")
    return EXIT_DONE


def server_name(client: Client, report: Report) -> str:
    """The name that the routes of a deployment carry.

    Raises:
        BadAnswer: the daemon does not tell it.
    """
    if report.server_name is None:
        raise BadAnswer(client.path, "its status does not name the server")
    return report.server_name


def _with_group(job: bytes, group: int) -> bytes:
    load_job(job)  # what has faults cannot be changed
    return json.dumps(json.loads(job) | {"diskGroupId": group}).encode()
