"""The journal: the job slot on disk, so that the agent survives its own death.

One small JSON file, replaced atomically (a new file, flushed, renamed over the old one), 0600 in a directory of 0700,
because it holds the job with its secrets. What it says is what the next agent does: a job that was running starts
again, a sealed one is compared with its disk, a finished one still answers. A file that is torn, or not ours, is set
aside under another name and never guessed at.

Used by the slot only. `open` first; `store` when something has to outlive the process. A `store` that fails leaves the
last state in place and raises.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import aiofiles

from agent.aio import run_blocking
from agent.errors import StateUnusable
from agent.model.seal import Seal
from agent.service.trusted_path import require_own_state
from agent.units import MiB

FORMAT = "byoi-agent journal"
VERSION = 1
NAME = "journal.json"
LOCK = "lock"
# A job of the largest size, each of its characters escaped by JSON, and statuses.
MAX_BYTES = 192 * MiB

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
    """One job. `job` is the document as posted, `status` the last status document of a job that is over."""

    id: str
    origin: Origin
    job: Mapping[str, Any] = field(repr=False)
    accepted_at: float
    phase: Phase = Phase.RUNNING
    attempt: int = 1
    seal: Seal | None = None
    status: Mapping[str, Any] | None = field(default=None, repr=False)
    seen: bool = False
    """Whether somebody has seen the outcome: the server may be handed over."""
    told: bool = False
    """Whether the control plane that the job came from has taken the outcome."""
    ending: Ending | None = None
    """What somebody was promised who wanted it to end, and is done even by the next agent."""
    percent: float = 0.0
    """How far clients have been told it was: the next attempt begins there."""

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
            raise StateUnusable(path=str(self._directory), reason=error.strerror or str(error)) from error
        if text is None:
            return Book(), None
        try:
            return self._parse(text), None
        except ValueError as error:
            aside = await run_blocking(self._set_aside)
            return Book(), f"the journal was not usable and is kept as {aside}: {error}"

    async def store(self, book: Book) -> None:
        """Make a book durable; a cancellation is let through only when it is, or when it failed.

        Raises:
            StateUnusable: it could not be written; the file holds what it held before.
        """
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
        try:
            await run_blocking(self._replace, document, book)
        except OSError as error:
            raise StateUnusable(path=str(self._path), reason=error.strerror or str(error)) from error
        except (ValueError, RecursionError):
            raise StateUnusable(
                path=str(self._path), reason="the job is too large, or nested too deep"
            ) from None

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
        fd = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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

    def _replace(self, document: Mapping[str, Any], book: Book) -> None:
        text = json.dumps(document).encode()
        if len(text) > MAX_BYTES:
            raise ValueError("larger than the next agent would read")
        fresh = self._path.with_name(f".{NAME}.new")
        fresh.unlink(missing_ok=True)  # of an agent that died while it wrote
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self.stored = book  # from here on it is what the next agent finds
        if self._directory_fd is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._directory_fd)


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
