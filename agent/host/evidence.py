"""What the system tells of itself, for whoever has to find out what went wrong: gathered by its own tools, and packed.

Blocking. A tool that is missing or fails costs its part of the evidence, and nothing else.
"""

import io
import tarfile
from collections.abc import Mapping, Sequence

from agent.host import process

Command = tuple[str, ...]


def gather(
    commands: Mapping[str, Sequence[Command]], seconds: float
) -> tuple[dict[str, bytes], dict[str, str]]:
    """What these commands print, by name, and why there is nothing of the others.

    Args:
        commands: of each name, those that are tried one after the other until one succeeds.
        seconds: for each of them.
    """
    found: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for name, ways in commands.items():
        for command in ways:
            try:
                found[name] = process.run(command, timeout=seconds).stdout
            except Exception as error:  # noqa: BLE001 - the others are wanted all the same
                missing[name] = f"{command[0]}: {error}"
            else:
                missing.pop(name, None)
                break
    return found, missing


def pack(files: Mapping[str, bytes], *, directory: str = "", at: float = 0.0) -> bytes:
    """The files as a tar archive compressed by gzip.

    Args:
        files: content by name.
        directory: what they lie in, with a slash at its end; none where it is empty.
        at: their time, in seconds since the epoch.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(directory + name)
            entry.size, entry.mtime, entry.mode = len(content), int(at), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()
