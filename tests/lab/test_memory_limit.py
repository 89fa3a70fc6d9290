"""A daemon that the kernel kills in each deployment, because its control group has too little memory for one."""

import asyncio
import time
from pathlib import Path

from agent.aio import run_blocking
from agent.service.jobs.phases import MAX_ATTEMPTS
from agent.units import MiB
from tests.lab import rescue
from tests.lab.api import Status, is_over
from tests.lab.checks import DRIVE
from tests.lab.conftest import digest
from tests.lab.daemon import as_seen_inside
from tests.lab.deploy import DEPLOY_SECONDS
from tests.lab.disks import Disk, make_dirty
from tests.lab.matrix import Case
from tests.lab.rescue import Rescue
from tests.lab.ssh import Ssh

CASE = Case(firmware="bios", form="raw", bus="virtio")
SPARE = 20 * MiB
"""Beyond the idle daemon's own memory, for what it has mapped as well: half of what a deployment takes."""
DROP_IN = "/run/systemd/system/byoi-agent.service.d/lab.conf"


async def test_a_job_that_every_agent_is_killed_over_is_given_up_and_nothing_boots(
    job_for, disk_file: Path
) -> None:
    job = as_seen_inside(await run_blocking(job_for, CASE, DRIVE))
    await run_blocking(make_dirty, disk_file, CASE.size)
    before = await run_blocking(digest, disk_file)
    async with rescue.restored(CASE.firmware, Disk(path=disk_file, bus=CASE.bus)) as machine:
        await _limit(machine.ssh, await _own_memory(machine.ssh) + SPARE)
        await machine.api.post(job)
        status = await _end(machine)
        assert status["status"] == "error", status
        assert (status["error"]["code"], status["attempt"]) == ("job.interrupted", MAX_ATTEMPTS)
        assert int(await _told(machine.ssh, "NRestarts")) == MAX_ATTEMPTS
        assert await machine.ssh.run("journalctl -u byoi-agent | grep -c 'oom-kill'")
        if status["error"]["diskState"] == "untouched":
            assert await run_blocking(digest, disk_file) == before
        else:
            ends = f"head -c {MiB} /dev/vda; tail -c {MiB} /dev/vda"
            assert await machine.ssh.run(f"({ends}) | tr -d '\\0' | wc -c") == "0"
        await _limit(machine.ssh, 768 * MiB)
        await machine.api.post(job)
        assert (await machine.api.follow(is_over, DEPLOY_SECONDS))["status"] == "done"


async def _told(ssh: Ssh, name: str) -> str:
    """A property of the daemon's unit."""
    return await ssh.run(f"systemctl show --property {name} --value byoi-agent")


async def _own_memory(ssh: Ssh) -> int:
    """What the daemon has in memory and no file has, in bytes."""
    pid = await _told(ssh, "MainPID")
    return 1024 * int((await ssh.run(f"grep RssAnon /proc/{pid}/status")).split()[1])


async def _limit(ssh: Ssh, length: int) -> None:
    lines = rf"[Service]\nMemoryMax={length}\nRestartSec=100ms\n"
    await ssh.run(f"mkdir -p $(dirname {DROP_IN}) && printf '{lines}' >{DROP_IN} && systemctl daemon-reload")


async def _end(machine: Rescue) -> Status:
    """The status once the job is over; the daemon may be down in between."""
    deadline = time.monotonic() + DEPLOY_SECONDS
    while True:
        await machine.api.wait(DEPLOY_SECONDS)
        try:
            status = await machine.api.get()
        except OSError:
            continue
        if is_over(status):
            return status
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.5)
