"""The operator's keys: files in one directory, named after what they are. Blocks."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.model.signature import KEY_NAME, MAX_PUBLIC_KEY_BYTES
from agent.units import MiB

DEFAULT_DIRECTORY = "/etc/byoi-agent/trusted-keys"
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "openpgp": (".asc", ".gpg"),
    "minisign": (".minisign",),
    "ssh": (".ssh",),
    "cosign": (".cosign.pub",),
    "sigstore": (".sigstore.json",),
}
"""What the files of a type end with; the rest of a file's name is the name of its key."""
MAX_FILES = 256
MAX_TOTAL_BYTES = 8 * MiB
"""Of all key files of a type together; keyrings of distributions have some ten KiB."""


def read_trusted(directory: str, kind: str) -> dict[str, bytes]:
    """The key files of a type, by their names; none where there is no such directory.

    Raises:
        OSError: one cannot be read.
        ValueError: one is no regular file, or too long, or there are too many.
    """
    files, total = dict[str, bytes](), 0
    for name, path in find_trusted(directory, kind):
        files[name] = _read(path)
        total += len(files[name])
        if total > MAX_TOTAL_BYTES:
            raise ValueError(f"the keys of the type {kind} are longer than {MAX_TOTAL_BYTES} bytes together")
    return files


def find_trusted(directory: str, kind: str) -> Iterator[tuple[str, Path]]:
    """Names and paths of the key files of a type, sorted.

    Raises:
        OSError: the directory cannot be read.
        ValueError: there are too many.
    """
    try:
        entries = sorted(path.name for path in Path(directory).iterdir())
    except FileNotFoundError:
        return
    found = [(name, entry) for entry in entries if (name := _name(entry, kind)) is not None]
    if len(found) > MAX_FILES:
        raise ValueError(f"{directory} has more than {MAX_FILES} keys of the type {kind}")
    yield from ((name, Path(directory) / entry) for name, entry in found)


def _name(entry: str, kind: str) -> str | None:
    for suffix in SUFFIXES[kind]:
        name = entry.removesuffix(suffix)
        if name != entry and KEY_NAME.fullmatch(name):
            return name
    return None


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_PUBLIC_KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_PUBLIC_KEY_BYTES:
        raise ValueError(f"{path} is longer than {MAX_PUBLIC_KEY_BYTES} bytes")
    return data
