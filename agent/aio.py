"""The one door between the event loop and blocking work.

`asyncio.to_thread` and `loop.run_in_executor` give up their thread when the awaiting task is cancelled: the
thread runs on, and a pooled buffer that it still writes to the disk could be refilled meanwhile.
`run_blocking` waits for its thread before it lets the cancellation through, so whatever it was given is free
again when it returns or raises.
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Receive, hash, write and one spare for inventory or status reads; threads start on first use.
MAX_THREADS = 8


@functools.cache
def executor() -> ThreadPoolExecutor:
    """The executor that all blocking work shares."""
    return ThreadPoolExecutor(max_workers=MAX_THREADS, thread_name_prefix="byoi")


async def run_blocking(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `func` in a thread; a cancellation is delivered only after the thread has finished.

    Raises:
        asyncio.CancelledError: the task was cancelled meanwhile; the result of `func` is dropped.
        Exception: whatever `func` raises.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(executor(), functools.partial(func, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        if cancelled is not None:
            future.exception()  # mark as seen; the cancellation outranks it
            raise cancelled
        return future.result()
    finally:
        # The traceback of what is raised leads to this frame: were it to lead back, all that the frames above hold
        # would live until the garbage collector comes by.
        del future, cancelled
