"""The one door for child processes.

Owns how programs are started: an environment made from nothing, no shell, a process group of their own,
bounded output, a time limit, and for those that read what an image brought, limits on memory and processor time.
Used by everything in `agent.host` that needs a tool. Blocks. On any failure the child is dead (or beyond killing,
in the kernel) before the exception leaves. Secrets are never passed in `argv`: every process can read it.
"""

import errno
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Self

from agent.errors import ToolMissing
from agent.model.disks import printable
from agent.units import KiB, MiB

MAX_OUTPUT = MiB
_MAX_STDERR = 64 * KiB
_STDERR_LINES = 5
_PIECE = 64 * KiB
_POLL_SECONDS = 0.1
_REAP_SECONDS = 5.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_BASE_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C"}


@dataclass(frozen=True)
class Limits:
    """What a program may take that reads what an image brought. The kernel enforces it (setrlimit(2)).

    Past `memory` its allocations fail, past `cpu` it is killed: a loop that an image has built is so told from a disk
    that does not answer, which takes time and no processor.
    """

    memory: int = 128 * MiB
    """Address space, bytes. What is used here takes less than half of it on any sound image."""
    cpu: int = 20
    """Processor time, seconds."""
    file: int = 64 * MiB
    """Size of a file that it writes, bytes."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` behind the program that sets the limits on itself and then becomes it.

        Not by a function between fork and exec: that is not safe in a process with threads.
        """
        limits = (f"--as={self.memory}", f"--cpu={self.cpu}", f"--fsize={self.file}", "--core=0")
        return ["prlimit", *limits, "--", *argv]


class ProcessFailed(OSError):
    """A program failed, was too slow or too talkative; says which command, and the end of its stderr.

    `errno` is ETIMEDOUT for the time limit, EFBIG for the output limit, else EIO. `what` is what happened, without
    the command.
    """

    def __init__(self, number: int, argv: Sequence[str], what: str, stderr: bytes = b"") -> None:
        self.argv = tuple(argv)
        self.what = what
        self.stderr_tail = _last_lines(stderr)
        said = f": {self.stderr_tail}" if self.stderr_tail else ""
        super().__init__(number, f"{shlex.join(argv)}: {what}{said}")

    def __str__(self) -> str:
        return str(self.strerror)


def _last_lines(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "backslashreplace").splitlines() if line.strip()]
    return printable("; ".join(lines[-_STDERR_LINES:]))


def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,  # noqa: A002 - the name that subprocess.run gives it
    timeout: float = 60,
    env_extra: Mapping[str, str] | None = None,
    ok: Collection[int] = (0,),
    limits: Limits | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end.

    Args:
        argv: the program (looked up in the system's own directories) and its arguments.
        input: bytes for its stdin, which is /dev/null otherwise.
        timeout: seconds until its whole process group is killed.
        env_extra: variables beside PATH and LC_ALL=C.
        ok: the exit statuses that are no failure.
        limits: for programs that read what an image brought.

    Returns:
        Exit status, stdout (at most MAX_OUTPUT bytes) and the end of stderr.

    Raises:
        ToolMissing: there is no such program.
        ProcessFailed: any other exit status, death by a signal, the time limit, or too much output.
        OSError: the program could not be started.
    """
    if shutil.which(argv[0], path=_PATH) is None:
        raise ToolMissing(tool=argv[0])
    try:
        child = subprocess.Popen(
            list(argv) if limits is None else limits.command(argv),
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_BASE_ENVIRONMENT | dict(env_extra or {}),
            cwd="/",
            close_fds=True,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ToolMissing(tool=error.filename) from error
    with _Conversation(child, argv, input or b"", time.monotonic() + timeout) as talk:
        talk.hold()
        status = talk.reap()
    if status not in ok:
        what = f"exit status {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
        raise ProcessFailed(errno.EIO, argv, what, bytes(talk.stderr))
    return subprocess.CompletedProcess(list(argv), status, bytes(talk.stdout), bytes(talk.stderr))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Conversation:
    """The pipes to one child, served until it ends; leaving the context kills what still runs."""

    def __init__(
        self, child: subprocess.Popen[bytes], argv: Sequence[str], stdin: bytes, deadline: float
    ) -> None:
        self._child = child
        self._argv = argv
        self._input = memoryview(stdin)
        self._deadline = deadline
        self._selector = selectors.DefaultSelector()
        self.stdout = bytearray()
        self.stderr = bytearray()

    def __enter__(self) -> Self:
        for pipe, event in (
            (self._child.stdin, selectors.EVENT_WRITE),
            (self._child.stdout, selectors.EVENT_READ),
            (self._child.stderr, selectors.EVENT_READ),
        ):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, event)
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.returncode is None:
            # Not reaped yet, so the group's number cannot belong to anyone else.
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            # A child stuck in the kernel (a dying disk) cannot be killed; do not hang with it.
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_REAP_SECONDS)
        self._selector.close()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def hold(self) -> None:
        """Serve the pipes until all are closed, or the child has ended and nothing is left in them.

        Not only until they are closed: a daemon that the child leaves behind may hold them for ever.
        """
        ended = False
        while self._selector.get_map() and not ended:
            ended = self._has_ended()
            self._serve(0.0 if ended else _POLL_SECONDS)
            while ended and self._serve(0.0):
                pass

    def reap(self) -> int:
        """Wait for the end of a child that has closed its pipes; returns its exit status."""
        try:
            return self._child.wait(max(self._deadline - time.monotonic(), 0.001))
        except subprocess.TimeoutExpired as error:
            raise self._too_late() from error

    def _has_ended(self) -> bool:
        # Looks without reaping, so that `__exit__` may still kill the group.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._child.pid, flags) is not None

    def _too_late(self) -> ProcessFailed:
        return ProcessFailed(errno.ETIMEDOUT, self._argv, "did not end in time", bytes(self.stderr))

    def _serve(self, timeout: float) -> bool:
        """Move what can be moved; returns whether anything was."""
        if time.monotonic() > self._deadline:
            raise self._too_late()
        moved = False
        for key, _ in self._selector.select(timeout):
            pipe = key.fileobj
            if pipe is self._child.stdin:
                moved |= self._write(self._child.stdin)
            elif pipe is self._child.stdout:
                moved |= self._read(self._child.stdout, self.stdout)
            elif pipe is self._child.stderr:
                moved |= self._read(self._child.stderr, self.stderr)
        if len(self.stdout) > MAX_OUTPUT:
            raise ProcessFailed(errno.EFBIG, self._argv, f"more than {MAX_OUTPUT} bytes of output")
        del self.stderr[:-_MAX_STDERR]
        return moved

    def _write(self, pipe: IO[bytes]) -> bool:
        try:
            written = os.write(pipe.fileno(), self._input[:_PIECE])
        except BrokenPipeError:
            # The child does not want the rest; its exit status tells whether that is a fault.
            self._input = self._input[len(self._input) :]
            written = 0
        except BlockingIOError:
            return False
        self._input = self._input[written:]
        if not self._input:
            self._selector.unregister(pipe)
            with suppress(BrokenPipeError):
                pipe.close()
        return written > 0

    def _read(self, pipe: IO[bytes], into: bytearray) -> bool:
        try:
            piece = os.read(pipe.fileno(), _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            self._selector.unregister(pipe)
            pipe.close()
        into += piece
        return bool(piece)
