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
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import aiofiles

from agent.aio import run_blocking
from agent.errors import StateUnusable
from agent.host.syscalls import exchange_files
from agent.model.disk_state import DiskState
from agent.model.seal import Seal
from agent.service.config.trusted_path import require_own_state
from agent.units import KiB, MiB

FORMAT = "byoi-agent journal"
VERSION = 1
NAME = "journal.json"
LOCK = "lock"
# A job of the largest size, each of its characters escaped by JSON, and statuses.
MAX_BYTES = 192 * MiB
# What the status of a job that is over takes, its job left out.
OUTCOME_BYTES = 64 * KiB
# What is still noted of it then: seen, told, the reboot.
SLACK_BYTES = 4 * KiB

Origin = Literal["api", "control"]
Ending = Literal["erase", "cancel"]


class Phase(StrEnum):
    """What has become of a job, as far as it matters to an agent that comes back."""

    RUNNING = "running"
    SEALED = "sealed"
    FAILED = "failed"
    DONE = "done"
    """Committed; the server has not been handed over yet."""
    CLOSED = "closed"
    """Committed and handed over, or never to be: nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One job. `job` is the document as posted; once it is over, without its secrets, and `status` is its last one."""

    id: str
    origin: Origin
    job: Mapping[str, Any] = field(repr=False)
    accepted_at: float
    phase: Phase = Phase.RUNNING
    attempt: int = 1
    seal: Seal | None = None
    status: Mapping[str, Any] | None = field(default=None, repr=False)
    seen: bool = False
    """Whether somebody has seen the outcome: the server of a job that was posted may be handed over."""
    told: bool = False
    """Whether the control plane that the job came from has taken the outcome: its server may be handed over."""
    ending: Ending | None = None
    """What somebody was promised who wanted it to end, and is done even by the next agent."""
    percent: float = 0.0
    """How far clients may have been told it is, and no further: the next attempt begins there."""
    ordered_at: float | None = None
    """When the reboot was ordered: it is not ordered again in the same boot."""
    disk_state: DiskState = DiskState.UNTOUCHED
    """What the attempts so far have left of the disk."""

    @property
    def is_over(self) -> bool:
        """Whether it has its outcome."""
        return self.status is not None

    def document(self) -> dict[str, Any]:
        """The entry as JSON, secrets included."""
        return {
            "id": self.id,
            "origin": self.origin,
            "job": dict(self.job),
            "acceptedAt": self.accepted_at,
            "phase": self.phase.value,
            "attempt": self.attempt,
            "seal": None if self.seal is None else self.seal.document(),
            "status": None if self.status is None else dict(self.status),
            "seen": self.seen,
            "told": self.told,
            "ending": self.ending,
            "percent": self.percent,
            "orderedAt": self.ordered_at,
            "diskState": self.disk_state.value,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Entry":
        """Read what `document` wrote.

        Raises:
            ValueError: it is no entry; the text names the member and never its value.
        """
        entry = cls(
            id=_member(document, "id", str),
            origin=_one_of(document, "origin", ("api", "control")),
            job=_member(document, "job", dict),
            accepted_at=_member(document, "acceptedAt", float, int),
            phase=Phase(_member(document, "phase", str)),
            attempt=_member(document, "attempt", int),
            seal=None if document.get("seal") is None else Seal.parse(_member(document, "seal", dict)),
            status=_member(document, "status", dict, type(None)),
            seen=_member(document, "seen", bool),
            told=_member(document, "told", bool),
            ending=_one_of(document, "ending", ("erase", "cancel", None)),
            percent=_member(document, "percent", float, int),
            ordered_at=_member(document, "orderedAt", float, int, type(None)),
            # An agent of an earlier version did not keep it.
            disk_state=DiskState(document.get("diskState", DiskState.UNKNOWN)),
        )
        if entry.phase is Phase.SEALED and entry.seal is None:
            raise ValueError("a sealed entry without its seal")
        if entry.phase in (Phase.FAILED, Phase.DONE, Phase.CLOSED) and entry.status is None:
            raise ValueError("an entry that is over, without its status")
        return entry


@dataclass(frozen=True, slots=True)
class Book:
    """All that the journal holds: the job in the slot, and the ids of jobs that were taken from the control plane."""

    entry: Entry | None = None
    taken: tuple[str, ...] = ()
    boot_id: str = ""
    """Of the boot in which it was written: a reboot that was still to come then has happened since."""
    farewells: tuple[Mapping[str, Any], ...] = ()
    """Last statuses of jobs of the control plane that left the slot before it knew of them."""
    revision: int = 0
    """Of the last status that was shown when it was written."""


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
        self.stored: Book | None = None
        """The book that the file holds, if this process has written it."""

    async def open(self) -> tuple[Book, str | None]:
        """Take the directory for this process and read what is there.

        Returns:
            The book (an empty one where there is none), and what has to be told about one that was set aside.

        Raises:
            StateUnusable: the directory cannot be used, or another agent uses it.
        """
        try:
            await run_blocking(self._prepare)
            text = await self._read()
        except OSError as error:
            raise self._unusable(error) from error
        if text is None:
            return Book(), None
        try:
            return self._parse(text), None
        except ValueError as error:
            aside = await run_blocking(self._set_aside)
            return Book(), f"the journal was not usable and is kept as {aside}: {error}"

    async def store(self, book: Book, *, room: int | None = None) -> None:
        """Make a book durable; a cancellation is let through only when it is, or when it failed.

        Args:
            book: what the file is to hold.
            room: bytes that later books may take beyond this one; they are reserved, or nothing is stored. None where
                the room that there is has to do.

        Raises:
            StateUnusable: it could not be written; the file holds what it held before.
        """
        try:
            await run_blocking(self._replace, book, room)
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

    def _parse(self, text: bytes) -> Book:
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
        taken = _member(document, "taken", list)
        if not all(isinstance(item, str) for item in taken):
            raise ValueError("the member taken is not a list of texts")
        farewells = _member(document, "farewells", list)
        if not all(isinstance(item, dict) and isinstance(item.get("id"), str) for item in farewells):
            raise ValueError("the member farewells is not a list of statuses")
        entry = _member(document, "entry", dict, type(None))
        return Book(
            entry=None if entry is None else Entry.parse(entry),
            taken=tuple(taken),
            boot_id=_member(document, "boot", str),
            farewells=tuple(farewells),
            revision=_member(document, "revision", int),
        )

    def _set_aside(self) -> str:
        aside = self._path.with_name(f"{NAME}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.{os.getpid()}")
        self._path.rename(aside)
        return str(aside)

    def _replace(self, book: Book, room: int | None) -> None:
        self._take_again()
        text = self._encode(book)
        size = min(len(text) + SLACK_BYTES + (room or 0), MAX_BYTES)
        if room is not None:
            self._reserve(size)
        has_job_to_do = book.entry is not None and not book.entry.is_over
        with _opened(self._spare) as spare:
            if has_job_to_do:
                size = max(size, os.fstat(spare).st_size)  # what was reserved stays
            _fill(spare, text, size)
        try:
            exchange_files(self._spare, self._path)
        except OSError:  # there is no journal yet, or the filesystem cannot
            self._spare.replace(self._path)
        self.stored = book  # from here on it is what the next agent finds
        with contextlib.suppress(OSError):
            self._renew_spare(size, blank=not has_job_to_do)
        if self._directory_fd is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._directory_fd)

    def _encode(self, book: Book) -> bytes:
        document = {
            "format": FORMAT,
            "version": VERSION,
            "server": self._server_name,
            "boot": book.boot_id,
            "taken": list(book.taken),
            "farewells": [dict(farewell) for farewell in book.farewells],
            "revision": book.revision,
            "entry": None if book.entry is None else book.entry.document(),
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
            self._replace(self.stored or Book(), None)
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
    rest = memoryview(text.ljust(min(size, os.fstat(fd).st_size)))
    os.lseek(fd, 0, os.SEEK_SET)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
    os.fsync(fd)


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


def _member(document: Mapping[str, Any], key: str, *kinds: type) -> Any:
    value = document.get(key)
    if type(value) not in kinds:
        raise ValueError(f"its member {key} is not what it has to be")
    return value


def _one_of(document: Mapping[str, Any], key: str, values: tuple[str | None, ...]) -> Any:
    value = document.get(key)
    if value not in values:
        raise ValueError(f"its member {key} is not what it has to be")
    return value
