"""Whether a path can be believed: nobody but root, or the user that the agent runs as, can have made what is there.

Who owns a file, or may write it, decides what it says. The same goes for each directory on the way: who may write one
can put another file under the name. So the whole way is walked, links included, from the root of the filesystem.

What passes cannot be exchanged by anybody else between the look and the use; that is why looking by path is enough.
"""

import os
import pwd
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StateUnusable
from agent.text import MAX_SHOWN, printable

# Of one way, as many as the kernel follows (path_resolution(7)).
_MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why what is at a path cannot be believed, and what mends it. Its text is both."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


def distrust(path: str | Path, *, may_be_link: bool = False) -> Distrust | None:
    """Why what is at a path cannot be believed; None if it can, or is not there.

    A directory on the way that everybody may write is fine if it is sticky (/tmp): there nobody renames or removes
    what belongs to others.

    Args:
        path: of a file or a directory.
        may_be_link: whether it may be a link of root's own to a file that passes. Good for what is public, such as
            CA certificates; what is secret has one name. Directories on the way may be such links in any case.
    """
    at, links = Path("/"), 0
    todo = list(reversed(Path(path).absolute().parts[1:]))
    while todo:
        part = todo.pop()
        here = at.parent if part == ".." else at / part
        try:
            status = here.lstat()
        except OSError:
            return None  # not there, or not to be seen: whoever opens it says so
        fault = _fault(here, status, is_end=not todo)
        if fault is not None:
            return fault
        if not stat.S_ISLNK(status.st_mode):
            at = here
            continue
        links += 1
        if links > _MAX_LINKS:
            return None  # opening it fails likewise
        target = here.readlink()
        if not todo and not may_be_link:
            return Distrust(
                f"{_shown(here)} is a link to {_shown(target)}", "name the file itself, or put it there"
            )
        if target.is_absolute():
            at, target = Path("/"), target.relative_to("/")
        todo += reversed(target.parts)
    return None


def require_own_state(directory: Path) -> None:
    """Refuse a state directory that somebody else made or may write, or that holds what somebody else made.

    A journal is believed: it names the image that is deployed, and the headers that are sent for it.

    Raises:
        StateUnusable: with the command that mends it.
        OSError: from the system.
    """
    found = distrust(directory)
    if found is None:
        found = next(filter(None, map(_foreign, sorted(directory.iterdir()))), None)
    if found is not None:
        raise StateUnusable(path=_shown(directory), reason=found.reason, hint=found.remedy)


def _foreign(path: Path) -> Distrust | None:
    status = path.lstat()
    # A link of our own user is set aside or replaced by whoever would open it.
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
        return None  # a link's own mode means nothing
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
