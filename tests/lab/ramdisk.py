"""A machine with one of two agents as the ramdisk of Ironic's, and what that agent took of it.

Both are in one system (packaging/dev/ipa-ramdisk), and the kernel command line says which of them starts: so what
differs between two machines is the agent.
"""

import asyncio
import functools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.aio import run_blocking
from tests.kit.commands import run
from tests.lab.disks import Disk
from tests.lab.images import ROOT
from tests.lab.ironic import free_port
from tests.lab.machine import Kernel, Machine, Spec, machine
from tests.lab.rescue import CORES, KERNEL_WORDS
from tests.lab.ssh import Ssh

START_SECONDS = 1200
ATTEMPT_SECONDS = 60
"""For one way in: two emulated machines that start at once on a busy host are slow to agree on keys."""
METER = Path(__file__).with_name("meter.py")
UNITS = {
    "byoi-agent": "byoi-agent.service",
    "ironic-python-agent": "ironic-python-agent.service",
}
"""The agents, and what starts them."""
DISK = "vda"


@functools.cache
def ramdisk() -> Path:
    """Where it is; built if need be, unless BYOI_IPA_RAMDISK names one that was made before. It blocks."""
    ready = os.environ.get("BYOI_IPA_RAMDISK")
    return Path(ready or run("sh", ROOT / "packaging/dev/ipa-ramdisk").splitlines()[-1])


@dataclass
class Meter:
    """What tests/lab/meter.py has told of a machine so far."""

    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def peaks(self) -> dict[str, int]:
        """By program, the most that it has had resident, in bytes."""
        found: dict[str, int] = {}
        for sample in self.samples:
            for name, peak in sample["peaks"].items():
                found[name] = max(found.get(name, 0), peak)
        return found

    @property
    def used(self) -> int:
        """The most of the machine's memory that was not to be had, in bytes."""
        return max((sample["total"] - sample["available"] for sample in self.samples), default=0)

    @property
    def staged(self) -> int:
        """By how much more lay in tmpfs than at first, in bytes."""
        seen = [sample["staged"] for sample in self.samples]
        return max(seen, default=0) - next(iter(seen), 0)

    @property
    def written(self) -> int:
        """Bytes that the disk has taken."""
        return self.samples[-1]["written"] if self.samples else 0


@dataclass(frozen=True)
class Ramdisk:
    """A machine that has been switched on; nothing is said of how far its start has come."""

    server: Machine
    ssh: Ssh
    unit: str
    meter: Meter

    async def kill_agent(self) -> None:
        """Kill the agent's process, as the kernel does where memory runs out; its unit starts it again."""
        await self.ssh.run(f"systemctl kill --signal=KILL --kill-whom=all {self.unit}")


@asynccontextmanager
async def started(
    agent: str, disk: Disk, ironic_url: str, key: Path, *, firmware: str, memory_mib: int
) -> AsyncIterator[Ramdisk]:
    """A machine with the agent, told of Ironic as Ironic tells it; `key` opens it by ssh."""
    directory, port = await run_blocking(ramdisk), await run_blocking(free_port)
    public_key = key.with_suffix(".pub").read_text().strip()
    words = (
        f"console=tty0 console=ttyS0,115200 quiet {KERNEL_WORDS} "
        f"ramdisk_agent={agent} ipa-api-url={ironic_url} ipa-advertise-host=127.0.0.1 ipa-listen-port={port} "
        f'ipa-advertise-port={port} byoi_rescue.ssh_key="{public_key}"'
    )
    spec = Spec(
        firmware=firmware,
        disks=(disk,),
        memory_mib=memory_mib,
        cores=CORES.get(_suite(), 2),
        kernel=Kernel(kernel=directory / "vmlinuz", initrd=directory / "initrd.img", arguments=words),
        forwards=(22,),
        same_ports=(port,),
    )
    async with machine(spec) as server:
        ssh = Ssh(await server.port(22), key, "root", ATTEMPT_SECONDS)
        async with _metered(ssh, UNITS[agent]) as meter:
            yield Ramdisk(server, ssh, UNITS[agent], meter)


def _suite() -> str:
    """The release that the ramdisk is made of: this machine's."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME=")), "")


@asynccontextmanager
async def _metered(ssh: Ssh, unit: str) -> AsyncIterator[Meter]:
    meter = Meter()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_listen(ssh, unit, meter))
        try:
            yield meter
        finally:
            task.cancel()


async def _listen(ssh: Ssh, unit: str, meter: Meter) -> None:
    """From when the machine lets us in until it goes off."""
    await ssh.wait(START_SECONDS)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *ssh.command(f"python3 - {unit} {DISK}"), stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(METER.read_bytes())
        process.stdin.close()
        async for line in process.stdout:
            with suppress(json.JSONDecodeError):  # cut off with the machine
                meter.samples.append(json.loads(line))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
