"""Deployments by the daemon of a rescue, told of the job in each of the ways that a control plane has.

Whatever the way: when the deployment is done and that was seen, the agent itself reboots the machine, which ends here
with that.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import ovh

from agent.aio import run_blocking
from tests.kit.control_plane import ControlPlane, Record, control_plane
from tests.lab import former, registry, rescue
from tests.lab.api import DEPLOYMENT, Status, has_begun, is_over, python_ovh
from tests.lab.deploy import DEPLOY_SECONDS, Deployed
from tests.lab.disks import Disk
from tests.lab.machine import HOST, Machine
from tests.lab.matrix import Case
from tests.lab.rescue import START_SECONDS, WAITS, Rescue
from tests.lab.site import API_PORT, CONTROL_TOKEN, ETC, SERVICE_NAME, Site, site

REBOOT_SECONDS = 300
POLL_SECONDS = 1.0

Way = Callable[[Case, dict[str, Any], tuple[Disk, ...]], Awaitable[Deployed]]


def as_seen_inside(job: dict[str, Any]) -> dict[str, Any]:
    """The job as a machine has to have it: what is served on the host's loopback is elsewhere there."""
    return job | {"URL": job["URL"].replace("127.0.0.1", HOST)}


async def by_daemon(case: Case, job: dict[str, Any], path: Path) -> Deployed:
    """Carry a job out in the way that its case names, on a disk (a raw file)."""
    disks = (Disk(path=path, bus=case.bus, sector_size=case.disk_sector_size), *former.others(case, path))
    return await WAYS[case.way](case, as_seen_inside(job), disks)


async def pulled(case: Case, job: dict[str, Any], disks: tuple[Disk, ...]) -> Deployed:
    """The agent asks the control plane, whose address came with the kernel and whose token came in a second initrd, and
    pushes statuses. The token of its API came from the firmware."""
    async with _control_plane(await run_blocking(site)) as control:
        record = control.give(SERVICE_NAME, job)
        credentials = {"control_plane.token": (await run_blocking(site)).secret(CONTROL_TOKEN)}
        words = _pulling(control)
        if case.registry:
            credentials |= await run_blocking(registry.credentials)
            words += registry.WORDS
        started = rescue.started(
            case.firmware,
            *disks,
            words=words,
            credentials=credentials,
            api_token=secrets.token_hex(16),
            suite=case.rescue,
        )
        async with started as machine:
            await machine.api.wait(START_SECONDS)
            await machine.api.assert_let_in()
            while not record.over:
                assert machine.server.is_on, (
                    f"the machine went down before the outcome was told: {record.last}"
                )
                await asyncio.sleep(0.1)
            await _end(machine.server, record.last)
            assert_told(machine.server, record)
            assert_console(machine.server, record.last)
            return Deployed(record.last)


async def polled(case: Case, job: dict[str, Any], disks: tuple[Disk, ...]) -> Deployed:
    """python-ovh hands the job in and asks again and again, over TLS."""
    where = await run_blocking(site)
    async with rescue.started(case.firmware, *disks, suite=case.rescue) as machine:
        await machine.server.serial.wait_for(WAITS, START_SECONDS)
        await machine.api.wait(START_SECONDS)
        status = await run_blocking(_by_python_ovh, await machine.server.port(API_PORT), where, job)
        await _end(machine.server, status)
        assert_console(machine.server, status)
        return Deployed(status)


async def posted(case: Case, job: dict[str, Any], disks: tuple[Disk, ...]) -> Deployed:
    """Handed in over TLS by a token, to a rescue that goes on from its saved state."""
    async with rescue.restored(case.firmware, *disks) as machine:
        await former.revive(case, machine.ssh)
        await machine.api.post(job)
        status = await machine.api.follow(is_over, DEPLOY_SECONDS)
        await _end(machine.server, status)
        former.assert_stopped(case, status)
        return Deployed(status)


WAYS: dict[str, Way] = {"pulled": pulled, "polled": polled, "posted": posted}


class RescueVictim:
    """A deployment in a machine that can lose its power."""

    def __init__(self, machine: Rescue) -> None:
        self._machine = machine

    async def wait_stage(self, name: str) -> None:
        status = await self._machine.api.follow(has_begun(name), DEPLOY_SECONDS)
        assert status["error"] is None, status

    async def finish(self) -> Deployed:
        return Deployed(await self._machine.api.follow(is_over, DEPLOY_SECONDS))

    async def cut_power(self) -> str:
        status = await self._machine.api.get()
        self._machine.server.cut_power()
        await self._machine.server.wait_off(60)
        return str(status["stage"] or status["status"])


@asynccontextmanager
async def victim(case: Case, job: dict[str, Any], paths: Sequence[Path]) -> AsyncIterator[RescueVictim]:
    """Begin a deployment in a restored rescue, onto qcow2 files. The machine loses its power when the block ends."""
    disks = [
        Disk(path=path, name=path.stem, format="qcow2", bus=case.bus, sector_size=case.disk_sector_size)
        for path in paths
    ]
    async with rescue.restored(case.firmware, *disks) as machine:
        await machine.api.post(as_seen_inside(job))
        yield RescueVictim(machine)


async def onto(disk: Disk, job: dict[str, Any]) -> Deployed:
    """A deployment onto a disk of any kind, in a restored rescue with a BIOS."""
    return await posted(Case(firmware="bios"), as_seen_inside(job), (disk,))


# -- details -------------------------------------------------------------------------------------------------


def _pulling(control: ControlPlane) -> str:
    url = control.url.replace("127.0.0.1", HOST)
    options = {"url": url, "ca_file": f"{ETC}/ca.crt"}
    return " ".join(f"byoi.control_plane.{name}={value}" for name, value in options.items())


@asynccontextmanager
async def _control_plane(where: Site) -> AsyncIterator[ControlPlane]:
    with ExitStack() as stack:
        # Its end waits for its thread.
        running = control_plane(tls=where.control_plane_tls(), token=where.secret(CONTROL_TOKEN))
        control = await run_blocking(stack.enter_context, running)
        try:
            yield control
        finally:
            await run_blocking(stack.close)


def _by_python_ovh(port: int, where: Site, job: dict[str, Any]) -> Status:
    with python_ovh(port, where) as client:
        assert client.post(DEPLOYMENT, **job) is None
        deadline = time.monotonic() + DEPLOY_SECONDS
        while not is_over(status := _get(client)):
            assert time.monotonic() < deadline, status
            time.sleep(POLL_SECONDS)
        return status


def _get(client: ovh.Client) -> Status:
    status: Status = client.get(DEPLOYMENT)
    return status


async def _end(server: Machine, status: Status) -> None:
    """What is done ends by the agent's reboot; after an error the server stays in rescue, until it is switched off."""
    if status["status"] == "done":
        reason = await server.wait_off(REBOOT_SECONDS)
        assert reason == "guest-reset", f"not rebooted but {reason}"
    else:
        await server.qmp.execute("quit")
        await server.wait_off(60)


def assert_told(server: Machine, record: Record) -> None:
    """The stages were told in their order while they ran, and the outcome before the machine was reset."""
    order = [stage["name"] for stage in record.last["stages"]]
    told = [status["stage"] for status in record.statuses if status["stage"]]
    assert told == sorted(told, key=order.index)  # a short one may have been over before it could be told
    assert "write" in told
    if record.last["status"] == "done":
        told_at = time.time() - time.monotonic() + record.arrivals[-1]
        assert told_at < server.off_at, "the reboot did not wait for the outcome to be taken"


def assert_console(server: Machine, status: Status) -> None:
    """Who looks at the serial console sees what happens."""
    text = server.serial.text
    for stage in status["stages"]:
        assert f"{stage['name']}: begins" in text
    if status["status"] == "done":
        assert "rebooting to disk" in text
    else:
        # A line that is longer than the console is broken at a space.
        assert " ".join(status["error"]["message"].split()) in " ".join(text.split())
