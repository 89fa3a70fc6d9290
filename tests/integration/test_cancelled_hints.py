"""What a cancelled deployment says of the disk: the truth, also where it is not the first attempt."""

import asyncio
import threading

import pytest

from agent.aio import run_blocking
from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.model.job import parse_job
from agent.units import MiB
from tests.integration import harness


@pytest.mark.parametrize("attempt", [1, 2])
async def test_before_anything_is_written_only_a_first_attempt_says_that_the_disk_is_whole(tmp_path, attempt):
    asked = threading.Event()

    def hang(request: harness.Request, _: int) -> None:
        asked.set()
        request.server.stopping.wait(30)

    disk = tmp_path / "disk"
    await run_blocking(harness.dirty, disk, 8 * MiB, harness.DIRT)
    with harness.serving(hang) as server:
        job = parse_job({"URL": server.url, "type": "raw"})
        deployment = Deployment(job, Options(disk=str(disk)), attempt=attempt, floor=50.0)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(deployment.run())
            assert await run_blocking(asked.wait, 30)
            running.cancel()
    document = deployment.snapshot().document()
    assert document["error"]["code"] == "job.cancelled"
    assert ("holds what it held before" in document["error"]["hint"]) == (attempt == 1)
    assert ("an earlier one may have wiped" in document["error"]["hint"]) == (attempt == 2)
    assert document["percent"] == 50.0
