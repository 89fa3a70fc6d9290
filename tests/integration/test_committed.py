"""After a crash in the commit: whether the disk is committed, by what is on it and whoever holds it."""

import fcntl
from dataclasses import replace

import pytest

from agent.aio import run_blocking
from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.model.disk_state import DiskState
from agent.model.job import parse_job
from agent.model.seal import Seal
from agent.stages.commit import is_committed
from tests.kit import deployments
from tests.kit.disks import DIRT, DISK_SIZE, make_disk
from tests.kit.images import make_image
from tests.kit.server import serving


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
async def committed(tmp_path, image):
    """A disk that has been committed, and the seal that was kept before."""
    disk, seals = tmp_path / "disk", []
    await run_blocking(make_disk, disk, DISK_SIZE, DIRT)

    async def keep(fact: DiskState | Seal) -> None:
        if isinstance(fact, Seal):
            assert not await run_blocking(is_committed, fact.disks[0], never)  # not yet
            seals.append(Seal.parse(fact.document()))

    with serving(lambda request: request.file(image.data)) as server:
        job = parse_job(deployments.job(server.url, image.sha256))
        status = await Deployment(job, Options(disks=(str(disk),)), keep=keep).run()
    assert status.status == "done", status.error
    return disk, seals[0].disks[0]


def never(_: float) -> None:
    raise AssertionError("no second look is needed")


def overwrite(path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_a_committed_disk_is_known_whoever_holds_it(committed):
    disk, seal = committed
    assert is_committed(seal, never)
    with disk.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert is_committed(seal, never)
    disk.chmod(0o400)
    assert is_committed(seal, never)


def test_any_part_that_differs_makes_it_another_disk(committed):
    disk, seal = committed
    for place in (0, 446, seal.size - 1, seal.drive_offset, seal.drive_offset + seal.drive_length - 1):
        overwrite(disk, place)
        assert not is_committed(seal, never), place
        overwrite(disk, place)
    assert is_committed(seal, never)
    with disk.open("ab") as file:
        file.write(b"more")
    assert not is_committed(seal, never)


def test_ends_without_a_sound_table_are_no_system_even_if_they_are_as_sealed(committed, tmp_path):
    _, seal = committed
    blank = tmp_path / "blank"
    blank.write_bytes(bytes(seal.size))
    zeros = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"  # of 1 MiB
    blanked = replace(seal, path=str(blank), head_sha256=zeros, tail_sha256=zeros, drive_length=0)
    assert not is_committed(blanked, never)


def test_a_disk_that_comes_late_is_waited_for(committed):
    disk, seal = committed
    away = disk.with_name("away")
    disk.rename(away)
    waits = []

    def come_back(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            away.rename(disk)

    assert is_committed(seal, come_back)
    assert len(waits) == 3


def test_a_disk_that_does_not_come_is_told(committed):
    disk, seal = committed
    disk.unlink()
    waits = []
    with pytest.raises(FileNotFoundError, match=str(disk)):
        is_committed(seal, waits.append)
    assert 5 <= sum(waits) <= 15
