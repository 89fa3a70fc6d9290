"""Starts Python for a test: `python -m MODULE` is forked from a process that has imported the agent, or executed anew.

Importing the agent takes 0.3 s of processor time, and the tests start it a thousand times. In what a fork differs from
an executed process stands in `fork_server.py`. A test that is about that (memory, what a command imports, how a start
can fail) has its process executed: `fresh`. `tests/integration/test_starts.py` compares the two.
"""

import atexit
import functools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from tests.kit.commands import ROOT

NULL = subprocess.DEVNULL
UTF_8 = ("", "C.UTF-8")
"""What LANG says of a process that may be forked; where nothing is said Python takes the second."""
LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


class Process(Protocol):
    """What tests use of subprocess.Popen."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status, None while it runs; the negative number of the signal that ended it."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, in the end. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


def start_python(
    arguments: Iterable[object],
    environment: Mapping[str, str],
    *,
    stdin: int | IO[bytes] = NULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    directory: Path | None = None,
    terminal: bool = False,
    fresh: bool = False,
    inside: tuple[str, ...] = (),
) -> Process:
    """Start Python.

    Args:
        arguments: its own; what begins with `-m` and a module may be forked.
        environment: all of it.
        stdin: as subprocess takes it; so are stdout and stderr.
        stdout: see there.
        stderr: see there.
        directory: the working directory; None: this one.
        terminal: it leads a session of its own, with the terminal that stdin is.
        fresh: it is executed, not forked.
        inside: words in front of the command: it is executed too.
    """
    words = [str(word) for word in arguments]
    if fresh or inside or words[0] != "-m" or not _can_be_forked(environment):
        return subprocess.Popen(
            [*(["setsid", "--ctty"] if terminal else []), *inside, sys.executable, *words],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=directory,
            env=environment,
        )
    _, module, *rest = words
    order = {"module": module, "arguments": rest, "environment": dict(environment), "terminal": terminal}
    return _server().fork(order, (stdin, stdout, stderr), directory or Path.cwd())


def _can_be_forked(environment: Mapping[str, str]) -> bool:
    """Whether the environment says nothing to the interpreter itself that it hears only at its start."""
    heard = {name for name in environment if name.startswith(("PYTHON", "LC_", "LD_"))} - {"PYTHONPATH"}
    return not heard and environment.get("LANG", "") in UTF_8


@dataclass
class Forked:
    """A process that the fork server started."""

    pid: int
    pidfd: int
    answers: socket.socket
    returncode: int | None = None

    def poll(self) -> int | None:
        return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._status(None if timeout is None else timeout * 1000)
        if status is None:
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0)
        return status

    def _status(self, milliseconds: float | None) -> int | None:
        """Its exit status, waited for that long; None: it runs."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self.answers, select.POLLIN)
            if not poll.poll(milliseconds):
                return None
            answer = self.answers.recv(64)
            assert answer, "the fork server has ended"
            self.returncode = int(answer)
            self.answers.close()
            os.close(self.pidfd)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _ForkServer:
    """The server of this process, which ends with it."""

    def __init__(self) -> None:
        self._orders, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.kit.fork_server", str(other.fileno())],
                stdin=NULL,
                stdout=NULL,
                stderr=self._errors,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)},
                pass_fds=[other.fileno()],
            )

    def fork(self, order: dict[str, object], streams: Iterable[int | IO[bytes]], directory: Path) -> Forked:
        limits = [(limit, resource.getrlimit(limit)) for limit in LIMITS]
        message = json.dumps({**order, "limits": limits}).encode()
        answers, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as opened:
            opened.enter_context(other)

            def descriptor(path: str | Path, flags: int) -> int:
                made = os.open(path, flags)
                opened.callback(os.close, made)
                return made

            numbers = [
                descriptor(os.devnull, os.O_RDWR) if stream == NULL
                else stream if isinstance(stream, int) else stream.fileno()
                for stream in streams
            ]  # fmt: skip
            numbers += [descriptor(directory, os.O_PATH), other.fileno()]
            socket.send_fds(self._orders, [message], numbers)
        pid, descriptors, _, _ = socket.recv_fds(answers, 64, 1)
        assert pid, f"the fork server has ended: {self._said()}"
        return Forked(int(pid), descriptors[0], answers)

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def stop(self) -> None:
        self._orders.close()
        self._process.wait()
        self._errors.close()


@functools.cache
def _server() -> _ForkServer:
    server = _ForkServer()
    atexit.register(server.stop)
    return server
