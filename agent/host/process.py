"""Runs child processes; the only module that starts any.

Programs run without a shell, with a minimal environment, in a process group of their own, with bounded output and a
time limit. Programs that read data of an image also have limits on memory and processor time. Used by all of
`agent.host`, and to reboot. Blocks. When an exception is raised, the child was killed, unless it is stuck in the
kernel. Secrets are never passed in `argv`, which every process can read.
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
from typing import IO, Protocol, Self

from agent.errors import ToolMissing
from agent.text import printable
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
class ChildLimits:
    """Resource limits for a program that reads data of an image; the kernel enforces them (setrlimit(2)).

    Beyond `memory` its allocations fail, beyond `cpu` it is killed. Thereby an endless loop caused by the image can be
    distinguished from a disk that hangs, which takes no processor time.
    """

    memory: int = 128 * MiB
    """Address space in bytes. The programs used here need less than half of it for any valid image."""
    cpu: int = 20
    """Processor time in seconds."""
    file: int = 64 * MiB
    """Size of a written file in bytes."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` under these limits, by prlimit(1).

        A `preexec_fn` of subprocess would not be safe in a process with threads.
        """
        limits = (f"--as={self.memory}", f"--cpu={self.cpu}", f"--fsize={self.file}", "--core=0")
        return ["prlimit", *limits, "--", *argv]


class ProcessFailed(OSError):
    """A program failed or exceeded a limit; the text has the command and the end of its stderr.

    `errno` is ETIMEDOUT for the time limit, EFBIG for the output limit, else EIO. `what` is the text without the
    command.
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
    limits: ChildLimits | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end.

    Args:
        argv: the program (looked up in the system's directories only) and its arguments.
        input: bytes for its stdin; None for /dev/null.
        timeout: seconds until its process group is killed.
        env_extra: variables besides PATH and LC_ALL=C.
        ok: exit statuses that mean success.
        limits: resource limits, for programs that read data of an image.

    Returns:
        Exit status, stdout (at most `MAX_OUTPUT` bytes) and the end of stderr (64 KiB).

    Raises:
        ToolMissing: the program is not installed.
        ProcessFailed: another exit status, death by a signal, the time limit, or too much output.
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
    with _ChildPipes(child, argv, input or b"", time.monotonic() + timeout) as pipes:
        pipes.transfer()
        status = pipes.reap()
    if status not in ok:
        what = f"exit status {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
        raise ProcessFailed(errno.EIO, argv, what, bytes(pipes.stderr))
    return subprocess.CompletedProcess(list(argv), status, bytes(pipes.stdout), bytes(pipes.stderr))


class Tool(Protocol):
    """Runs a program and gives its stdout. `output` does; tests give one of their own for programs that need hardware.

    See `run` for what it raises.
    """

    def __call__(self, argv: Sequence[str], *, timeout: float = ...) -> bytes:
        """Run it, for `timeout` seconds at the most."""


def output(argv: Sequence[str], *, timeout: float = 60) -> bytes:
    """Run a program to its end, and give its stdout; see `run`."""
    return run(argv, timeout=timeout).stdout


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _ChildPipes:
    """The pipes to one child process. Leaving the context kills its process group if the child still runs."""

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
            # The child was not reaped, so its process group id cannot have been reused.
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            # A child that is stuck in the kernel (a failing disk) cannot be killed: do not wait for it for ever.
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_REAP_SECONDS)
        self._selector.close()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def transfer(self) -> None:
        """Transfer data until all pipes are closed, or until the child has ended and the pipes are empty.

        Not only until they are closed: a daemon that the child started may keep them open for ever.
        """
        ended = False
        while self._selector.get_map() and not ended:
            ended = self._has_ended()
            self._transfer_once(0.0 if ended else _POLL_SECONDS)
            while ended and self._transfer_once(0.0):
                pass

    def reap(self) -> int:
        """Wait for the child, after `transfer`, and return its exit status; negative for a signal."""
        try:
            return self._child.wait(max(self._deadline - time.monotonic(), 0.001))
        except subprocess.TimeoutExpired as error:
            raise self._timed_out() from error

    def _has_ended(self) -> bool:
        # WNOWAIT: the child is not reaped, so that `__exit__` can still kill the group.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._child.pid, flags) is not None

    def _timed_out(self) -> ProcessFailed:
        return ProcessFailed(errno.ETIMEDOUT, self._argv, "did not end in time", bytes(self.stderr))

    def _transfer_once(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for ready pipes, and transfer once; returns whether any data was transferred."""
        if time.monotonic() > self._deadline:
            raise self._timed_out()
        transferred = False
        for key, _ in self._selector.select(timeout):
            pipe = key.fileobj
            if pipe is self._child.stdin:
                transferred |= self._write(self._child.stdin)
            elif pipe is self._child.stdout:
                transferred |= self._read(self._child.stdout, self.stdout)
            elif pipe is self._child.stderr:
                transferred |= self._read(self._child.stderr, self.stderr)
        if len(self.stdout) > MAX_OUTPUT:
            raise ProcessFailed(errno.EFBIG, self._argv, f"more than {MAX_OUTPUT} bytes of output")
        del self.stderr[:-_MAX_STDERR]
        return transferred

    def _write(self, pipe: IO[bytes]) -> bool:
        try:
            written = os.write(pipe.fileno(), self._input[:_PIECE])
        except BrokenPipeError:
            # The child has closed its stdin; its exit status says whether that is an error.
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
