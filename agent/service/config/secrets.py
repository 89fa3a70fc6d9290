"""Reads secrets from files, and checks the files' modes and the form of their content."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.formats.dsse import signing_key_fault

MIN_CHARACTERS = 16
MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret, and a warning about its file for people (empty if there is none)."""

    value: str = field(repr=False)
    warning: str = ""


def read_regular(path: str | Path, most: int) -> tuple[bytes, os.stat_result]:
    """The content and status of a regular file of at most `most` bytes. Does not block on a FIFO.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: it is not a regular file, or is larger.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, opened with O_NONBLOCK
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is larger than {most} bytes")
    return content, status


def read_secret(path: str | Path, check: Callable[[str], Secret] | None = None) -> Secret:
    """Read a secret from its file, without white space around it.

    Args:
        path: of the file.
        check: refuses what is no such secret; without it that is `check_secret`.

    If the file's group has access, `warning` says so; if every user has, the file is refused. No message has any of the
    content.

    Raises:
        ValueError: the file or its content is refused; the text is a predicate, to be read after "the file".
    """
    try:
        content, status = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o007:
        raise ValueError(f"is open to every user (mode {mode:04o}): chmod 0600 it, and replace the secret")
    secret = (check or check_secret)(content.decode("latin-1").strip())
    warning = f"the file is open to its group (mode {mode:04o}); 0600 is safer" if mode & 0o070 else ""
    return Secret(secret.value, warning)


def check_secret(text: str) -> Secret:
    """A secret as it stands.

    Raises:
        ValueError: it is refused; the text is a predicate that has nothing of it.
    """
    if not all("!" <= character <= "~" for character in text):
        raise ValueError("holds more than one word, or characters that a header cannot carry")
    if len(text) < MIN_CHARACTERS:
        raise ValueError(f"holds {len(text)} characters, a secret has at least {MIN_CHARACTERS}")
    return Secret(text)


def check_signing_key(text: str) -> Secret:
    """A private key of Ed25519 in PEM.

    Raises:
        ValueError: it is none; the text is a predicate that has nothing of it.
    """
    if (fault := signing_key_fault(text)) is not None:
        raise ValueError(fault)
    return Secret(text)
