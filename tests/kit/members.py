"""Members of a mirror as files, and what mdadm says of them; it needs no md in the kernel for that."""

import uuid
from pathlib import Path

from agent.formats.tables.md import Array, member_writes
from tests.kit.commands import run


def write_member(path: Path, array: Array, role: int, size: int) -> Path:
    """Make a sparse file of `size` bytes a member, or make the file that is there one."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(size)
        for offset, data in member_writes(array, role, size, uuid.uuid4()):
            file.seek(offset)
            file.write(data)
    return path


def examine(path: Path) -> dict[str, str]:
    """What `mdadm --examine` says of a file or a block device: its lines by the name before the colon."""
    return _fields(run("mdadm", "--examine", path))


def examine_bitmap(path: Path) -> dict[str, str]:
    """What `mdadm --examine-bitmap` says of a member on a block device."""
    return _fields(run("mdadm", "--examine-bitmap", path))


def _fields(text: str) -> dict[str, str]:
    pairs = (line.split(" : ", 1) for line in text.splitlines() if " : " in line)
    return {name.strip(): value.strip() for name, value in pairs}
