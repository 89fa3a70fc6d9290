"""A disk that is taken out while it is written."""

from pathlib import Path

from agent.aio import run_blocking
from tests.kit.pages import Web
from tests.lab import rescue
from tests.lab.api import is_over
from tests.lab.checks import DRIVE
from tests.lab.daemon import as_seen_inside
from tests.lab.deploy import DEPLOY_SECONDS
from tests.lab.disks import Disk, make_dirty
from tests.lab.matrix import Case

CASE = Case(firmware="bios", form="raw", bus="virtio")
UNPLUG_SECONDS = 120


async def test_a_disk_that_is_taken_out_ends_its_deployment_and_not_the_daemon(
    job_for, web: Web, disk_file: Path
) -> None:
    job = as_seen_inside(await run_blocking(job_for, CASE, DRIVE))
    page = web.pages["/" + job["URL"].rpartition("/")[2]]
    page.pause_at = page.content.stat().st_size * 4 // 5
    await run_blocking(make_dirty, disk_file, CASE.size)
    disk = Disk(path=disk_file, bus=CASE.bus)
    async with rescue.restored(CASE.firmware, disk) as machine:
        await machine.api.post(job)
        await machine.api.follow(lambda status: status["percent"] > 40, DEPLOY_SECONDS)
        await machine.server.unplug(disk, UNPLUG_SECONDS)
        web.resume.set()
        error = (await machine.api.follow(is_over, DEPLOY_SECONDS))["error"]
        assert (error["blame"], error["diskState"]) == ("disk", "unknown"), error
        assert error["code"] in {"disk.io", "image.write"}, error
        assert (await machine.api.get())["status"] == "error"
        await machine.api.wait_disks(0, UNPLUG_SECONDS)
