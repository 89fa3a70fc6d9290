"""Deploys fleets on one conductor, all servers of one at once, and tells what it took: the table of docs/fleet.md.

    python -m tests.ironic.fleet [--image-mib 64] [--cached] 1 10 40

As root. A server is an agent with a network card of its own (a network namespace) and a file for a disk. Everything,
Ironic included, runs on this machine: what a figure says depends on its cores.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.units import MiB
from tests.kit.checks import assert_system
from tests.kit.disks import make_disk
from tests.kit.images import Image, make_image
from tests.kit.ironic.cache import cache
from tests.kit.ironic.conductor import Conductor, Options, conductor, ironic_environment
from tests.kit.ironic.machine import Machine, machine, source
from tests.kit.ironic.network import Network, network
from tests.kit.ironic.rest import Ironic
from tests.kit.processes import cpu_seconds
from tests.kit.server import Request, Server, serving

CONDUCTOR: Options = {"api": {"ramdisk_heartbeat_timeout": 300}}
"""As Ironic has it by default: the tests want to be told sooner."""
HANDS = 8
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 1800


@dataclass(frozen=True)
class Row:
    """One fleet: seconds from the first order to `active`, and what it cost."""

    servers: int
    first: float
    median: float
    last: float
    conductor_cpu: float
    conductor_mib: float
    agent_cpu: float
    agent_mib: float
    heartbeats: int
    dropped: int
    origin: float
    """Bytes that the origin sent, in images."""

    def line(self) -> str:
        return (
            f"| {self.servers} | {self.first:.0f} / {self.median:.0f} / {self.last:.0f} "
            f"| {self.conductor_cpu / self.servers:.2f} | {self.conductor_mib:.0f} "
            f"| {self.agent_cpu / self.servers:.2f} | {self.agent_mib / self.servers:.0f} "
            f"| {self.heartbeats / self.servers:.1f} | {self.dropped} | {self.origin:.2f} |"
        )


HEADING = (
    "| servers | first / median / last `active`, s | conductor's CPU, s each | its memory, MiB | agent's CPU, s "
    "| its memory, MiB | heartbeats each | dropped | images sent by the origin |\n|---|---|---|---|---|---|---|---|---|"
)


# -- what processes take -------------------------------------------------------------------------------------


def _session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.append(int(entry.parent.name))
    return found


def _memory_mib(pids: list[int]) -> float:
    """What they have alone, and their share of what they have together (PSS)."""
    kib = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


# -- one fleet -----------------------------------------------------------------------------------------------


@contextmanager
def _origin(image: Image, address: str) -> Iterator[Server]:
    """A server that has the image, with ranges."""

    def answer(request: Request) -> None:
        if request.method == "HEAD":
            request.head(200, Content_Length=image.size, Accept_Ranges="bytes", ETag='"v1"')
        else:
            request.file(image.path)

    with serving(answer, address=address) as server:
        yield server


def _images_sent(server: Server, image: Image) -> float:
    sent = 0
    for request in server.requests:
        if request.method == "GET":
            start, stop = request.span or (0, None)
            sent += min(stop or image.size, image.size) - start
    return sent / image.size


def _deploy(machines: list[Machine], one: Conductor, source_of: dict[str, object]) -> list[float]:
    """Order all, start all agents, and wait: gives the seconds until each was `active`, in that order."""
    began = time.monotonic()
    with ThreadPoolExecutor(HANDS) as pool:
        for server in machines:
            server.node.set(instance_info=source_of)
        for done in [pool.submit(server.node.provision, "active") for server in machines]:
            done.result()
    for server in machines:
        server.agent.launch()
    active: dict[str, float] = {}
    while len(active) < len(machines):
        elapsed = time.monotonic() - began
        for uuid, state in Ironic(one.url).states().items():
            assert "failed" not in state, f"{uuid}: {state}"
            if state == "active":
                active.setdefault(uuid, elapsed)
        assert elapsed < PATIENCE_SECONDS, f"{len(active)} of {len(machines)} are active"
        time.sleep(LOOK_SECONDS)
    return sorted(active.values())


def _fleet(count: int, directory: Path, wires: Network, image: Image, *, cached: bool) -> Row:
    with ExitStack() as stack:
        one = stack.enter_context(
            conductor(ironic_environment(), directory / "ironic", wires.address, CONDUCTOR)
        )
        origin = stack.enter_context(_origin(image, wires.address))
        url = origin.origin
        if cached:
            url = stack.enter_context(cache(directory / "cache", wires.address, url))
        machines = [
            stack.enter_context(
                machine(wires, one.url, make_disk(directory / f"{number}", image.size + 8 * MiB))
            )
            for number in range(count)
        ]
        for server in machines:
            server.node.make_available()
        assert one.process is not None
        ironic = _session(one.process.pid)
        before = cpu_seconds(ironic)
        seconds = _deploy(machines, one, source(f"{url}/image.raw", image.sha256))
        agents = [server.agent.process.pid for server in machines if server.agent.process is not None]
        row = Row(
            count,
            *(seconds[0], statistics.median(seconds), seconds[-1]),
            cpu_seconds(ironic) - before,
            _memory_mib(ironic),
            cpu_seconds(agents),
            _memory_mib(agents),
            one.log.count("POST /v1/heartbeat/"),
            one.log.count("skipping heartbeat processing"),
            _images_sent(origin, image),
        )
        for server in machines:
            assert_system(server.disk, image)
        return row


def main() -> None:
    """Deploy fleets of the given sizes, and print a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("servers", type=int, nargs="*", default=[1, 10, 40])
    parser.add_argument("--image-mib", type=int, default=64, help="size of the image, which is raw (64)")
    parser.add_argument(
        "--cached", action="store_true", help="put the cache of docs/fleet.md before the origin"
    )
    options = parser.parse_args()
    print(HEADING, flush=True)
    with tempfile.TemporaryDirectory(prefix="byoi-fleet-", dir="/var/tmp") as name, network() as wires:
        image = make_image(Path(name), options.image_mib * MiB)
        for count in options.servers:
            directory = Path(name, str(count))
            directory.mkdir()
            print(_fleet(count, directory, wires, image, cached=options.cached).line(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
