"""Deployments in a machine that runs the rescue.

The machine is started by kernel and initrd, as the loader of a network boot would do it, or goes on from a saved state:
a rescue that has started once, without disks, gets those of the next case while it runs. That takes seconds.
"""

import functools
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.aio import run_blocking
from tests.integration.conftest import run
from tests.lab.deploy import Deployed, Writing, writing
from tests.lab.disks import Disk
from tests.lab.images import CACHE, ROOT
from tests.lab.machine import HOST, Kernel, Machine, Spec, machine
from tests.lab.matrix import Case
from tests.lab.ssh import Ssh, make_key

START_SECONDS = 600
MEMORY_MIB = 1024


@functools.cache
def rescue_directory() -> Path:
    """The rescue: vmlinuz and initrd.img. Built if need be."""
    ready = os.environ.get("BYOI_RESCUE")
    return Path(ready or run("sh", ROOT / "packaging/rescue/build").splitlines()[-1])


@functools.cache
def _key() -> Path:
    """The key that opens rescues; kept, as saved states know it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "rescue-key"
    if not path.exists():
        scratch = CACHE / f"key-{os.getpid()}"
        scratch.mkdir()
        key = make_key(scratch)
        key.with_suffix(".pub").rename(path.with_suffix(".pub"))
        key.rename(path)
        scratch.rmdir()
    return path


def _spec(firmware: str, disks: tuple[Disk, ...], machine_type: str) -> Spec:
    directory, public_key = rescue_directory(), _key().with_suffix(".pub").read_text().strip()
    arguments = (
        f'console=tty0 console=ttyS0,115200 quiet byoi.service_name=lab1 byoi_rescue.ssh_key="{public_key}"'
    )
    kernel = Kernel(kernel=directory / "vmlinuz", initrd=directory / "initrd.img", arguments=arguments)
    return Spec(
        firmware=firmware,
        disks=disks,
        memory_mib=MEMORY_MIB,
        kernel=kernel,
        forwards=(22,),
        machine_type=machine_type,
    )


async def _opened(server: Machine) -> Ssh:
    ssh = Ssh(await server.port(22), _key(), "root")
    await ssh.wait(START_SECONDS)
    return ssh


@asynccontextmanager
async def started(firmware: str, *disks: Disk) -> AsyncIterator[tuple[Machine, Ssh]]:
    """A machine that has started the rescue, with its disks."""
    spec = await run_blocking(_spec, firmware, disks, "q35")
    async with machine(spec) as server:
        yield server, await _opened(server)


@asynccontextmanager
async def restored(firmware: str, *disks: Disk) -> AsyncIterator[tuple[Machine, Ssh]]:
    """A machine that goes on from the saved state, with disks that are plugged in then (no SATA)."""
    spec = await run_blocking(_spec, firmware, (), "pc")
    state = await _saved(spec)
    async with machine(replace(spec, incoming=state)) as server:
        for disk in disks:
            await server.plug(disk)
        ssh = await _opened(server)
        found = f"[ $(lsblk -dno TYPE | grep -c disk) = {len(disks)} ]"
        await ssh.run(f"until {found}; do sleep 0.1; done; udevadm settle")
        yield server, ssh


async def _saved(spec: Spec) -> Path:
    """The saved state for a specification: made once for each rescue and QEMU."""
    version = await run_blocking(run, "qemu-system-x86_64", "--version")
    key = hashlib.sha256(f"{version} {spec}".encode()).hexdigest()[:16]
    state = CACHE / f"{rescue_directory().name}-{key}.state"
    if not state.exists():
        scratch = state.with_suffix(f".{os.getpid()}")
        async with machine(spec) as server:
            await _opened(server)
            await server.save(scratch)
        scratch.rename(state)
    os.utime(state)
    return state


def _as_seen_inside(job: dict[str, Any]) -> dict[str, Any]:
    return job | {"URL": job["URL"].replace("127.0.0.1", HOST)}


def _byoi_write(ssh: Ssh) -> list[str]:
    return ssh.command("byoi write - --disk-group 0 --json")


class RescueVictim:
    """A deployment in a machine that can lose its power."""

    def __init__(self, server: Machine, work: Writing) -> None:
        self._server = server
        self._work = work

    async def wait_stage(self, name: str) -> None:
        await self._work.wait_stage(name)

    async def finish(self) -> Deployed:
        return await self._work.finish()

    async def cut_power(self) -> None:
        self._server.cut_power()
        await self._server.wait_off(60)


@asynccontextmanager
async def victim(case: Case, job: dict[str, Any], disk: Path) -> AsyncIterator[RescueVictim]:
    """Begin a deployment in a restored rescue, onto a qcow2 file. The machine loses its power when the block ends."""
    async with (
        restored(Disk(path=disk, format="qcow2", bus=case.bus, sector_size=case.sector_size)) as (
            server,
            ssh,
        ),
        writing(_byoi_write(ssh), _as_seen_inside(job)) as work,
    ):
        yield RescueVictim(server, work)


async def in_restored(job: dict[str, Any], disk: Disk) -> Deployed:
    """A deployment in a restored rescue, which is switched off properly then."""
    async with (
        restored("bios", disk) as (server, ssh),
        writing(_byoi_write(ssh), _as_seen_inside(job)) as work,
    ):
        deployed = await work.finish()
        await server.qmp.execute("quit")
        await server.wait_off(60)
        return deployed


async def by_ssh(case: Case, job: dict[str, Any], disk: Path) -> Deployed:
    """`byoi write` in a rescue; the machine's power is cut then: what is done is durable.

    Started for it where all of the way is to be seen, or the disk cannot be plugged in later.
    """
    make = started if case.system == "cloud" or case.bus == "sata" else restored
    async with (
        make(case.firmware, Disk(path=disk, bus=case.bus, sector_size=case.sector_size)) as (_, ssh),
        writing(_byoi_write(ssh), _as_seen_inside(job)) as work,
    ):
        return await work.finish()
