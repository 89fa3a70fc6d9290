"""Whoever waits for a process waits as long as it works, and no longer than it may hang."""

import subprocess
import sys

import pytest

from tests.kit.processes import wait_while_at_work


def started(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


def test_what_works_is_waited_for_and_what_hangs_is_not():
    """The second one works through a child, which is what it waits for."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', '{}'])"
    work = "import time\nwhile time.process_time() < 1.5: pass"
    for code in (work, child.format(work.replace("\n", r"\n"))):
        with started(code) as process:
            assert wait_while_at_work(process, 2, 0.01) == 0
    for code in ("import time; time.sleep(1000)", "while True: pass"):
        with started(code) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                wait_while_at_work(process, 1, 0.02)
            process.kill()
