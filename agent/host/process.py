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
from collections.abc import Callable, Collection, Mapping, Sequence
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
    cpu: int | None = 20
    """Processor time in seconds; None for a program that works as long as it is fed."""
    file: int = 64 * MiB
    """Size of a written file in bytes."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` under these limits, by prlimit(1).

        A `preexec_fn` of subprocess would not be safe in a process with threads.
        """
        limits = (
            f"--as={self.memory}",
            f"--cpu={self.cpu or 'unlimited'}",
            f"--fsize={self.file}",
            "--core=0",
        )
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
    files: Collection[int] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end.

    Args:
        argv: the program (looked up in the system's directories only) and its arguments.
        input: bytes for its stdin; None for /dev/null.
        timeout: seconds until its process group is killed.
        env_extra: variables besides PATH and LC_ALL=C.
        ok: exit statuses that mean success.
        limits: resource limits, for programs that read data of an image.
        files: descriptors that it inherits under their numbers.

    Returns:
        Exit status, stdout (at most `MAX_OUTPUT` bytes) and the end of stderr (64 KiB).

    Raises:
        ToolMissing: the program is not installed.
        ProcessFailed: another exit status, death by a signal, the time limit, or too much output.
        OSError: the program could not be started.
    """
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    child = _start(argv, stdin, env_extra, limits, files)
    with _ChildPipes(child, argv, input or b"", time.monotonic() + timeout) as pipes:
        return pipes.end(ok)


def require_tool(tool: str) -> None:
    """Make sure that a program is installed.

    Raises:
        ToolMissing: it is not.
    """
    if shutil.which(tool, path=_PATH) is None:
        raise ToolMissing(tool=tool)


def _start(
    argv: Sequence[str],
    stdin: int,
    env_extra: Mapping[str, str] | None,
    limits: ChildLimits | None,
    files: Collection[int] = (),
) -> subprocess.Popen[bytes]:
    require_tool(argv[0])
    try:
        return subprocess.Popen(
            list(argv) if limits is None else limits.command(argv),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_BASE_ENVIRONMENT | dict(env_extra or {}),
            cwd="/",
            close_fds=True,
            pass_fds=tuple(files),
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ToolMissing(tool=error.filename) from error


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


class FedProcess:
    """A program that is fed on its stdin piece by piece, as long as it takes. Used by one thread at a time.

    `stop` alone may come from another thread. `close` has to be called in the end, whatever happened.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        files: Collection[int] = (),
        env_extra: Mapping[str, str] | None = None,
        limits: ChildLimits | None = None,
    ) -> None:
        """Start it, as `run` does.

        Args:
            argv: the program and its arguments.
            files: descriptors that it inherits under their numbers.
            env_extra: variables besides PATH and LC_ALL=C.
            limits: resource limits.

        Raises:
            ToolMissing: the program is not installed.
            OSError: it could not be started.
        """
        child = _start(argv, subprocess.PIPE, env_extra, limits, files)
        self._stopped = False
        self._pipes = _ChildPipes(child, argv, b"", 0.0)
        self._pipes.__enter__()

    def feed(self, data: memoryview, seconds: float) -> None:
        """Have it read all of that; it may take none of it for so many seconds.

        Raises:
            ProcessFailed: it reads no more (EPIPE) or not in time (ETIMEDOUT), or `stop` was called (ECANCELED).
        """
        self._pipes.feed(data, seconds, lambda: self._stopped)

    def stop(self) -> None:
        """Have a `feed` that waits end soon."""
        self._stopped = True

    def finish(self, seconds: float, ok: Collection[int] = (0,)) -> subprocess.CompletedProcess[bytes]:
        """Close its stdin and wait for its end; see `run` for what it returns and raises."""
        self._pipes.feed_end(seconds)
        return self._pipes.end(ok)

    def close(self) -> None:
        """Kill it if it still runs; safe to call twice."""
        self._pipes.__exit__()


class _ChildPipes:
    """The pipes to one child process. Leaving the context kills its process group if the child still runs."""

    def __init__(
        self, child: subprocess.Popen[bytes], argv: Sequence[str], stdin: bytes, deadline: float
    ) -> None:
        self._child = child
        self._argv = argv
        self._input = memoryview(stdin)
        self._deadline = deadline
        self._closed = False
        self._broken = False
        """Whether the child has closed its stdin, or ended."""
        self._more = False
        """Whether more is to come for its stdin than what is there."""
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
        if self._closed:
            return
        self._closed = True
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

    def feed(self, data: memoryview, seconds: float, is_stopped: Callable[[], bool]) -> None:
        """Write all of it to the child's stdin, which stays open.

        Args:
            data: is not kept.
            seconds: how long the child may take none of it.
            is_stopped: asked time and again whether to give up.

        Raises:
            ProcessFailed: the child takes no more (EPIPE), took nothing in time (ETIMEDOUT), or it was given up
                (ECANCELED).
        """
        self._more, self._input = True, data
        try:
            while self._input:
                self._deadline = time.monotonic() + seconds
                left = len(self._input)
                while len(self._input) == left:
                    self._transfer_once(_POLL_SECONDS)
                    if is_stopped():
                        raise ProcessFailed(errno.ECANCELED, self._argv, "was stopped")
                    if self._broken:
                        raise ProcessFailed(
                            errno.EPIPE, self._argv, "ended before it had read everything", bytes(self.stderr)
                        )
        finally:
            self._input = memoryview(b"")

    def feed_end(self, seconds: float) -> None:
        """Nothing more comes for the child's stdin; from now on it may take so many seconds in all."""
        self._more, self._deadline = False, time.monotonic() + seconds
        if self._child.stdin is not None and not self._broken:
            self._close_input(self._child.stdin)

    def end(self, ok: Collection[int]) -> subprocess.CompletedProcess[bytes]:
        """Transfer what is left, and wait for the end of the child."""
        self.transfer()
        status = self.reap()
        if status not in ok:
            what = f"exit status {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
            raise ProcessFailed(errno.EIO, self._argv, what, bytes(self.stderr))
        return subprocess.CompletedProcess(list(self._argv), status, bytes(self.stdout), bytes(self.stderr))

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
        what = "reads no more of what it is given" if self._more else "did not end in time"
        return ProcessFailed(errno.ETIMEDOUT, self._argv, what, bytes(self.stderr))

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
            self._broken = True
            self._input = self._input[len(self._input) :]
            written = 0
        except BlockingIOError:
            return False
        self._input = self._input[written:]
        if self._broken or not (self._input or self._more):
            self._close_input(pipe)
        return written > 0

    def _close_input(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        with suppress(BrokenPipeError):
            pipe.close()

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
