import asyncio
import gc
import threading
import time
import weakref

import pytest

from agent.aio import MAX_THREADS, alongside, run_apart, run_blocking, run_lasting, run_together, wait


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
    finished = []

    def work():
        time.sleep(0.05)
        finished.append(True)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_blocking(work)
    assert finished, "the thread is waited for all the same"


async def test_lasting_work_gives_its_result_or_its_failure():
    assert await run_lasting(lambda: 5, lambda: None, "byoi-test") == 5
    with pytest.raises(ZeroDivisionError):
        await run_lasting(lambda: 1 // 0, lambda: None, "byoi-test")


async def test_lasting_work_is_told_of_a_cancellation_and_waited_for():
    told, finish = threading.Event(), threading.Event()
    finished = []

    def work():
        assert told.wait(10)
        assert finish.wait(10)
        finished.append(True)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run_lasting(work, told.set, "byoi-test"))
        await asyncio.sleep(0)
        task.cancel()
        assert await run_blocking(told.wait, 10)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        finish.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert finished == [True]


async def test_lasting_work_takes_no_thread_from_short_work():
    enough = threading.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(MAX_THREADS + 1):
            tasks.create_task(run_lasting(lambda: enough.wait(10), enough.set, "byoi-test"))
        await asyncio.sleep(0)
        await run_blocking(enough.set)


async def fail(error):
    await asyncio.sleep(0)
    raise error


async def still_whole():
    """Whether the task that runs this has no cancellation in its books: then a time-out is told from one."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


async def test_what_runs_together_ends_together():
    done = []

    async def work(turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        done.append(turns)

    await run_together(work(5), work(0), work(2))
    assert done == [0, 2, 5]


async def test_the_first_failure_ends_the_others_and_comes_out_as_it_is():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)
            raise OSError("on its way out")

    with pytest.raises(ZeroDivisionError):
        await run_together(work(), fail(ZeroDivisionError()), work())
    assert ended == [True, True]
    assert await still_whole()


async def test_a_cancellation_outranks_a_failure_that_comes_with_it():
    async def work():
        running.cancel()
        raise ZeroDivisionError

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run_together(work(), fail(OSError())))
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_cancellation_waits_for_the_end_of_all_that_runs_together():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            ended.append(True)

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run_together(work(), work()))
        for _ in range(2):  # impatience changes nothing
            await asyncio.sleep(0.005)
            running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert ended == [True, True]


@pytest.mark.parametrize("how", ["run_blocking", "run_together", "wait"])
async def test_a_cancellation_keeps_nothing_alive(how):
    """What the cancelled task held in its frames is gone at once: no garbage collector comes for it."""

    class Window:
        """Something large."""

    go_on, under_way = threading.Event(), asyncio.Event()
    refs = []

    async def work():
        window = Window()
        refs.append(weakref.ref(window))
        under_way.set()
        match how:
            case "run_blocking":
                await run_blocking(go_on.wait)
            case "run_together":
                await run_together(asyncio.sleep(60), asyncio.sleep(60))
            case "wait":
                await wait((asyncio.get_running_loop().create_future(),))

    gc.collect()
    gc.disable()
    try:
        running = asyncio.get_running_loop().create_task(work())
        await under_way.wait()
        await asyncio.sleep(0)
        running.cancel()
        go_on.set()
        await asyncio.wait((running,))  # unlike `await running`, that leaves the task its cancellation
        assert running.cancelled()
        del running
        await asyncio.sleep(0)
        assert refs[0]() is None
    finally:
        gc.enable()


async def test_what_runs_alongside_ends_with_the_block():
    ended = asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def block():
        async with alongside(work()):
            await fail(ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        await block()
    assert ended.is_set()
    assert await still_whole()


async def test_a_failure_alongside_does_not_disturb_the_block_and_is_raised_behind_it():
    after = []

    async def block():
        async with alongside(fail(ZeroDivisionError())):
            await asyncio.sleep(0.01)
            after.append(True)

    with pytest.raises(ZeroDivisionError):
        await block()
    assert after
    assert await still_whole()


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
