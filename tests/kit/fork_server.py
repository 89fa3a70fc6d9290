"""A process that has imported the agent and forks for each start of it: `python -m MODULE` without the imports.

It is run by `tests/kit/starts.py`, with the descriptor of a Unix socket (SOCK_SEQPACKET) as its argument, until the
other end is closed. A message there is an order, as JSON, with five descriptors: stdin, stdout, stderr, the working
directory, and a socket for the answers: the process id with a pidfd, and at its end `returncode` as subprocess has it.

The fork becomes what the order says and then leaves `main` through the module: its end is the interpreter's own, with
the exit status, threads that are waited for, atexit, streams that are flushed. It differs from an executed process in
this: its modules are imported already, whatever their order; its parent is this process, from which it has its umask
and the seed of its hashes; /proc shows the command line of this process, and its memory with that of the imports.
"""

import fcntl
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import socket
import sys
import termios
import time
from contextlib import suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from typing import Any

import agent

# What is run as a program must not have been imported: `agent.cli.main` is a function before that, and a module after.
PROGRAMS = frozenset({"agent.cli.__main__", "agent.cli.main", "agent.cli.manual", "agent.service.daemon"})
MAX_ORDER = 128 * 1024
DESCRIPTORS = 5


@dataclass(frozen=True)
class Order:
    """A start: what `python -m` is given, and where."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    limits: list[tuple[int, tuple[int, int]]]
    """Of resource.setrlimit."""
    terminal: bool
    """Lead a session of its own, whose terminal is stdin."""
    streams: list[int]
    directory: int

    def carry_out(self) -> None:
        """Be that process, to the end of its module."""
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
        os.fchdir(self.directory)
        self.close()
        os.environ.clear()
        os.environ.update(self.environment)
        time.tzset()
        for limit, values in self.limits:
            resource.setrlimit(limit, values)
        if self.terminal:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        open_streams()
        sys.argv = [self.module, *self.arguments]
        runpy.run_module(self.module, run_name="__main__", alter_sys=True)

    def close(self) -> None:
        """Give its descriptors back."""
        for descriptor in (*self.streams, self.directory):
            os.close(descriptor)


def open_streams() -> None:
    """Make the standard streams anew, as the interpreter does at its start (create_stdio of pylifecycle.c)."""

    def stream(number: int, mode: str, name: str, errors: str = "surrogateescape") -> TextIOWrapper:
        made: Any = open(number, mode, encoding="utf-8", errors=errors, newline="\n", closefd=False)  # noqa: SIM115
        made.buffer.raw.name = name
        return made  # type: ignore[no-any-return]

    sys.stdin = sys.__stdin__ = stream(0, "r", "<stdin>")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = stream(1, "w", "<stdout>")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = stream(2, "w", "<stderr>", "backslashreplace")  # type: ignore[misc]
    sys.stderr.reconfigure(line_buffering=True)


@dataclass
class ForkServer:
    """Forks for every order on its socket, and tells how the forks have ended."""

    orders: socket.socket
    running: dict[int, tuple[int, socket.socket]] = field(default_factory=dict)
    """By pidfd: the process, and who waits for its end."""

    def serve(self) -> Order | None:
        """In this process: None, when the socket is closed. In each fork: its order."""
        poll = select.poll()
        poll.register(self.orders, select.POLLIN)
        while True:
            for ready, _ in poll.poll():
                if ready != self.orders.fileno():
                    poll.unregister(ready)
                    self._tell_end(ready)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self.orders, MAX_ORDER, DESCRIPTORS)
                if not message:
                    return None
                *streams, directory, answers = descriptors
                order = Order(**json.loads(message), streams=streams, directory=directory)
                pidfd = self._fork(order, socket.socket(fileno=answers))
                if pidfd is None:
                    return order
                poll.register(pidfd, select.POLLIN)

    def _fork(self, order: Order, answers: socket.socket) -> int | None:
        """The pidfd of the fork; None in it."""
        pid = os.fork()
        if pid == 0:
            self._forget(answers)
            return None
        order.close()
        pidfd = os.pidfd_open(pid)
        self.running[pidfd] = pid, answers
        self._tell(answers, pid, pidfd)
        return pidfd

    def _forget(self, answers: socket.socket) -> None:
        """Close what is this process's own and not the fork's."""
        self.orders.close()
        answers.close()
        for pidfd, (_, others) in self.running.items():
            os.close(pidfd)
            others.close()
        self.running.clear()

    def _tell_end(self, pidfd: int) -> None:
        pid, answers = self.running.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        self._tell(answers, os.waitstatus_to_exitcode(status))
        answers.close()

    def _tell(self, answers: socket.socket, number: int, *descriptors: int) -> None:
        with suppress(BrokenPipeError):  # nobody waits for it any more
            socket.send_fds(answers, [str(number).encode()], descriptors)


def import_agent() -> None:
    """Import all of it, and leave the objects alone from here on: what is not written to stays shared."""
    for module in pkgutil.walk_packages(agent.__path__, "agent."):
        if module.name not in PROGRAMS:
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve; in a fork, be what was ordered."""
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    import_agent()
    order = server.serve()
    if order is not None:
        order.carry_out()


if __name__ == "__main__":
    main()
