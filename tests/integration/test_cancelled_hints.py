"""What a deployment that has not succeeded says of the disk: the truth, also where it is not the first attempt."""

import asyncio
import errno
import threading

import pytest

from agent.aio import run_blocking
from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.model.disk_state import DiskState
from agent.model.job import parse_job
from agent.units import MiB
from tests.kit import deployments
from tests.kit.disks import DIRT, make_disk
from tests.kit.images import make_image
from tests.kit.server import Request, serving


@pytest.mark.parametrize("left", DiskState)
async def test_before_anything_is_written_the_disk_is_as_the_attempt_before_has_left_it(tmp_path, left):
    asked = threading.Event()

    def hang(request: Request) -> None:
        asked.set()
        request.server.stopping.wait(30)

    disk = tmp_path / "disk"
    await run_blocking(make_disk, disk, 8 * MiB, DIRT)
    with serving(hang) as server:
        job = parse_job({"URL": server.url, "type": "raw"})
        deployment = Deployment(
            job, Options(disks=(str(disk),)), attempt=2, min_percent=50.0, disk_state=left
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(deployment.run())
            assert await run_blocking(asked.wait, 30)
            running.cancel()
    document = deployment.snapshot().document()
    assert document["error"]["code"] == "job.cancelled"
    assert (document["error"]["diskState"], document["error"]["hint"]) == (left, left.sentence)
    assert document["percent"] == 50.0


async def test_a_claim_that_is_refused_leaves_the_disk_as_it_was(tmp_path):
    """What is made known before the claim is taken back where nothing was opened: a later attempt has to know."""
    told: list[object] = []
    disk = tmp_path / "disk"
    await run_blocking(make_disk, disk, 24 * MiB, DIRT)
    image = await run_blocking(make_image, tmp_path)

    async def keep(fact: object) -> None:
        told.append(fact)
        disk.unlink(missing_ok=True)

    with serving(lambda request: request.file(image.data)) as server:
        deployment = Deployment(
            parse_job(deployments.job(server.url, None)), Options(disks=(str(disk),)), keep=keep
        )
        status = await deployment.run()
    assert status.error is not None
    assert status.error["diskState"] == DiskState.UNTOUCHED
    assert told == [DiskState.UNKNOWN]


@pytest.mark.parametrize("fault", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
async def test_memory_that_runs_out_is_named(tmp_path, fault):
    async def keep(_: object) -> None:
        raise fault

    image = await run_blocking(make_image, tmp_path)
    disk = tmp_path / "disk"
    await run_blocking(make_disk, disk, 24 * MiB, DIRT)
    with serving(lambda request: request.file(image.data)) as server:
        job = parse_job(deployments.job(server.url, image.sha256))
        status = await Deployment(job, Options(disks=(str(disk),)), keep=keep).run()
    assert status.error is not None
    assert (status.error["code"], status.error["blame"], status.error["retryable"]) == (
        "agent.memory",
        "agent",
        True,
    )
    assert "Free memory" in status.error["hint"]
    assert status.error["diskState"] == DiskState.UNTOUCHED
