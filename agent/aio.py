"""The one door between the event loop and blocking work.

`asyncio.to_thread` and `loop.run_in_executor` give up their thread when the awaiting task is cancelled: the
thread runs on, and a pooled buffer that it still writes to the disk could be refilled meanwhile.
`run_blocking` waits for its thread before it lets the cancellation through, so whatever it was given is free
again when it returns or raises.
"""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Receive, hash, write and spares for short work such as the journal's; threads start on first use.
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


def run_apart(func: Callable[[], T]) -> "asyncio.Future[T]":
    """Run `func` in a thread of its own that nothing waits for, the end of the process included.

    For what may hang for good and holds nothing that others use. The future is done when the thread is, in whatever
    way; cancelling it does not reach the thread. Called on the event loop.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda over: over.cancelled() or over.exception())  # whoever asked may have left

    def tell(act: Callable[[Any], None], outcome: object) -> None:
        if not future.done():
            act(outcome)

    def work() -> None:
        act: Callable[[Any], None] = future.set_result
        outcome: object
        try:
            outcome = func()
        except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
            act, outcome = future.set_exception, error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, act, outcome)

    threading.Thread(target=work, name="byoi-apart", daemon=True).start()
    return future
