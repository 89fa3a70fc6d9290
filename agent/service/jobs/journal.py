"""The journal: the job slot on disk, so that the agent survives its own death.

One small JSON file, replaced atomically, 0600 in a directory of 0700, because it holds the job with its secrets. What
it says is what the next agent does: a job that was running starts again, a sealed one is compared with its disk, a
finished one still answers. A file that is torn, or not ours, is set aside under another name and never guessed at.

There are two files of one size, and they swap their names: the spare one is written and flushed, then it is the journal
and what was the journal is the spare. Both get their room when a job is accepted, that for its outcome included, and
keep it until the outcome is stored: a filesystem that fills up meanwhile loses nothing. Spaces fill the rest.

Used by the slot only. `open` first; `store` when something has to outlive the process. A `store` that fails leaves the
last state in place and raises.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiofiles

from agent.aio import run_blocking
from agent.errors import StateUnusable
from agent.host.syscalls import exchange_files
from agent.service.config.trusted_path import require_own_state
from agent.service.jobs.entry import JobEntry, member
from agent.units import KiB, MiB

FORMAT = "byoi-agent journal"
VERSION = 1
NAME = "journal.json"
LOCK = "lock"
# A job of the largest size, each of its characters escaped by JSON, and statuses.
MAX_BYTES = 192 * MiB
# What the status of a job that is over takes, and its receipt, the job left out.
OUTCOME_BYTES = 96 * KiB
# What is still noted of it then: seen, told, the reboot.
SLACK_BYTES = 4 * KiB
# Spaces are written in pieces of this size.
_PIECE = 64 * KiB


@dataclass(frozen=True, slots=True)
class JournalState:
    """All that the journal holds."""

    entry: JobEntry | None = None
    """The job in the slot."""
    taken: tuple[str, ...] = ()
    """Ids of jobs that were taken from the control plane, the last ones."""
    boot_id: str = ""
    """Of the boot in which it was written: a reboot that was still to come then has happened since."""
    undelivered: tuple[Mapping[str, Any], ...] = ()
    """Last statuses of jobs of the control plane that left the slot before it knew of them."""
    revision: int = 0
    """Of the last status that was shown when it was written."""
    ironic: Mapping[str, Any] | None = None
    """What the front for Ironic has to know after a restart (`agent.service.ironic.state`); nothing here looks into it.
    Of one boot only."""


class Journal:
    """The journal of one server in one directory."""

    def __init__(self, directory: str | Path, server_name: str) -> None:
        """Nothing is touched yet.

        Args:
            directory: gets mode 0700, and is made where it is missing.
            server_name: whose jobs it holds; a journal of another server is foreign.
        """
        self._directory = Path(directory)
        self._path = self._directory / NAME
        self._spare = self._directory / f".{NAME}.new"
        self._server_name = server_name
        self._lock_fd: int | None = None
        self._directory_fd: int | None = None
        self.stored: JournalState | None = None
        """The state that the file holds, if this process has written it."""

    async def open(self) -> tuple[JournalState, str | None]:
        """Take the directory for this process and read what is there.

        Returns:
            The state (an empty one where there is none), and what has to be told about one that was set aside.

        Raises:
            StateUnusable: the directory cannot be used, or another agent uses it.
        """
        try:
            await run_blocking(self._prepare)
            text = await self._read()
        except OSError as error:
            raise self._unusable(error) from error
        if text is None:
            return JournalState(), None
        try:
            return self._parse(text), None
        except ValueError as error:
            aside = await run_blocking(self._set_aside)
            return JournalState(), f"the journal was not usable and is kept as {aside}: {error}"

    async def store(self, state: JournalState, *, room: int | None = None) -> None:
        """Make a state durable; a cancellation is let through only when it is, or when it failed.

        Args:
            state: what the file is to hold.
            room: bytes that later books may take beyond this one; they are reserved, or nothing is stored. None where
                the room that there is has to do.

        Raises:
            StateUnusable: it could not be written; the file holds what it held before.
        """
        try:
            await run_blocking(self._replace, state, room)
        except OSError as error:
            raise self._unusable(error) from error
        except (ValueError, RecursionError):
            raise StateUnusable(
                path=str(self._path), reason="the job is too large, or nested too deep"
            ) from None

    def _unusable(self, error: OSError) -> StateUnusable:
        path, reason = str(self._directory), error.strerror or str(error)
        return StateUnusable(path=path, reason=reason, hint=_cure(error.errno, path))

    def close(self) -> None:
        """Let the directory go."""
        for fd in (self._lock_fd, self._directory_fd):
            if fd is not None:
                os.close(fd)
        self._lock_fd = self._directory_fd = None

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_own_state(self._directory)
        self._directory.chmod(0o700)
        fd = os.open(self._directory / LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno == errno.EWOULDBLOCK:
                raise OSError(errno.EBUSY, "another byoi-agent uses it", str(self._directory)) from None
            raise
        self._lock_fd = fd
        # Kept open: a process that is out of descriptors can still make its journal durable.
        self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    async def _read(self) -> bytes | None:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)

        try:
            async with aiofiles.open(self._path, "rb", opener=opener) as file:
                text: bytes = await file.read(MAX_BYTES + 1)
                return text
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                return b""  # a link, a directory, a socket: nothing that we made
            raise

    def _parse(self, text: bytes) -> JournalState:
        text = text.rstrip(b" \0")  # zeros: room that was reserved and not written yet
        if len(text) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(f"it is torn: its {len(text)} bytes are no JSON document") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError("it is not a journal of byoi-agent")
        if document.get("version") != VERSION:
            raise ValueError(f"it has version {document.get('version')!r}, this agent reads {VERSION}")
        if document.get("server") != self._server_name:
            raise ValueError("it belongs to another server")
        taken = member(document, "taken", list)
        if not all(isinstance(item, str) for item in taken):
            raise ValueError("the member taken is not a list of texts")
        undelivered = member(document, "farewells", list)
        if not all(isinstance(item, dict) and isinstance(item.get("id"), str) for item in undelivered):
            raise ValueError("the member farewells is not a list of statuses")
        entry = member(document, "entry", dict, type(None))
        return JournalState(
            entry=None if entry is None else JobEntry.parse(entry),
            taken=tuple(taken),
            boot_id=member(document, "boot", str),
            undelivered=tuple(undelivered),
            revision=member(document, "revision", int),
            # An agent of an earlier version did not keep it.
            ironic=member({"ironic": None} | document, "ironic", dict, type(None)),
        )

    def _set_aside(self) -> str:
        aside = self._path.with_name(f"{NAME}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.{os.getpid()}")
        self._path.rename(aside)
        return str(aside)

    def _replace(self, state: JournalState, room: int | None) -> None:
        self._take_again()
        text = self._encode(state)
        size = min(len(text) + SLACK_BYTES + (room or 0), MAX_BYTES)
        if room is not None:
            self._reserve(size)
        has_job_to_do = state.entry is not None and not state.entry.is_over
        with _opened(self._spare) as spare:
            if has_job_to_do:
                size = max(size, os.fstat(spare).st_size)  # what was reserved stays
            _fill(spare, text, size)
        try:
            exchange_files(self._spare, self._path)
        except OSError:  # there is no journal yet, or the filesystem cannot
            self._spare.replace(self._path)
        self.stored = state  # from here on it is what the next agent finds
        with contextlib.suppress(OSError):
            self._renew_spare(size, blank=not has_job_to_do)
        if self._directory_fd is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._directory_fd)

    def _encode(self, state: JournalState) -> bytes:
        document = {
            "format": FORMAT,
            "version": VERSION,
            "server": self._server_name,
            "boot": state.boot_id,
            "taken": list(state.taken),
            "farewells": [dict(status) for status in state.undelivered],
            "revision": state.revision,
            "ironic": None if state.ironic is None else dict(state.ironic),
            "entry": None if state.entry is None else state.entry.document(),
        }
        text = json.dumps(document).encode()
        if len(text) > MAX_BYTES:
            raise ValueError("larger than the next agent would read")
        return text

    def _take_again(self) -> None:
        """Somebody who made the directory anew while the agent ran has made another one: it has to be locked too."""
        here = self._directory.stat()
        if self._directory_fd is None or not os.path.samestat(here, os.fstat(self._directory_fd)):
            self.close()
            self._prepare()

    def _reserve(self, size: int) -> None:
        """Give both files room for `size` bytes; what they hold stays."""
        if not self._path.exists():
            self._replace(self.stored or JournalState(), None)
        before: dict[Path, int] = {}
        try:
            for path in (self._spare, self._path):
                with _opened(path) as fd:
                    before[path] = os.fstat(fd).st_size
                    os.posix_fallocate(fd, 0, size)
        except OSError:
            for path, length in before.items():
                os.truncate(path, length)
            raise

    def _renew_spare(self, size: int, *, blank: bool) -> None:
        """Have the next spare file ready, without the secrets of a job that is over."""
        with _opened(self._spare) as fd:
            if blank:
                _fill(fd, b"", os.fstat(fd).st_size)
                os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _fill(fd: int, text: bytes, size: int) -> None:
    """Write a text and spaces behind it, `size` bytes in all or as many as there is room for, and flush."""
    with contextlib.suppress(OSError):
        os.posix_fallocate(fd, 0, size)
    spaces = min(size, os.fstat(fd).st_size) - len(text)
    os.lseek(fd, 0, os.SEEK_SET)
    _write(fd, text)
    while spaces > 0:
        spaces -= _write(fd, b" " * min(spaces, _PIECE))
    os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
    os.fsync(fd)


def _write(fd: int, data: bytes) -> int:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    return len(data)


def _cure(number: int | None, directory: str) -> str:
    """What helps against an error of the system; empty where nothing more is known than for any other."""
    match number:
        case errno.ENOSPC | errno.EDQUOT:
            return f"Make room on the filesystem of {directory}."
        case errno.ENOENT | errno.ENOTDIR:
            return (
                f"{directory} is gone: make it again (mkdir -m 0700 {directory}), or start the agent again."
            )
        case errno.EROFS:
            return f"Mount the filesystem of {directory} writable again."
        case _:
            return ""
