"""A process that deploys and is stopped in the middle, for the tests of the commit point.

It reads one order a line on stdin (JSON), carries it out in a fork of its own, and answers with one line when
the fork has ended: `{"signal": N, "exit": N, "seconds": S}`. The fork is a real process, with the real stages,
threads and writes; the parent only saves the time to import the agent. What the fork did stands in its trace
file, one JSON object a line, written before the next thing happens, so that a kill cannot lose any of it.

An order has `job`, `disk`, `trace`, and if wanted `others` (more disks), `allow_failed` (of the policy), `limits`
(fields of HttpLimits), `kill_after` (seconds until the parent kills the fork), `record` (a file for the bytes of all
writes) and `stop`, one or a list of them:

    {"by": "kill" | "cancel" | "eio", "at": "event" | "call" | "read", "number": N, "again": false, "disk": PATH}

Counted from 0: events are the begin and the end of each stage, calls are those of the target disk's write, zero
and flush, reads those of its read and read_back. Kill and cancel come after the thing, eio instead of it. With `again`
every later one is hit as well; with `disk` only that disk's count.
"""

import asyncio
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import structlog

from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.host.disk import TargetDisk
from agent.model.disk_state import DiskState
from agent.model.events import DeployEvent, StageBegan, StageEnded
from agent.model.job import parse_job
from agent.model.policy import Policy, SeveralPolicy
from agent.model.seal import Seal
from agent.stages.machine import LocalMachine
from agent.transfer.http.limits import HttpLimits
from tests.kit.sinks import one_by_one

HANGS_AFTER = 200  # seconds; the fork is killed by SIGALRM then


class Stop:
    """Where an order says that the deployment is to be stopped."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self._count = 0
        self.by: str = told["by"]

    def hits(self, kind: str, path: str | None) -> bool:
        """Count one of a kind; whether it is the one."""
        if kind != self._told["at"] or self._told.get("disk", path) != path:
            return False
        number, self._count = self._count, self._count + 1
        return number == self._told["number"] or (
            number > self._told["number"] and bool(self._told.get("again"))
        )


class Watch:
    """Writes the trace, counts what happens, and stops the deployment where the order says."""

    def __init__(self, order: dict[str, Any]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._trace = os.open(order["trace"], flags, 0o600)
        self._record = os.open(order["record"], flags, 0o600) if "record" in order else None
        told = order.get("stop") or []
        self._stops = [Stop(one) for one in (told if isinstance(told, list) else [told])]
        self._lock = threading.RLock()
        self.cancel: Callable[[], None] = lambda: None

    def tell(self, **what: object) -> None:
        os.write(self._trace, json.dumps(what).encode() + b"\n")

    def hits(self, kind: str, path: str | None = None) -> set[str]:
        """Count one of a kind; by what the deployment is to be stopped at it."""
        return {stop.by for stop in self._stops if stop.hits(kind, path)}

    def strike(self, by: set[str]) -> None:
        """Kill or cancel."""
        if "kill" in by:
            os.kill(os.getpid(), signal.SIGKILL)
        if by:
            self.cancel()

    def listen(self, event: DeployEvent) -> None:
        match event:
            case StageBegan(stage):
                self.tell(event=f"{stage.value} begins")
            case StageEnded(stage, _):
                self.tell(event=f"{stage.value} ends")
            case _:
                return
        self.strike(self.hits("event"))

    def call(
        self, path: str, act: Callable[[], None], name: str, offset: int, length: int, data: bytes | None
    ) -> None:
        """Carry out one call of a disk, or fail in its place."""
        with self._lock:  # several disks are written side by side
            self._call(path, act, name, offset, length, data)

    def _call(
        self, path: str, act: Callable[[], None], name: str, offset: int, length: int, data: bytes | None
    ) -> None:
        hit = self.hits("call", path)
        if "eio" in hit:
            self.tell(failed=name, offset=offset, length=length)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        act()
        if self._record is not None and data is not None:
            os.write(self._record, data)
        self.tell(call=name, disk=path, offset=offset, length=length)
        self.strike(hit)

    def read(self, path: str, offset: int, length: int) -> None:
        """A disk is about to be read."""
        with self._lock:
            if "eio" in self.hits("read", path):
                self.tell(failed="read", offset=offset, length=length)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.tell(read=path, offset=offset, length=length)


class WatchedDisk(TargetDisk):
    """The real disk, with a watch over what changes it."""

    watch: ClassVar[Watch]

    def write(self, offset: int, data: memoryview | bytes) -> None:
        def act() -> None:
            super(WatchedDisk, self).write(offset, data)

        self.watch.call(self.path, act, "write", offset, len(data), bytes(data))

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        one_by_one(self.write, writes)

    def zero(self, offset: int, length: int) -> None:
        def act() -> None:
            super(WatchedDisk, self).zero(offset, length)

        self.watch.call(self.path, act, "zero", offset, length, None)

    def flush(self) -> None:
        self.watch.call(self.path, super().flush, "flush", 0, 0, None)

    def read(self, offset: int, length: int) -> bytes:
        self.watch.read(self.path, offset, length)
        return super().read(offset, length)

    def read_back(self, offset: int, length: int) -> memoryview:
        self.watch.read(self.path, offset, length)
        return super().read_back(offset, length)


class WatchedMachine(LocalMachine):
    """This machine, but for its disks: they are watched."""

    def open_disk(self, path: str) -> WatchedDisk:
        return WatchedDisk(path)


async def deploy(order: dict[str, Any], watch: Watch) -> None:
    options = Options(
        disks=(order["disk"], *order.get("others", ())),
        limits=HttpLimits(**order.get("limits") or {}),
        policy=Policy(several=SeveralPolicy(allow_failed=order.get("allow_failed", False))),
    )

    async def keep(fact: DiskState | Seal) -> None:
        if isinstance(fact, Seal):
            watch.tell(seal=fact.document())

    job, machine = parse_job(order["job"]), WatchedMachine()
    deployment = Deployment(job, options, watch.listen, keep=keep, machine=machine)
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None
    watch.cancel = lambda: cancel(loop, task)
    try:
        await deployment.run()
        watch.tell(returned=True)
    except asyncio.CancelledError:
        watch.tell(cancelled=True)
    watch.tell(status=deployment.snapshot().document(), held=is_open(order["disk"]))


def cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Cancel the task: at this very point where it is the one that runs, else as soon as the loop comes to it."""
    if threading.current_thread() is threading.main_thread():
        task.cancel()
    else:
        loop.call_soon_threadsafe(task.cancel)


def is_open(path: str) -> bool:
    """Whether this process still has a descriptor of the file."""
    return any(os.path.realpath(entry) == path for entry in os.scandir("/proc/self/fd"))


def carry_out(order: dict[str, Any]) -> None:
    signal.alarm(HANGS_AFTER)
    os.dup2(2, 1)
    WatchedDisk.watch = watch = Watch(order)
    with suppress(asyncio.CancelledError):  # one that came too late to stop anything
        asyncio.run(deploy(order, watch))


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                carry_out(order)
            except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
                traceback.print_exc()
                os._exit(70)
            os._exit(0)
        if "kill_after" in order:
            time.sleep(order["kill_after"])
            # It may have ended: until it is waited for, its number is not used again.
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        print(json.dumps({"signal": max(-code, 0), "exit": max(code, 0), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
