"""Cold start: from the start of the process to a served socket, and what the commands cost that people type.

    python tests/bench/cold_start.py [--runs 10] [--against CHECKOUT] [--json]

Each run starts a daemon in a new directory and asks /healthz until it answers. The same without compiled bytecode
shows what a rescue system pays whose packages were not compiled when it was built. A bare interpreter is the floor.
Everything is measured in turns, of another checkout too where one is named; nothing is asserted about seconds. At the
end the memory of a daemon that has loaded everything and has nothing to do.

The interpreter's packages are what is measured, too: structlog imports rich where it is installed.
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
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
LIMIT_SECONDS = 60.0
# How long a daemon's memory stays the same before it counts as idle.
STEADY_SECONDS = 2.0
# Bytecode is found and kept, whatever the caller's environment says.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
# None is found, and none is kept.
UNCOMPILED = COMPILED | {"PYTHONPYCACHEPREFIX": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

Sample = tuple[float, float]
"""Seconds from the start, and of processor time."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument(
        "--against", type=Path, help="another checkout, to be measured in turns with this one"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    trees = {"": ROOT} | ({" (against)": options.against.absolute()} if options.against else {})
    samples: dict[str, list[Sample]] = {}
    memory = {}
    with tempfile.TemporaryDirectory(prefix="byoi-bench-") as work, ExitStack() as running:
        cases: dict[str, Callable[[], Sample]] = {}
        for number, (suffix, tree) in enumerate(trees.items()):
            directory = Path(work, str(number))
            directory.mkdir()
            found = cases_of(tree, directory, running)
            cases |= {name + suffix: case for name, case in found.items()}
        for run in range(options.runs + 1):
            for name, case in sorted(cases.items()):
                sample = case()
                if run:  # the first one compiles
                    samples.setdefault(name, []).append(sample)
        for number, (suffix, tree) in enumerate(trees.items()):
            memory["idle daemon" + suffix] = idle_memory(tree, Path(work, str(number), "idle"))
    about = {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps({"about": about, "samples": samples, "memory": memory}, indent=2))
        return
    print(about)
    print(f"{'':55} {'median s':>9} {'best s':>7} {'worst s':>8} {'cpu s':>6}")
    for name, found in samples.items():
        wall = [seconds for seconds, _ in found]
        cpu = statistics.median(seconds for _, seconds in found)
        print(f"{name:55} {statistics.median(wall):9.3f} {min(wall):7.3f} {max(wall):8.3f} {cpu:6.3f}")
    for name, size in memory.items():
        print(f"{name:55} {size:9} KiB resident")


def cases_of(tree: Path, work: Path, running: ExitStack) -> dict[str, Callable[[], Sample]]:
    """What is measured of one checkout; the daemon that is asked for its status runs until `running` is closed."""
    checked = write_config(work / "checked")
    api = running.enter_context(daemon(tree, work / "running"))[0] / "api.sock"
    image = ("--url", "http://127.0.0.1:1/image", "--type", "raw")
    return {
        "python, nothing imported": lambda: command(tree, "-c", "pass"),
        "byoi-agent to a served socket": lambda: started(tree, work),
        "byoi-agent to a served socket, no bytecode": lambda: started(tree, work, compiled=False),
        "byoi-agent --check": lambda: command(
            tree, "-m", "agent.service.daemon", "--config", checked, "--check"
        ),
        "byoi --help": lambda: command(tree, "-m", "agent.cli", "--help"),
        "byoi status": lambda: command(tree, "-m", "agent.cli", "status", "--socket", api),
        "byoi write, a job with faults": lambda: command(
            tree,
            "-m",
            "agent.cli",
            "write",
            *image,
            "--checksum",
            "x",
            "--disk",
            "/nonexistent/disk",
            status=2,
        ),
        "byoi write, no such disk": lambda: command(
            tree, "-m", "agent.cli", "write", *image, "--disk", "/nonexistent/disk", status=2
        ),
    }


def command(tree: Path, *arguments: object, status: int = 0) -> Sample:
    """Run a command of Python's to its end, which has to be this exit status."""
    before = os.times()
    began = time.monotonic()
    null = subprocess.DEVNULL
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tree,
        env=environment(tree),
        stdout=null,
        stderr=null,
        check=False,
    )
    wall = time.monotonic() - began
    after = os.times()
    if done.returncode != status:
        sys.exit(f"{arguments} ended with {done.returncode}")
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, used


def environment(tree: Path, *, compiled: bool = True) -> dict[str, str]:
    """The environment that has the agent imported from a checkout."""
    return (COMPILED if compiled else UNCOMPILED) | {"PYTHONPATH": str(tree)}


def idle_memory(tree: Path, directory: Path) -> int:
    """The resident memory of a daemon, in KiB, once it does not change any more."""
    with daemon(tree, directory) as (_, _):
        pid = int((directory / "pid").read_text())
        size, since = 0, time.monotonic()
        while time.monotonic() - since < STEADY_SECONDS:
            time.sleep(0.1)
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            (found,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
            if found != size:
                size, since = found, time.monotonic()
        return size


def started(tree: Path, work: Path, *, compiled: bool = True) -> Sample:
    """Start a daemon, and end it once it answers."""
    with (
        tempfile.TemporaryDirectory(dir=work) as directory,
        daemon(tree, Path(directory), compiled=compiled) as (_, sample),
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
def daemon(tree: Path, directory: Path, *, compiled: bool = True) -> Iterator[tuple[Path, Sample]]:
    """A daemon that runs while the block does, and what it took until it answered."""
    config = write_config(directory)
    with (directory / "log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.service.daemon", "--config", config],
            cwd=tree, stdout=log, stderr=log, env=environment(tree, compiled=compiled),
        )  # fmt: skip
    (directory / "pid").write_text(str(process.pid))
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
