"""Checks that a file or directory can only have been written by root or by the user that the agent runs as.

The owner of a file, and every user with write permission, decides what it contains. The same holds for each directory
of its path: who can write to one can replace what is in it. Therefore all components of the path are checked, from
the root directory on and through symbolic links.

What passes cannot be replaced by another user between the check and the use, so a check by path is sufficient.
"""

import os
import pwd
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StateUnusable
from agent.text import MAX_SHOWN, printable

# The most symbolic links of one path that the kernel follows (path_resolution(7)).
_MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a path cannot be trusted, and how to correct that; `str` gives both."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


def distrust(path: str | Path, *, may_be_link: bool = False) -> Distrust | None:
    """Why a path cannot be trusted; None if it can, or does not exist.

    A directory of the path may be writable for everybody if it is sticky (/tmp): only the owner of a file can then
    rename or remove it.

    Args:
        path: a file or a directory.
        may_be_link: whether the last component may be a symbolic link, owned by root or the agent's user, to a file
        that
            passes. For public files such as CA certificates; a secret must be named by its own path. Directories of the
            path may be such links in any case.
    """
    directory, links = Path("/"), 0
    todo = list(reversed(Path(path).absolute().parts[1:]))
    while todo:
        part = todo.pop()
        here = directory.parent if part == ".." else directory / part
        try:
            status = here.lstat()
        except OSError:
            return None  # it does not exist or cannot be examined: opening it will fail
        fault = _fault(here, status, is_end=not todo)
        if fault is not None:
            return fault
        if not stat.S_ISLNK(status.st_mode):
            directory = here
            continue
        links += 1
        if links > _MAX_LINKS:
            return None  # opening it will fail
        target = here.readlink()
        if not todo and not may_be_link:
            return Distrust(
                f"{_shown(here)} is a link to {_shown(target)}", "name the file itself, or put it there"
            )
        if target.is_absolute():
            directory, target = Path("/"), target.relative_to("/")
        todo += reversed(target.parts)
    return None


def require_own_state(directory: Path) -> None:
    """Check that only root and the agent's user can write to the state directory, and own the files in it.

    The agent trusts its journal, which has the image to deploy and the headers to send for it.

    Raises:
        StateUnusable: somebody else can write or owns it; the hint has the command to correct that.
        OSError: the directory cannot be examined.
    """
    found = distrust(directory)
    if found is None:
        found = next(filter(None, map(_foreign, sorted(directory.iterdir()))), None)
    if found is not None:
        raise StateUnusable(path=_shown(directory), reason=found.reason, hint=found.remedy)


def _foreign(path: Path) -> Distrust | None:
    status = path.lstat()
    # A symbolic link of root or the agent's user does no harm: the journal never follows it.
    return (
        None
        if stat.S_ISLNK(status.st_mode) and status.st_uid in _owners()
        else _fault(path, status, is_end=True)
    )


def _owners() -> tuple[int, int]:
    return 0, os.geteuid()


def _fault(path: Path, status: os.stat_result, *, is_end: bool) -> Distrust | None:
    name, quoted = _shown(path), printable(shlex.quote(str(path)), MAX_SHOWN)
    if status.st_uid not in _owners():
        return Distrust(
            f"{name} belongs to {_user(status.st_uid)}, who decides what is in it",
            f"look through it, or remove it, then chown root: {quoted}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode) or (mode & stat.S_ISVTX and not is_end):
        return None  # the mode of a symbolic link has no meaning
    who = [word for bit, word in ((0o020, "its group"), (0o002, "every user")) if mode & bit]
    if not who:
        return None
    return Distrust(
        f"{name} can be written by {' and '.join(who)} (mode {mode:04o})",
        f"look through it, then chmod go-w {quoted}",
    )


def _user(number: int) -> str:
    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"a user without a name (uid {number})"


def _shown(path: Path) -> str:
    return printable(str(path), MAX_SHOWN)
