"""The one door between the event loop and blocking work, and tasks whose end leaves nothing behind.

`asyncio.to_thread` and `loop.run_in_executor` give up their thread when the awaiting task is cancelled: the
thread runs on, and a pooled buffer that it still writes to the disk could be refilled meanwhile.
`run_blocking` waits for its thread before it lets the cancellation through, so whatever it was given is free
again when it returns or raises.

`asyncio.TaskGroup` asks for the cancellation of the task that waits for it when a child fails. Before Python 3.13
(CPython's gh-116720) that request can stay in the task's count, where the next `asyncio.timeout` takes its own end
for a cancellation, and a true cancellation that comes together with a failure is lost. A task that goes on after a
failure therefore uses `run_together` and `alongside`, which never ask it to be cancelled.
"""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from agent.tracebacks import raise_first

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
    try:
        await _outlast((future,))
        return future.result()
    except asyncio.CancelledError:
        future.exception()  # mark as seen; the cancellation outranks it
        raise
    finally:
        del future  # see agent.tracebacks


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Run coroutines side by side until all are done; the first failure cancels the others.

    Raises:
        asyncio.CancelledError: the task was cancelled meanwhile, whatever else has failed.
        Exception: the first failure, as it is; what its siblings raised on their way out is dropped.
    """
    raise_first(await _failures(works))


async def _failures(works: Collection[Coroutine[Any, Any, None]]) -> list[BaseException]:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(work) for work in works]
    failures: list[BaseException] = []

    def note(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            failures.append(failure)

    for task in tasks:
        task.add_done_callback(note)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await _outlast(tasks)
    return failures


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine while the block runs, and cancel it at the end of the block.

    If it fails, the block goes on undisturbed, and the failure is raised behind it.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await _outlast((task,))
    if not task.cancelled():
        task.result()


async def _outlast(futures: "Collection[asyncio.Future[Any]]") -> None:
    """Wait until all are done; a cancellation is delivered only then."""
    cancelled: list[BaseException] = []
    while not all(future.done() for future in futures):
        try:
            await asyncio.wait(futures)
        except asyncio.CancelledError as error:
            cancelled = [error]
    raise_first(cancelled)


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
