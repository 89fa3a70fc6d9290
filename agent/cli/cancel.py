"""`byoi cancel`: sends the DELETE until the daemon has stopped the deployment and erased its state."""

import argparse
import asyncio
import contextlib
import time

from agent.cli.client import Client, socket_path
from agent.cli.deploy import server_name
from agent.cli.failures import ClientError, Refused
from agent.cli.interrupt import cancel_on_signals
from agent.cli.output import EXIT_CANCELLED, EXIT_DONE, end_with_json, print_stderr, print_stdout
from agent.cli.words import NO_DEPLOYMENT, stage_name
from agent.model.stage import State
from agent.text import printable

RETRY_SECONDS = 1.0
# How long the daemon may answer that the deployment has not stopped yet: a disk that hangs in a write takes minutes.
PATIENCE_SECONDS = 300.0

_CANCELLED = "The deployment is cancelled and its state erased; the server stays in its rescue system."
_OUTCOMES = {
    State.DONE: ("called off", "The state is erased, and no reboot follows."),
    State.ERROR: ("erased", "The state of the failed deployment is erased."),
}
"""What the cancellation did, by the state that was found before it, for programs and for people."""


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi cancel` out; returns the exit status.

    Raises:
        ClientError: the daemon cannot be asked, refuses, or has not stopped the deployment in PATIENCE_SECONDS.
        OutputLost: stdout does not take the outcome.
    """
    client = Client(socket_path(options.socket))
    cancel_on_signals()
    interrupted = (EXIT_CANCELLED, "nothing", "Nothing was cancelled.")
    try:
        report = await client.report()
        if report.status is None:
            return _end(options, EXIT_DONE, "nothing", NO_DEPLOYMENT)
        if not report.status.is_over:
            print_stderr(f"cancelling in stage {stage_name(report.status)}, at {report.status.percent:.1f} %")
        interrupted = (EXIT_CANCELLED, "running", "The cancellation goes on without this command.")
        await _cancel(client, server_name(client, report))
        done = _OUTCOMES.get(report.status.state, ("cancelled", _CANCELLED))
        interrupted = (EXIT_DONE, *done)
        return _end(options, EXIT_DONE, *done, await _notes(client))
    except asyncio.CancelledError:
        return _end(options, *interrupted)


def _end(
    options: argparse.Namespace, status: int, outcome: str, message: str, notes: tuple[str, ...] = ()
) -> int:
    """Print how it ended; returns the exit status. The document has no `status`: it is none of a deployment."""
    if status != EXIT_DONE:
        print_stderr(message)
    if options.json:
        return end_with_json(status, {"outcome": outcome, "message": message, "notes": notes})
    if status == EXIT_DONE:
        print_stdout("\n".join((message, *map(printable, notes))))
    return status


async def _cancel(client: Client, name: str) -> None:
    """Ask again while the daemon answers 503: the deployment is being stopped."""
    began = time.monotonic()
    while True:
        try:
            return await client.cancel(name)
        except Refused as refused:
            if refused.http_status != 503 or time.monotonic() - began > PATIENCE_SECONDS:
                raise
            print_stderr(refused.message)
        await asyncio.sleep(RETRY_SECONDS)


async def _notes(client: Client) -> tuple[str, ...]:
    """What the daemon says of the disk once the state is erased; nothing where a new deployment has begun by then."""
    with contextlib.suppress(ClientError):  # the cancellation itself has succeeded
        report = await client.report()
        if report.status is None:
            return report.notes
    return ()
