"""What one impatient client costs a deployment by the daemon, and what a job leaves in the daemon's memory.

    PYTHONPATH=. python tests/bench/one_client.py --size 1G --rounds 3 [--every 0.005]

An image over HTTP onto tmpfs, in turns: by `byoi write`, by the daemon with nobody who asks, and by the daemon while a
client in a process of its own asks for the status every 5 ms, with a connection each time. The resident memory is that
of a fresh daemon, and five seconds after its first and its last job.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from images import MIB, build_image, sha256_of, size_from
from pollers import EXTRA, Daemon, _daemon, deploy
from runner import ROOT, measured
from server import serve

WRITE, ALONE, ASKED = "byoi write", "daemon, nobody asks", "daemon, asked all the time"
# It has to be ready before the job begins: half a second.
_CLIENT = """
import socket, sys, time
while True:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sys.argv[1])
        sock.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
        while sock.recv(65536):
            pass
    time.sleep(float(sys.argv[2]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=size_from, default=1 << 30, help="of the image (default: 1G)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=float, default=0.005, help="seconds between two questions")
    options = parser.parse_args()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="byoi-bench-", dir="/dev/shm")))
        (work / "www").mkdir()
        build_image(work / "www/image.raw", options.size)
        sha256 = sha256_of(work / "www/image.raw")
        url, _ = stack.enter_context(serve(work / "www"))
        job = {"URL": f"{url}/image.raw", "type": "raw", "checkSum": sha256, "checkSumType": "sha256"}
        daemon = stack.enter_context(_daemon(work / "daemon", work / "disk.raw", options.size + EXTRA))
        memory = [resident(daemon)]
        samples: dict[str, list[tuple[float, float]]] = {WRITE: [], ALONE: [], ASKED: []}
        for _ in range(options.rounds):
            samples[WRITE].append(written(job, work / "disk.raw"))
            samples[ALONE].append(deployed(daemon, job))
            if len(memory) == 1:
                time.sleep(5)
                memory.append(resident(daemon))
            samples[ASKED].append(asked(daemon, job, options.every))
        time.sleep(5)
        memory.append(resident(daemon))
    print(f"{'write stage, and processor time':30} {'min s':>7} {'median':>7} {'max':>7} {'cpu s':>7}")
    for name, found in samples.items():
        walls = sorted(wall for wall, _ in found)
        cpu = statistics.median(cpu for _, cpu in found)
        print(f"{name:30} {walls[0]:7.2f} {statistics.median(walls):7.2f} {walls[-1]:7.2f} {cpu:7.2f}")
    ratios = sorted(
        after / before for (before, _), (after, _) in zip(samples[ALONE], samples[ASKED], strict=True)
    )
    print(f"asked / nobody asks, in each round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print("resident, MiB: fresh {:.1f}, after one job {:.1f}, after all {:.1f}".format(*memory))


def written(job: dict[str, Any], disk: Path) -> tuple[float, float]:
    """The write stage of `byoi write`, and the processor time of all of it."""
    command = [
        sys.executable, "-m", "agent.cli", "write", "--url", job["URL"], "--type", "raw", "--checksum",
        f"sha256:{job['checkSum']}", "--disk", disk, "--quiet", "--json",
    ]  # fmt: skip
    output, usage = measured(command, os.environ | {"PYTHONPATH": str(ROOT)})
    stages = {stage["name"]: stage["seconds"] for stage in json.loads(output)["stages"]}
    return stages["write"], usage["user"] + usage["system"]


def deployed(daemon: Daemon, job: dict[str, Any]) -> tuple[float, float]:
    """The write stage by the daemon, and its processor time."""
    document, cpu = deploy(daemon, job)
    return {stage["name"]: stage["seconds"] for stage in document["stages"]}["write"], cpu


def asked(daemon: Daemon, job: dict[str, Any], every: float) -> tuple[float, float]:
    """The same while somebody asks."""
    client = subprocess.Popen([sys.executable, "-c", _CLIENT, daemon.socket, str(every)])
    try:
        time.sleep(0.5)
        return deployed(daemon, job)
    finally:
        client.terminate()
        client.wait()


def resident(daemon: Daemon) -> float:
    """MiB of the daemon that are in memory."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024 / MIB


if __name__ == "__main__":
    main()
