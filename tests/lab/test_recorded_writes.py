"""Power cuts by the record: all that the disk of a server was told during a deployment, as the rescue's kernel told it.

The test of the same kind in tests/integration records what the agent asks for. Here the kernel is in between, with its
queues, its merging, and its way of flushing.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.aio import run_blocking
from agent.units import MiB
from tests.kit.checks import assert_complete
from tests.kit.crashes import Medium, Write, crashes, state
from tests.kit.deployments import job
from tests.kit.images import Image, make_image, make_old_disk
from tests.kit.server import serving
from tests.lab import daemon, logwrites
from tests.lab.disks import Disk

DISK_SIZE = 16 * MiB
LOG_SIZE = 256 * MiB


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path, 12 * MiB)


@pytest.fixture
def url(image: Image) -> Iterator[str]:
    with serving(lambda request: request.file(image.data)) as server:
        yield server.url


def survey(old: bytes, record: list[Write | None], new: bytes) -> tuple[set[str], set[str]]:
    """The states that a power cut could leave, anywhere and behind the last step of the record."""
    chance = random.Random(random.getrandbits(32))  # repeated by the seed that pytest-randomly shows
    everywhere, at_last = set(), set()
    for number, content in crashes(old, record, chance):
        found = state(content, old, new)
        everywhere.add(found)
        if number == len(record):
            at_last.add(found)
    return everywhere, at_last


async def test_a_power_cut_at_any_instant_of_a_deployment_in_a_server(
    image: Image, url: str, tmp_path: Path, record
) -> None:
    old = await run_blocking(make_old_disk, tmp_path, DISK_SIZE)
    path = tmp_path / "disk.raw"
    path.write_bytes(old)
    log = logwrites.make_log(tmp_path / "log", LOG_SIZE)
    with record.timing("deploy"):
        deployed = await daemon.onto(Disk(path=path, log=log), job(url, image.sha256))
    assert deployed.error_code == "", deployed.status

    new = path.read_bytes()
    steps = await run_blocking(lambda: list(logwrites.read_log(log)))
    whole = Medium(old)
    assert whole.replay(steps) == [], "what is done is durable"
    assert whole.content == new, "the record is the whole truth"
    await run_blocking(assert_complete, path, image, tmp_path)
    everywhere, at_last = await run_blocking(survey, old, steps, new)
    assert everywhere == {"old", "headless", "blank", "new"}
    assert at_last == {"new"}
    record.notes["steps"] = len(steps)
