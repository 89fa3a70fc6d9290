"""What processes of this machine have taken."""

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of living processes so far, their ended children not counted."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


class Waited(Protocol):
    """A process that can be waited for."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""


def wait_while_at_work(process: Waited, idle_seconds: float, look_seconds: float = 0.25) -> int:
    """Its exit status, however long a busy machine takes for it.

    Time in which it works, or wants to and has no processor or disk, is not counted; nor is what the one who waits had
    none for. So many seconds without any of it and it hangs, and so it does after as many of processor time.

    Raises:
        subprocess.TimeoutExpired: it hangs.
    """
    began = before = sum(seconds for seconds, _ in _family(process.pid))
    idle = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(look_seconds)
        family = list(_family(process.pid))
        worked = sum(seconds for seconds, _ in family)
        idle = 0 if worked != before or any(state in "RD" for _, state in family) else idle + 1
        before = worked
        if idle * look_seconds >= idle_seconds or worked - began >= idle_seconds:
            raise subprocess.TimeoutExpired(f"process {process.pid}", idle_seconds)


def _family(pid: int) -> Iterator[tuple[float, str]]:
    """Of each thread of a process and of its descendants: processor time so far, and the state."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            yield (int(fields[11]) + int(fields[12])) / TICKS, fields[0]
            for child in (task / "children").read_text().split():
                yield from _family(int(child))
