"""500 clients that follow a deployment: what they take from its throughput.

    PYTHONPATH=. python tests/bench/pollers.py [--size 1G] [--rounds 5] [--clients 500] [--disk DIR] [--json]

The daemon deploys an image over HTTP onto a file, with nobody who asks, and with 500 clients, half of them on the Unix
socket and half on TLS: seven of ten poll the route of the OVH API every one to two seconds, one of four waits in a
long poll, the others read the stream of events. Both are measured in turns and the ratio is taken in each round.

The clients and the web server need processor time too, and on few cores they take it from the deployment whatever the
daemon does. So there is a third case: the same clients follow another daemon that deploys nothing. What that costs is
the machine's; what `followed` costs beyond it is the daemon's.
"""

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cold_start import used_by
from images import EXTRA, MIB, build_image, sha256_of, size_from
from server import serve

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOKEN = "bench-token-of-sixteen"
ALONE, FOLLOWED, ELSEWHERE = "alone", "followed", "clients elsewhere"
CASES = (ALONE, FOLLOWED, ELSEWHERE)
DEPLOYMENT = "/dedicated/server/bench/bringYourOwnImage"


@dataclass(frozen=True)
class Sample:
    """One deployment. Seconds."""

    case: str
    round: int
    write: float
    """The write stage."""
    whole: float
    cpu: float
    """Processor time of the daemon that deployed, from the post to the end."""
    clients: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Daemon:
    """A running daemon."""

    pid: int
    socket: Path
    port: int
    ca: Path

    def call(self, method: str, path: str, document: object = None) -> Any:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self.socket))
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            sys.exit(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text)


def main() -> None:
    """Measure and print."""
    options = _options()
    split = {"poll": options.clients * 7 // 10, "longPoll": options.clients // 4}
    split["events"] = options.clients - sum(split.values())
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="byoi-bench-", dir="/dev/shm")))
        target = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=options.disk))
        )
        (work / "www").mkdir()
        build_image(work / "www/image.raw", options.size)
        sha256 = sha256_of(work / "www/image.raw")
        url, server = stack.enter_context(serve(work / "www"))
        job = {"URL": f"{url}/image.raw", "type": "raw", "checkSum": sha256, "checkSumType": "sha256"}
        disk = target / "disk.raw"
        deploying = stack.enter_context(_daemon(work / "deploying", disk, options.size + EXTRA))
        idle = stack.enter_context(_daemon(work / "idle", target / "other.raw", MIB))
        about = {
            "size": options.size,
            "clients": split,
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "server": server,
            "load before": os.getloadavg()[0],
        }
        deploy(deploying, job)  # what is loaded once is no part of any case
        samples = list(_rounds(deploying, idle, job, split, options.rounds))
    about["load after"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"about": about, "samples": [asdict(sample) for sample in samples]}, indent=2))
    else:
        _print(about, samples, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=size_from, default=1 << 30, help="of the image (default: 1G)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--disk", default="/dev/shm", help="a directory for the target (default: in memory)")
    parser.add_argument("--json", action="store_true", help="print every sample as JSON")
    return parser.parse_args()


def _rounds(
    deploying: Daemon, idle: Daemon, job: dict[str, Any], split: dict[str, int], rounds: int
) -> Iterator[Sample]:
    for number in range(rounds):
        for case in CASES[number % 3 :] + CASES[: number % 3]:  # none is always the first
            followed = {ALONE: None, FOLLOWED: deploying, ELSEWHERE: idle}[case]
            with following(followed, split) as seen:
                document, cpu = deploy(deploying, job)
            stages = {stage["name"]: stage["seconds"] for stage in document["stages"]}
            sample = Sample(case, number, stages["write"], sum(stages.values()), cpu, seen)
            print(f"round {number + 1}: {case}: {sample.write:.2f} s, cpu {cpu:.2f} s", file=sys.stderr)
            yield sample


def deploy(daemon: Daemon, job: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Deploy, and forget it; gives the last status and the processor time."""
    before = used_by(daemon.pid)
    daemon.call("POST", DEPLOYMENT, job)
    document: dict[str, Any] = {"revision": 0, "status": "doing"}
    while document["status"] == "doing":
        document = daemon.call("GET", f"/v1/status?since={document['revision']}&wait=30")
    cpu = used_by(daemon.pid) - before
    if document["status"] != "done":
        sys.exit(f"the deployment failed: {document['error']}")
    time.sleep(1)  # the clients get to read the outcome
    daemon.call("DELETE", DEPLOYMENT)
    return document, cpu


@contextmanager
def following(daemon: Daemon | None, split: dict[str, int]) -> Iterator[dict[str, float]]:
    """Clients that follow a daemon while the block runs; what they got is in the mapping afterwards."""
    seen: dict[str, float] = {}
    if daemon is None:
        yield seen
        return
    options = {
        "socket": str(daemon.socket),
        "port": daemon.port,
        "ca": str(daemon.ca),
        "token": TOKEN,
        "clients": split,
    }
    with subprocess.Popen(
        [sys.executable, HERE / "poll_load.py", json.dumps(options)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as load:  # fmt: skip
        assert load.stdin is not None
        assert load.stdout is not None
        if load.stdout.readline() != "ready\n":
            sys.exit("the clients could not connect")
        time.sleep(2)  # so that they are spread
        yield seen
        load.stdin.close()
        seen |= json.loads(load.stdout.readline())
    if seen["lost"]:
        sys.exit(f"{seen['lost']} clients lost their connection")


@contextmanager
def _daemon(directory: Path, disk: Path, size: int) -> Iterator[Daemon]:
    directory.mkdir()
    with disk.open("wb") as file:
        file.truncate(size)
    _make_certificate(directory)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    config = directory / "agent.toml"
    config.write_text(
        'service_name = "bench"\n'
        f'[api]\nsocket = "{directory / "api.sock"}"\nlisten = "127.0.0.1:{port}"\n'
        f'tls_cert = "{directory / "tls.crt"}"\ntls_key = "{directory / "tls.key"}"\n'
        f'token_file = "{directory / "token"}"\n'
        f'[state]\ndirectory = "{directory / "state"}"\n[reboot]\nenabled = false\n'
        f'[[disk_group]]\nid = 1\ndisks = ["{disk}"]\n'
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.service.daemon", "--config", config],
            cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip
    daemon = Daemon(process.pid, directory / "api.sock", port, directory / "tls.crt")
    try:
        while True:
            try:
                daemon.call("GET", "/healthz")
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit(f"the daemon did not start:\n{(directory / 'log').read_text()}")
                time.sleep(0.02)
        yield daemon
    finally:
        process.terminate()
        process.wait()


def _make_certificate(directory: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", directory / "tls.key", "-out", directory / "tls.crt",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    (directory / "tls.key").chmod(0o600)


def _print(about: dict[str, object], samples: list[Sample], options: argparse.Namespace) -> None:
    for key, value in about.items():
        print(f"{key:12} {value}")
    at = {(sample.case, sample.round): sample for sample in samples}
    rounds = range(options.rounds)
    print(f"\n{'medians':20} {'write s':>8} {'MB/s':>6} {'whole s':>8} {'cpu s':>6} {'clients cpu s/s':>16} "
          f"{'answers/s':>10} {'events/s':>9} {'median ms':>10} {'p99 ms':>7}")  # fmt: skip
    for case in CASES:
        own = [at[case, number] for number in rounds]
        write, whole, cpu = (
            statistics.median(getattr(s, key) for s in own) for key in ("write", "whole", "cpu")
        )
        line = f"{case:20} {write:8.2f} {options.size / write / 1e6:6.0f} {whole:8.2f} {cpu:6.2f}"
        if case != ALONE:
            per_second = {
                key: statistics.median(s.clients[key] / s.clients["seconds"] for s in own)
                for key in ("cpu", "answers", "events")
            }
            times = {key: 1000 * statistics.median(s.clients[key] for s in own) for key in ("median", "p99")}
            line += f" {per_second['cpu']:16.2f} {per_second['answers']:10.0f} {per_second['events']:9.0f}"
            line += f" {times['median']:10.1f} {times['p99']:7.0f}"
        print(line)
    print(f"\n{'throughput of the write stage':52} {'median':>7}   rounds")
    for case, base in ((FOLLOWED, ALONE), (ELSEWHERE, ALONE), (FOLLOWED, ELSEWHERE)):
        ratios = [at[base, number].write / at[case, number].write for number in rounds]
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{case + ' against ' + base:52} {statistics.median(ratios):7.2f}   {shown}")


if __name__ == "__main__":
    main()
