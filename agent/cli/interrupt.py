"""Ctrl-C and SIGTERM, for commands that clean up before they end."""

import asyncio
import signal
import sys


def cancel_on_signals() -> None:
    """From now on SIGINT and SIGTERM cancel the running task. Called from that task, on the event loop."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel if task is not None else sys.exit)
