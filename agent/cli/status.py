"""`byoi status`: shows the daemon's deployment, once or until it is over (`watch`, which `byoi deploy` uses too)."""

import argparse
import asyncio
import os
import sys
import time

from agent.cli.client import Client, socket_path
from agent.cli.interrupt import cancel_on_signals
from agent.cli.job_options import usage
from agent.cli.output import (
    EXIT_CANCELLED,
    EXIT_DONE,
    end_with_json,
    exit_status,
    print_json,
    print_stderr,
    print_stdout,
)
from agent.cli.progress import show_progress
from agent.cli.report import Report
from agent.cli.screen import line_width
from agent.cli.watch import Watcher
from agent.cli.words import describe, failure_words, reboot_line
from agent.cli.wrap import wrap


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi status` out; returns the exit status.

    Raises:
        JobInvalid: --forever without --watch.
        ClientError: the daemon cannot be asked.
        OutputLost: stdout does not take the status.
    """
    if options.forever and not options.watch:
        raise usage("--forever", "goes with --watch")
    client = Client(socket_path(options.socket))
    cancel_on_signals()
    if options.watch:
        return await watch(client, as_json=options.json, forever=options.forever)
    report = await client.report()
    if options.json:
        print_json(report.document)
    else:
        print_stdout("\n".join(describe(report, time.time(), line_width(sys.stdout, os.environ))))
    return EXIT_DONE


async def watch(client: Client, *, as_json: bool, quiet: bool = False, forever: bool = False) -> int:
    """Follow the deployment to its end on stderr; returns the exit status for its outcome.

    Where this command is cancelled the deployment goes on: EXIT_CANCELLED, or EXIT_DONE with `forever`.

    Raises:
        ClientError: the daemon cannot be asked.
    """
    watcher = Watcher(client, show_progress(quiet=quiet), forever=forever)
    try:
        report = await watcher.run()
    except asyncio.CancelledError:
        if forever:
            return EXIT_DONE  # systemd stops a console's service with SIGTERM: that is no failure
        print_stderr("A deployment goes on without this command; `byoi cancel` cancels it.")
        return EXIT_CANCELLED
    end = _print_end(report, quiet=quiet)
    return end_with_json(end, report.document) if as_json else end


def _print_end(report: Report, *, quiet: bool) -> int:
    status = report.status
    if status is None:
        print_stderr("The deployment was cancelled and its state erased.")
        return EXIT_CANCELLED
    if status.error is not None:
        print_stderr("\n".join(failure_words(status, line_width(sys.stderr, os.environ))))
        return exit_status(status.error)
    line = reboot_line(report.reboot, time.time())
    if line is not None and not quiet:
        width = line_width(sys.stderr, os.environ)
        print_stderr(line if width is None else "\n".join(wrap(line, width)))
    return EXIT_DONE
