"""Runs blocking work in threads, and several coroutines at once; the only module that does either.

`run_blocking`: when a task is cancelled that awaits `asyncio.to_thread` or `loop.run_in_executor`, the thread continues
without it. A pooled buffer could then be refilled while the thread still writes it to the disk. `run_blocking` waits
for its thread before it raises CancelledError, so that the caller's buffers are always free when it returns or
raises. `run_lasting` does the same for work that waits for more of it, in a thread of its own.

`run_together` and `alongside`: when a child of an `asyncio.TaskGroup` fails, the group cancels the task that waits for
it. Before Python 3.13 (CPython issue gh-116720) that request can remain in the task's `cancelling` count: the next
`asyncio.timeout` then mistakes its own expiry for a cancellation, and a real cancellation at the same time as a
failure is lost. The two functions do not cancel the waiting task, for tasks that continue after a failure.
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

# For a transfer's source, and for short work such as the journal's.
MAX_THREADS = 8


@functools.cache
def executor() -> ThreadPoolExecutor:
    """The executor for all blocking work.

    All its threads begin at once: when memory has run out in the midst of a job, the system may give no further one,
    and how the job ends still has to be written down.
    """
    threads = ThreadPoolExecutor(max_workers=MAX_THREADS, thread_name_prefix="byoi")
    all_there = threading.Barrier(MAX_THREADS)
    try:
        for _ in range(MAX_THREADS):
            threads.submit(all_there.wait)
    except RuntimeError:
        all_there.abort()  # fewer will do
    return threads


async def run_blocking(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `func` in a thread; a cancellation is raised only after the thread has finished.

    Raises:
        asyncio.CancelledError: the task was cancelled meanwhile; the result or exception of `func` is dropped.
        Exception: what `func` raises.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(executor(), functools.partial(func, *args, **kwargs))
    try:
        return await _outcome(future, _nothing)
    finally:
        del future  # see agent.tracebacks


async def run_lasting(func: Callable[[], T], stop: Callable[[], None], name: str) -> T:
    """Run `func`, which waits for others in between, in a thread of its own: it takes none from `run_blocking`.

    Args:
        func: ends soon once `stop` was called.
        stop: is called at a cancellation, which is raised only after the thread has finished.
        name: of the thread.

    Raises:
        asyncio.CancelledError: the task was cancelled meanwhile; the result or exception of `func` is dropped.
        Exception: what `func` raises.
    """
    future = run_apart(func, name)
    try:
        return await _outcome(future, stop)
    finally:
        if not future.done():
            stop()  # nobody waits for the thread any more, for a reason that is no cancellation
        del future  # see agent.tracebacks


async def _outcome(future: "asyncio.Future[T]", stop: Callable[[], None]) -> T:
    try:
        await _wait_for_all((future,), stop)
        return future.result()
    except asyncio.CancelledError:
        future.exception()  # mark it as retrieved; the cancellation takes precedence
        raise
    finally:
        del future  # see agent.tracebacks


def _nothing() -> None:
    """There is no way to have the work end earlier."""


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently until all are done; the first failure cancels the others.

    Raises:
        asyncio.CancelledError: the task was cancelled meanwhile; failures are dropped.
        Exception: the first failure, not in a group; what the cancelled others raise is dropped.
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
        await wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await _wait_for_all(tasks)
    return failures


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine as a task while the block runs, and cancel it at the end of the block.

    If it fails, the block continues, and the failure is raised at the end of the block.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await _wait_for_all((task,))
    if not task.cancelled():
        task.result()


async def _wait_for_all(
    futures: "Collection[asyncio.Future[Any]]", stop: Callable[[], None] = _nothing
) -> None:
    """Wait until all futures are done; a cancellation calls `stop` and is raised only then."""
    cancelled: list[BaseException] = []
    while not all(future.done() for future in futures):
        try:
            await wait(futures)
        except asyncio.CancelledError as error:
            cancelled = [error]
            stop()
    raise_first(cancelled)


async def wait(
    futures: "Collection[asyncio.Future[Any]]",
    *,
    seconds: float | None = None,
    return_when: str = asyncio.ALL_COMPLETED,
) -> None:
    """`asyncio.wait`, but for a cancellation that keeps nothing alive (see `agent.tracebacks`).

    Since Python 3.14 a frame of `asyncio.wait` refers to the task that waits. A task keeps the cancellation that it
    ended with, and that its traceback: a cycle, were the frame in there.
    """
    try:
        await asyncio.wait(futures, timeout=seconds, return_when=return_when)
    except asyncio.CancelledError as error:
        raise error.with_traceback(None)  # noqa: B904 - the same one, from here on


def run_apart(func: Callable[[], T], name: str = "byoi-apart") -> "asyncio.Future[T]":
    """Run `func` in a daemon thread of its own; even the end of the process does not wait for it.

    For work that may hang for ever and uses nothing that others need. The future gets the result or the exception;
    to cancel it does not stop the thread. To be called on the event loop.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    # Retrieve the exception, or asyncio warns if nobody awaits the future any more.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    threading.Thread(target=_work_apart, args=(func, future), name=name, daemon=True).start()
    return future


def _work_apart(func: Callable[[], T], future: "asyncio.Future[T]") -> None:
    act: Callable[[Any], None] = future.set_result
    outcome: object
    try:
        outcome = func()
    except Exception as error:  # noqa: BLE001 - raised where the future is awaited
        act, outcome = future.set_exception, error
    with suppress(RuntimeError):  # the loop was closed
        future.get_loop().call_soon_threadsafe(_set_outcome, future, act, outcome)
    del future, act, outcome  # see agent.tracebacks


def _set_outcome(future: "asyncio.Future[Any]", act: Callable[[Any], None], outcome: object) -> None:
    if not future.done():
        act(outcome)
