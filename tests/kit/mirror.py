"""A program that prints what it sees of itself as JSON, and ends as its argument says."""

import asyncio
import atexit
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from tests.kit.starts import LIMITS


def looks() -> dict[str, object]:
    """All that whoever starts a process decides about it."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return {
        "arguments": sys.argv[1:],
        "name": sys.argv[0],
        "is_main": __name__,
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "descriptors": [
            (number, str(Path(f"/proc/self/fd/{number}").readlink()))
            for number in range(256)
            if Path(f"/proc/self/fd/{number}").exists()
        ],
        "inheritable": [os.get_inheritable(number) for number in range(3)],
        "streams": [(s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno()) for s in streams],
        "files": [(f.name, f.mode, f.buffer.seekable(), f.newlines) for f in streams],
        "input": sys.stdin.read() if not sys.stdin.isatty() else "",
        "limits": [resource.getrlimit(limit) for limit in LIMITS],
        "umask": os.umask(0o022),
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "leads_session": os.getsid(0) == os.getpid(),
        "group": os.getpgrp() - os.getpid() if os.getsid(0) == os.getpid() else "inherited",
        "terminal": os.tcgetpgrp(0) == os.getpgrp() if sys.stdin.isatty() else None,
        "threads": threading.active_count(),
        "timezone": (time.tzname, time.localtime(0).tm_hour),
        "encodings": (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), sys.getdefaultencoding()),
        "flags": repr(sys.flags),
    }


def leave(way: str) -> None:  # noqa: PLR0912 - a list
    """End in one of many ways."""
    match way:
        case "exit":
            sys.exit(7)
        case "words":
            sys.exit("a message")
        case "raise":
            raise ValueError("nobody catches this")
        case "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "at once":
            os._exit(9)
        case "thread":
            threading.Timer(0.2, lambda: print("the thread has ended")).start()
        case "atexit":
            atexit.register(print, "atexit was called")
        case "buffered":
            sys.stdout.write("no line end")
        case "loop":
            asyncio.run(asyncio.sleep(0))
        case "descendant":
            if os.fork() == 0:
                os._exit(3)
            print(os.waitstatus_to_exitcode(os.wait()[1]))
        case _:
            pass  # at the end of the module


if __name__ == "__main__":
    print(json.dumps(looks()), flush=True)
    leave(sys.argv[1])
