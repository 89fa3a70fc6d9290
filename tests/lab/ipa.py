"""byoi-agent beside ironic-python-agent: the same node, image, conductor and machine, and only the agent differs.

    python -m tests.lab.ipa [--agent AGENT] [--results FILE] [TRIAL...]        the trials are those of TRIALS

With the environment of packaging/dev/setup, as root. It prints the tables of docs/ironic.md, where they are read. The
two agents of a trial are at work at the same time, each with a conductor and a machine of its own: whatever else this
machine does, it does to both. Both machines start one system (ramdisk.py). ironic-python-agent takes the first disk
that fits, so it is never started anywhere else.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from agent.aio import run_blocking
from agent.units import GiB, MiB
from tests.kit.commands import run
from tests.kit.ironic.conductor import Options
from tests.kit.ironic.machine import source
from tests.kit.ironic.rest import Ironic, Node
from tests.lab import images, remains
from tests.lab.disks import Disk, make_dirty
from tests.lab.ironic import ironic_site
from tests.lab.machine import MAC, Machine
from tests.lab.origin import Origin
from tests.lab.ramdisk import UNITS, Ramdisk, ramdisk, started
from tests.lab.ssh import make_key

CONDUCTOR: Options = {"api": {"ramdisk_heartbeat_timeout": 300}}
"""As Ironic has it by default: the tests want to be told sooner."""
DISK_SIZE = 6 * GiB
"""ironic-python-agent takes no disk below 4 GiB."""
LOOK_SECONDS = 0.5
DEPLOYED_SECONDS = 1200
KILLED_SECONDS = 180
"""After a kill: an agent is started again after 30 s at the latest, and looks its node up."""
DRIVE = {"meta_data": {"uuid": "5b0c5e9b-1d6a-4d4e-9a3d-7f0d3d9b3c11", "hostname": "web1"}}
LARGE = 10 * MiB
"""Of a program's memory: what has less is left out."""
WRONG = "0" * 64
NO_DISK = {"serial": "none-has-this"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What is deployed, and what goes wrong.

    Attributes:
        system, form: of the image, as in matrix.py.
        fault: see FAULTS; empty: nothing.
    """

    system: str = "probe"
    form: str = "raw"
    memory_mib: int = 2048
    fault: str = ""


TRIALS = {
    "raw": Trial(system="cloud"),
    "qcow2": Trial(system="cloud", form="qcow2"),
    "qcow2, 1 GiB": Trial(system="cloud", form="qcow2", memory_mib=1024),
    "broken": Trial(fault="broken"),
    "checksum": Trial(fault="checksum"),
    "missing": Trial(fault="missing"),
    "hint": Trial(fault="hint"),
    "backing": Trial(form="qcow2", fault="backing"),
    "killed": Trial(fault="killed"),
}
FAULTS = {
    "broken": "the connection breaks once, at 90 %",
    "checksum": "the checksum is of another image",
    "missing": "the image is gone once the conductor has looked (404)",
    "hint": "no disk fits the hints",
    "backing": "a qcow2 with a backing file",
    "killed": "kill -9 of the agent half-way, three minutes, then the power is cut",
}


@dataclasses.dataclass
class Outcome:
    """What came of a trial with an agent: times in seconds, sizes in MiB.

    Attributes:
        state, error: what the operator is told in the end.
        told: what the operator was told while the image was written, each once.
        begun: from power-on to the first request for the image.
        write: from there until the conductor knows of the step's end.
        cpu: of that time, what QEMU had of a processor: unlike it, it hardly depends on what else this machine does.
        ended: from power-on to the state.
        peaks: resident memory by program, from LARGE on; used: of the machine; staged: more in tmpfs than before.
        sent: images that the origin has sent.
        left: what is on the disk.
    """

    trial: str
    agent: str
    state: str = ""
    error: str = ""
    told: list[str] = dataclasses.field(default_factory=list)
    begun: float | None = None
    write: float | None = None
    cpu: float | None = None
    ended: float = 0.0
    peaks: dict[str, int] = dataclasses.field(default_factory=dict)
    used: int = 0
    staged: int = 0
    written: int = 0
    sent: float = 0.0
    left: str = ""


# -- the order -----------------------------------------------------------------------------------------------


def _image(trial: Trial, directory: Path) -> images.LabImage:
    if trial.fault != "backing":
        return images.image(trial.system, "gpt", 512, trial.form)
    path = directory / "backing.qcow2"
    words = ("-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", path, 160 * MiB)
    run("qemu-img", "create", "-u", *words)
    return images.LabImage(path, path, "qcow2")


def _order(trial: Trial, url: str, image: images.LabImage, origin: Origin, where: str) -> Node:
    """A node that waits for its agent."""
    hints = {"root_device": NO_DISK} if trial.fault == "hint" else {}
    node = Ironic(url).enroll(MAC, {"capabilities": "boot_mode:uefi", **hints})
    node.make_available()
    digest = WRONG if trial.fault == "checksum" else image.sha256
    node.set(instance_info=source(where, digest, image.type))
    node.provision("active", configdrive=DRIVE)
    node.wait("wait call-back")
    # The conductor has asked whether it is there.
    origin.missing = trial.fault == "missing"
    return node


# -- the watch -----------------------------------------------------------------------------------------------


def _look(node: Node, outcome: Outcome) -> str:
    """What the operator sees: gives the step that is carried out."""
    document = node.show()
    outcome.state = document["provision_state"]
    internal = document["driver_internal_info"]
    message = internal.get("agent_status_message") or internal.get("agent_status")
    if message and message not in outcome.told:
        outcome.told.append(message)
    return str((document["deploy_step"] or {}).get("step", ""))


async def _watch(
    node: Node, machine: Machine, origin: Origin, outcome: Outcome, began: float, seconds: float
) -> None:
    """Until the deployment has ended one way or the other, or for so long."""
    deadline = time.monotonic() + seconds
    seen, cpu = "", 0.0
    while outcome.state not in ("active", "deploy failed") and time.monotonic() < deadline:
        step = await run_blocking(_look, node, outcome)
        now = time.monotonic()
        if origin.began is not None and outcome.begun is None:
            outcome.begun, cpu = origin.began - began, machine.cpu_seconds
        over = outcome.state == "deploy failed" or (seen == "write_image" and step != seen)
        if over and outcome.write is None and origin.began is not None:
            outcome.write, outcome.cpu = now - origin.began, machine.cpu_seconds - cpu
        seen = step
        await asyncio.sleep(LOOK_SECONDS)
    outcome.ended = time.monotonic() - began
    if outcome.state == "deploy failed":
        outcome.error = await run_blocking(node.failure)


async def _kill(machine: Ramdisk, origin: Origin) -> None:
    """Kill the agent once the image has come to the pause, and go on with the image."""
    async with asyncio.timeout(DEPLOYED_SECONDS):
        while not origin.paused.is_set():  # noqa: ASYNC110 -- set by a thread
            await asyncio.sleep(LOOK_SECONDS)
    await asyncio.sleep(2)
    await machine.kill_agent()
    origin.resume.set()


# -- one trial -----------------------------------------------------------------------------------------------


async def _try_all(name: str, agents: list[str]) -> list[Outcome]:
    """A trial with each of the agents, at the same time."""
    with tempfile.TemporaryDirectory(prefix="byoi-ipa-", dir="/var/tmp") as scratch:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_try(name, agent, Path(scratch, agent))) for agent in agents]
        return [task.result() for task in tasks]


async def _try(name: str, agent: str, directory: Path) -> Outcome:
    await run_blocking(directory.mkdir)
    trial, outcome = TRIALS[name], Outcome(name, agent)
    image = await run_blocking(_image, trial, directory)
    disk = await run_blocking(make_dirty, directory / "disk.raw", DISK_SIZE)
    key = await run_blocking(make_key, directory)
    async with ironic_site(directory / "ironic", CONDUCTOR) as site:
        size = image.path.stat().st_size
        origin = Origin(
            image.path,
            break_at=size * 9 // 10 if trial.fault == "broken" else None,
            pause_at=size // 2 if trial.fault == "killed" else None,
        )
        site.web.server.answer = origin.answer
        where = site.web.server.at(f"/{image.path.name}")
        node = await run_blocking(_order, trial, site.url, image, origin, where)
        began = time.monotonic()
        booted = started(agent, Disk(path=disk), site.url, key, firmware="uefi", memory_mib=trial.memory_mib)
        async with booted as machine:
            if trial.fault == "killed":
                await _kill(machine, origin)
            seconds = KILLED_SECONDS if trial.fault == "killed" else DEPLOYED_SECONDS
            await _watch(node, machine.server, origin, outcome, began, seconds)
        origin.resume.set()
        outcome.sent = round(origin.sent / size, 2)
        _take(machine, outcome)
    outcome.left = await remains.verdict(disk, image.raw if trial.system == "cloud" else None)
    return outcome


def _take(machine: Ramdisk, outcome: Outcome) -> None:
    meter = machine.meter
    outcome.peaks = {name: peak // MiB for name, peak in meter.peaks.items() if peak >= LARGE}
    outcome.used, outcome.staged, outcome.written = (
        value // MiB for value in (meter.used, meter.staged, meter.written)
    )


# -- the tables ----------------------------------------------------------------------------------------------


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _deployed(outcome: Outcome) -> list[str]:
    peaks = ", ".join(f"{name} {peak}" for name, peak in sorted(outcome.peaks.items()))
    times = " / ".join(map(_seconds, (outcome.begun, outcome.write, outcome.cpu, outcome.ended)))
    cells = [outcome.trial, outcome.agent, outcome.state, times, peaks, outcome.staged, outcome.used]
    return [str(cell) for cell in [*cells, outcome.written, f"{outcome.sent:.2f}", outcome.left]]


def _failed(outcome: Outcome) -> list[str]:
    fault = FAULTS[TRIALS[outcome.trial].fault]
    told = f"`{outcome.state}` {outcome.error}".strip().replace("\n", " ").replace("|", "\\|")
    return [fault, outcome.agent, told, _seconds(outcome.ended), f"{outcome.sent:.2f}", outcome.left]


_DEPLOYED = [
    "image",
    "agent",
    "state",
    "first request / written / of that processor time / ended, s",
    "programs' peaks, MiB",
]
_DEPLOYED += ["staged, MiB", "machine's memory, MiB", "disk took, MiB", "images sent", "on the disk"]
_FAILED = ["what goes wrong", "agent", "what the operator is told", "ended, s", "images sent", "on the disk"]


def _print(heads: list[str], rows: list[list[str]]) -> None:
    for line in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(line) + " |")
    print()


def tables(outcomes: list[Outcome]) -> None:
    """Print them: what was to be deployed, and what was not."""
    good = [outcome for outcome in outcomes if not TRIALS[outcome.trial].fault]
    bad = [outcome for outcome in outcomes if TRIALS[outcome.trial].fault]
    _print(_DEPLOYED, [_deployed(outcome) for outcome in good])
    _print(_FAILED, [_failed(outcome) for outcome in bad])


def main() -> None:
    """Run the trials, and print what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "trials", nargs="*", metavar="TRIAL", help=f"all if none is named: {', '.join(TRIALS)}"
    )
    parser.add_argument("--agent", choices=UNITS, help="only this one")
    parser.add_argument("--results", type=Path, help="a file that gets a line of JSON for each outcome")
    options = parser.parse_args()
    images.check_tools()
    ramdisk()
    outcomes = []
    for name in options.trials or TRIALS:
        for outcome in asyncio.run(_try_all(name, [options.agent] if options.agent else list(UNITS))):
            outcomes.append(outcome)
            line = json.dumps(dataclasses.asdict(outcome))
            print(line, file=sys.stderr, flush=True)
            if options.results:
                with options.results.open("a") as file:
                    file.write(line + "\n")
    tables(outcomes)


if __name__ == "__main__":
    main()
