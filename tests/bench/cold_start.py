"""Cold start: from the start of the process to a served socket, and what the commands cost that people type.

    PYTHONPATH=. python tests/bench/cold_start.py [--runs 10] [--json]

Each run starts a daemon in a new directory and asks /healthz until it answers. The same without compiled bytecode
shows what a rescue system pays whose packages were not compiled when it was built. A bare interpreter is the floor.
Everything is measured in turns; nothing is asserted about seconds.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
LIMIT_SECONDS = 60.0
# No compiled bytecode is found, and none is kept.
UNCOMPILED = {"PYTHONPYCACHEPREFIX": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

Sample = tuple[float, float]
"""Seconds from the start, and of processor time."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="byoi-bench-") as work:
        samples = measure(Path(work), options.runs)
    about = {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps({"about": about, "samples": samples}, indent=2))
        return
    print(about)
    print(f"{'':44} {'median s':>9} {'best s':>7} {'worst s':>8} {'cpu s':>6}")
    for name, found in samples.items():
        wall = [seconds for seconds, _ in found]
        cpu = statistics.median(seconds for _, seconds in found)
        print(f"{name:44} {statistics.median(wall):9.2f} {min(wall):7.2f} {max(wall):8.2f} {cpu:6.2f}")


def measure(work: Path, runs: int) -> dict[str, list[Sample]]:
    """Everything, in turns."""
    checked = write_config(work / "checked")
    with daemon(work / "running") as (running, _):
        cases: dict[str, Callable[[], Sample]] = {
            "python, nothing imported": lambda: command("-c", "pass"),
            "byoi-agent to a served socket": lambda: started(work),
            "byoi-agent to a served socket, no bytecode": lambda: started(work, compiled=False),
            "byoi-agent --check": lambda: command(
                "-m", "agent.service.daemon", "--config", checked, "--check"
            ),
            "byoi --help": lambda: command("-m", "agent.cli", "--help"),
        }
        status = ("-m", "agent.cli", "status", "--socket", running / "api.sock")
        asked = subprocess.run([sys.executable, *status], cwd=ROOT, capture_output=True, check=False)
        if asked.returncode == 0:
            cases["byoi status"] = lambda: command(*status)
        samples: dict[str, list[Sample]] = {name: [] for name in cases}
        for _ in range(runs):
            for name, case in cases.items():
                samples[name].append(case())
    return samples


def command(*arguments: object) -> Sample:
    """Run a command of Python's to its end."""
    before = os.times()
    began = time.monotonic()
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    wall = time.monotonic() - began
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, used


def started(work: Path, *, compiled: bool = True) -> Sample:
    """Start a daemon, and end it once it answers."""
    with (
        tempfile.TemporaryDirectory(dir=work) as directory,
        daemon(Path(directory), compiled=compiled) as (_, sample),
    ):
        return sample


def write_config(directory: Path) -> Path:
    """The configuration of a daemon that keeps everything in one directory."""
    directory.mkdir(exist_ok=True)
    path = directory / "agent.toml"
    path.write_text(
        f'service_name = "bench"\n[api]\nsocket = "{directory / "api.sock"}"\n'
        f'[state]\ndirectory = "{directory / "state"}"\n'
    )
    return path


@contextmanager
def daemon(directory: Path, *, compiled: bool = True) -> Iterator[tuple[Path, Sample]]:
    """A daemon that runs while the block does, and what it took until it answered."""
    config = write_config(directory)
    with (directory / "log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.service.daemon", "--config", config],
            cwd=ROOT, stdout=log, stderr=log, env=os.environ | ({} if compiled else UNCOMPILED),
        )  # fmt: skip
    try:
        while not answers(directory / "api.sock"):
            if process.poll() is not None or time.monotonic() - began > LIMIT_SECONDS:
                sys.exit(f"the daemon did not start:\n{(directory / 'log').read_text()}")
            time.sleep(0.002)
        yield directory, (time.monotonic() - began, used_by(process.pid))
    finally:
        process.terminate()
        process.wait()


def answers(path: Path) -> bool:
    """Whether the API answers on the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
            sock.sendall(REQUEST)
            return sock.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def used_by(pid: int) -> float:
    """The processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
