import asyncio
import subprocess
import sys
import threading
import time

import pytest

from agent.aio import run_apart, run_blocking


async def test_returns_what_the_function_returns():
    assert await run_blocking(pow, 2, 10) == 1024


async def test_raises_what_the_function_raises():
    with pytest.raises(ZeroDivisionError):
        await run_blocking(lambda: 1 // 0)


async def test_a_cancellation_is_held_back_until_the_thread_has_finished():
    started, finish = threading.Event(), threading.Event()
    finished = []

    def work():
        started.set()
        finish.wait(10)
        finished.append(True)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run_blocking(work))
        assert await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)
        task.cancel()
        await asyncio.sleep(0.02)
        task.cancel()  # impatience does not free the thread either
        await asyncio.sleep(0.02)
        assert not task.done()
        finish.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert finished == [True]


async def test_a_cancellation_outranks_the_failure_of_the_thread():
    def work():
        time.sleep(0.05)
        raise OSError("too late to matter")

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run_blocking(work))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_timeout_around_it_works_as_around_any_await():
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_blocking(time.sleep, 0.1)
    assert time.monotonic() - began >= 0.1


async def test_what_runs_apart_gives_its_result_or_its_failure():
    assert await run_apart(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await run_apart(lambda: 1 // 0)


async def test_a_failure_apart_that_nobody_waits_for_is_no_noise():
    failing = run_apart(lambda: 1 // 0)
    await asyncio.wait({failing})
    gone = run_apart(lambda: 1 // 0)
    gone.cancel()
    await asyncio.sleep(0.05)


def test_a_thread_apart_that_hangs_keeps_no_process_from_its_end():
    program = (
        "import asyncio, threading\n"
        "from agent.aio import run_apart\n"
        "async def main(): run_apart(threading.Event().wait)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
