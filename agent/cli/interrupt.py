"""Ctrl-C and SIGTERM, for commands that clean up behind themselves."""

import asyncio
import signal
import sys


def cancel_on_signals() -> None:
    """From now on SIGINT and SIGTERM cancel the running task."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel if task is not None else sys.exit)
