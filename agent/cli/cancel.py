"""`byoi cancel`: the DELETE, waited for."""

import argparse
import asyncio
import contextlib
import time

from agent.cli.client import Client, socket_path
from agent.cli.deploy import server_name
from agent.cli.failures import ClientError, Refused
from agent.cli.interrupt import cancel_on_signals
from agent.cli.output import EXIT_CANCELLED, EXIT_DONE, say, tell
from agent.cli.words import NO_DEPLOYMENT, stage_name
from agent.model.stage import State
from agent.model.status import Status
from agent.text import printable

RETRY_SECONDS = 1.0
# A disk that hangs in a write can hold a deployment for minutes; the daemon says so in its answers.
PATIENCE_SECONDS = 300.0

_CANCELLED = "The deployment is cancelled and its state erased; the server stays in its rescue system."
_ERASED = "The state of the failed deployment is erased."
_CALLED_OFF = "The state is erased, and no reboot follows."


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi cancel` out."""
    client = Client(socket_path(options.socket))
    cancel_on_signals()
    report = await client.report()
    if report.status is None:
        say(NO_DEPLOYMENT)
        return EXIT_DONE
    if not report.status.is_over:
        tell(f"cancelling in stage {stage_name(report.status)}, at {report.status.percent:.1f} %")
    try:
        await _cancel(client, server_name(client, report))
    except asyncio.CancelledError:
        tell("The cancellation goes on without this command.")
        return EXIT_CANCELLED
    say("\n".join((_outcome(report.status), *map(printable, await _notes(client)))))
    return EXIT_DONE


async def _cancel(client: Client, name: str) -> None:
    began = time.monotonic()
    while True:
        try:
            return await client.cancel(name)
        except Refused as refused:
            if refused.http_status != 503 or time.monotonic() - began > PATIENCE_SECONDS:
                raise
            tell(refused.message)
        await asyncio.sleep(RETRY_SECONDS)


async def _notes(client: Client) -> tuple[str, ...]:
    """What the agent says of the disk, now that the deployment is erased; nothing where a new one has begun already."""
    with contextlib.suppress(ClientError):  # the cancellation has succeeded all the same
        report = await client.report()
        if report.status is None:
            return report.notes
    return ()


def _outcome(before: Status) -> str:
    return {State.DONE: _CALLED_OFF, State.ERROR: _ERASED}.get(before.state, _CANCELLED)
