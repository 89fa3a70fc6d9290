"""What somebody sees who stands before the server, or looks through KVM over IP or a serial line.

`BYOI_LAB_PICTURES=DIRECTORY` keeps photographs of the screen there.
"""

import asyncio
import os
import re
from pathlib import Path

from agent.aio import run_blocking
from agent.model.disk_state import DiskState, without_disk_state
from tests.kit.pages import Web
from tests.lab import rescue
from tests.lab.api import is_over
from tests.lab.checks import DRIVE
from tests.lab.daemon import as_seen_inside
from tests.lab.deploy import DEPLOY_SECONDS
from tests.lab.disks import Disk, make_dirty
from tests.lab.machine import Machine
from tests.lab.matrix import Case

CASE = Case(firmware="bios", form="qcow2-zstd", bus="virtio")
CONSOLE_SECONDS = 120
# A line that is longer than the console is broken at a space.
PROGRESS = r"^\d\d:\d\d:\d\d +\d+\.\d % .*\s+of\s+.*,\s+waiting\s+on\s+\w+"
PICTURES = os.environ.get("BYOI_LAB_PICTURES")


async def still(server: Machine, path: Path) -> Path:
    """A photograph of a screen on which nothing has moved for two seconds."""
    before = b""
    async with asyncio.timeout(CONSOLE_SECONDS):
        while (now := (await server.screenshot(path)).read_bytes()) != before:
            before = now
            await asyncio.sleep(2)
    return path


async def test_the_consoles_show_a_deployment_and_its_error(job_for, web: Web, disk_file: Path) -> None:
    job = as_seen_inside(await run_blocking(job_for, CASE, DRIVE)) | {"checkSum": "0" * 64}
    # A fast machine would be done before the first line of progress.
    page = web.pages["/" + job["URL"].rpartition("/")[2]]
    page.pause_at = page.content.stat().st_size * 4 // 5
    await run_blocking(make_dirty, disk_file, CASE.size)
    pictures = Path(PICTURES or disk_file.parent)
    async with rescue.restored(CASE.firmware, Disk(path=disk_file, bus=CASE.bus)) as machine:
        server = machine.server
        waiting = await server.screenshot(pictures / "console-waiting.png")
        await machine.api.post(job)
        await machine.api.follow(lambda status: status["percent"] > 40, DEPLOY_SECONDS)
        await server.serial.wait_for(PROGRESS, CONSOLE_SECONDS)
        deploying = await server.screenshot(pictures / "console-deploying.png")
        web.resume.set()
        status = await machine.api.follow(is_over, DEPLOY_SECONDS)
        assert status["error"]["code"] == "checksum.mismatch", status
        error, disk_state = without_disk_state(status["error"])
        assert disk_state is DiskState.EMPTY
        for text in (error["message"], error["hint"], disk_state.sentence):
            # Longer than a line of the console, maybe.
            await server.serial.wait_for(r"\s+".join(map(re.escape, text.split())), CONSOLE_SECONDS)
        failed = await still(server, pictures / "console-error.png")
        assert len({path.read_bytes() for path in (waiting, deploying, failed)}) == 3
