"""A deployment that is cancelled at each point where it waits, its helper tasks included, one point after the other.

The event loop, the threads, the files and the connection are real. libparted alone, a child process each time, is
answered for: it is no part of this.
"""

import asyncio
import faulthandler
import sys
import threading
import types
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.host.disk import TargetDisk
from agent.model.disk_state import DiskState
from agent.model.job import parse_job
from agent.model.stage import STAGES, State
from agent.stages.context import HEAD_BYTES, TAIL_BYTES
from agent.stages.machine import LocalMachine
from agent.units import MiB
from tests.unit.stages.memory import MemoryDisk, MemoryMachine, gpt_disk, sha256

DISK_BYTES = 6 * MiB
IMAGE = gpt_disk(5 * MiB)
OLD = gpt_disk(DISK_BYTES, b"old system")
MOST_WAITS = 200
# A deployment takes a tenth of a second. One that never ends must not take the other cases with it.
MOST_SECONDS = 30
LANES = {"byoi-hash", "byoi-write"}


class ClosingDisk(TargetDisk):
    """The real disk; tells whether it was closed."""

    closed = False

    def close(self) -> None:
        super().close()
        self.closed = True


class QuickMachine(LocalMachine):
    """This machine, with what libparted would say of a disk that it has nothing against."""

    def __init__(self) -> None:
        self.disks: list[ClosingDisk] = []

    def open_disk(self, path: str) -> ClosingDisk:
        self.disks.append(ClosingDisk(path))
        return self.disks[-1]

    def partitions_on(self, path: str):
        return MemoryMachine(MemoryDisk(Path(path).read_bytes())).partitions_on(path)

    def partitions_in(self, writes, size: int):
        return MemoryMachine(MemoryDisk()).partitions_in(writes, size)


class Cancelling:
    """Counts the waits of a deployment and of all tasks that it starts, by stages, and cancels it at one of them.

    How often a transfer waits depends on how fast its threads are, so a wait is named by its stage and by its number
    there: none is jumped over for that.
    """

    def __init__(self, deployment: Deployment, stage: State, number: int, *, again: bool = False) -> None:
        self.deployment, self.at, self.again = deployment, (stage, number), again
        self.waits: Counter[State] = Counter()
        self.main: asyncio.Task[Any] | None = None
        self.struck = False
        self.watched: list[Coroutine[Any, Any, Any]] = []

    @types.coroutine
    def _count(self, coroutine: Coroutine[Any, Any, Any]):
        fault: BaseException | None = None
        while True:
            try:
                waits_for = coroutine.send(None) if fault is None else coroutine.throw(fault)
            except StopIteration as end:
                return end.value
            fault = None
            try:
                # What this raises is the coroutine's as well: one that is left as it is keeps what it holds, such as
                # the lock of its source, and the deployment waits for that for ever.
                self._wait()
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - it belongs to the coroutine
                fault = thrown

    def _wait(self) -> None:
        stage = self.deployment.snapshot().state
        hit = (stage, self.waits[stage]) == self.at
        self.waits[stage] += 1
        if hit or (self.struck and self.again):
            self.struck = True
            self.main.cancel()

    async def run(self) -> None:
        """Deploy, with all tasks that the deployment starts."""

        async def watched(inner: Coroutine[Any, Any, Any]) -> Any:
            self.watched.append(inner)
            return await self._count(inner)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, inner, **kwargs: asyncio.Task(watched(inner), loop=loop, **kwargs))
        self.main = loop.create_task(self.deployment.run())
        try:
            done, _ = await asyncio.wait([self.main], timeout=MOST_SECONDS)
        finally:
            loop.set_task_factory(None)
        if not done:
            faulthandler.dump_traceback(sys.__stderr__)
            pytest.fail(f"cancelled at wait {self.at[1]} of {self.at[0]} it does not end:\n{self._places()}")

    def _places(self) -> str:
        """Where each task waits, from the outside in, a line each."""
        lines = []
        for at in self.watched:
            places = []
            while (frame := getattr(at, "cr_frame", None)) is not None:
                places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
                at = at.cr_await  # noqa: PLW2901 - one step further in
            lines.append(" > ".join(places) or "ended")
        return "\n".join(lines)


@asynccontextmanager
async def file_source(directory: Path) -> AsyncIterator[str]:
    path = directory / "image"
    path.write_bytes(IMAGE)
    yield path.as_uri()


@asynccontextmanager
async def http_source(_: Path) -> AsyncIterator[str]:
    """A server in a thread and a loop of its own: its waits are not the deployment's."""
    loop = asyncio.new_event_loop()
    address: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the deployment was cancelled
        finally:
            writer.close()

    async def serve(tell) -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            tell(server.sockets[0].getsockname()[1])
            await stop.wait()

    deploying = asyncio.get_running_loop()
    tell = lambda port: deploying.call_soon_threadsafe(address.set_result, port)  # noqa: E731
    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve(tell)), loop.close()))
    thread.start()
    try:
        yield f"http://127.0.0.1:{await address}/image"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


SOURCES = {"file": file_source, "http": http_source}


def make(url: str, disk: Path, machine: QuickMachine) -> tuple[Deployment, list[object]]:
    kept: list[object] = []

    async def keep(fact: object) -> None:
        await asyncio.sleep(0)
        kept.append(fact)

    job = parse_job({"URL": url, "type": "raw"} | sha256(IMAGE))
    return Deployment(job, Options(disks=(str(disk),)), keep=keep, machine=machine), kept


def leftovers() -> set[str]:
    """Open files of the tests' directories, tasks but this one, and threads that inflate."""
    files = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            files.add(str(entry.readlink()))
        except FileNotFoundError:  # that of the listing itself
            continue
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return (
        {name for name in files if name.endswith(("/disk", "/image"))}
        | {repr(task) for task in tasks}
        | {thread.name for thread in threading.enumerate() if thread.name.startswith("byoi-inflate")}
    )


def check(deployment: Deployment, kept: list[object], disk: Path, system: bytes, why: str) -> str:
    """The disk is in the state that is told, and in one of three; returns the stage that was cancelled."""
    status = deployment.snapshot()
    content = disk.read_bytes()
    if status.error is None:
        assert (status.state, content) == ("done", system), why
        return "done"
    assert status.error["code"] == "job.cancelled", why
    match status.error["diskState"]:
        case DiskState.UNTOUCHED:
            assert content == OLD, why
            assert kept in ([], [DiskState.UNKNOWN]), why
        case DiskState.EMPTY:
            assert not any(content[:HEAD_BYTES]), why
            assert not any(content[-TAIL_BYTES:]), why
            assert kept[0] == DiskState.UNKNOWN, f"the journal has to know before the claim: {why}"
        case other:
            pytest.fail(f"{why}: {other}")
    return status.stages[-1].name


@pytest.mark.parametrize("stage", [*STAGES, State.DONE])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("again", [False, True], ids=["once", "again-and-again"])
async def test_a_deployment_cancelled_at_every_point_where_it_waits(tmp_path, source, again, stage):
    disk = tmp_path / "disk"
    async with SOURCES[source](tmp_path) as url:
        disk.write_bytes(OLD)
        deployment, _ = make(url, disk, QuickMachine())
        assert (await deployment.run()).error is None
        system = disk.read_bytes()
        for number in range(MOST_WAITS):
            disk.write_bytes(OLD)
            machine = QuickMachine()
            deployment, kept = make(url, disk, machine)
            cancelling = Cancelling(deployment, stage, number, again=again)
            await cancelling.run()
            if not cancelling.struck:
                break
            assert check(deployment, kept, disk, system, f"at wait {number} of {stage}") == stage
            assert cancelling.main.cancelled()
            assert all(opened.closed for opened in machine.disks), "the claim is given back"
            assert leftovers() == set()
    assert 0 < number < MOST_WAITS - 1


async def test_a_deployment_that_was_cancelled_can_be_begun_again(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(OLD)
    async with file_source(tmp_path) as url:
        for stage in (State.CLAIM, State.WRITE, State.COMMIT):
            deployment, _ = make(url, disk, QuickMachine())
            cancelling = Cancelling(deployment, stage, 0)
            await cancelling.run()
            assert cancelling.struck
        deployment, _ = make(url, disk, QuickMachine())
        status = await deployment.run()
    assert status.error is None
    content = disk.read_bytes()
    assert content[HEAD_BYTES : 4 * MiB] == IMAGE[HEAD_BYTES : 4 * MiB]


class Failing(Cancelling):
    """Fails by itself, where a task beside the deployment's own waits in the write stage."""

    def _wait(self) -> None:
        super()._wait()
        if self.deployment.snapshot().state is State.WRITE and asyncio.current_task() is not self.main:
            raise LookupError


async def test_what_fails_while_it_watches_a_task_is_that_tasks_own_fault(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(OLD)
    async with file_source(tmp_path) as url:
        deployment, _ = make(url, disk, QuickMachine())
        await Failing(deployment, State.WRITE, MOST_WAITS).run()
    assert deployment.snapshot().error["code"] == "agent.internal"
    assert leftovers() == set()
    # What ended the wait for the threads was no cancellation, so nothing has waited for them. They end all the same.
    async with asyncio.timeout(MOST_SECONDS):
        while {thread.name for thread in threading.enumerate()} & LANES:  # noqa: ASYNC110 - a thread tells nobody
            await asyncio.sleep(0.01)
