"""What the conductor's commands do to a machine, as far as files and threads can show it."""

import functools
import threading

import pytest

from agent.aio import run_blocking
from agent.errors import DiskIo
from agent.model.job import parse_job
from agent.model.policy import Policy
from agent.service.ironic.machine import LOG_COMMANDS, LOG_SECONDS, Machine
from agent.service.ironic.orders import WAIT_SECONDS
from agent.service.ironic.state import Command
from agent.service.ironic.steps import Erasure
from agent.service.ironic.work import Work
from tests.unit.service.jobs.conftest import DOCUMENT


@pytest.fixture
def two_disks(tmp_path):
    other = tmp_path / "other.img"
    for path in (tmp_path / "disk.img", other):
        with path.open("wb") as file:
            file.truncate(16 << 20)
    return (tmp_path / "disk.img", other)


async def test_a_disk_that_fails_has_the_others_stop(configure, two_disks):
    settings = await run_blocking(functools.partial(configure, disks=two_disks))
    begun, stopped = threading.Barrier(2, timeout=20), threading.Event()

    def erase_one(_, __, disk, ___, cancelled):
        begun.wait()
        if disk.path.endswith("other.img"):
            raise DiskIo(device=disk.path, reason="it fails")
        while not cancelled():
            stopped.wait(0.01)
        stopped.set()
        return {}

    with pytest.raises(DiskIo):
        await Machine(settings, settings.ironic).erase("erase_devices", Erasure(), erase_one)
    assert stopped.is_set()


class FirmwareOf:
    """A machine whose boot entries are remembered."""

    def __init__(self):
        self.made = []

    async def make_boot_entry(self, disk, loader):
        self.made.append((disk["path"], loader))
        return "made"


@pytest.mark.parametrize("loader", [r"\EFI\debian\grubx64.efi", None])
async def test_the_boot_entry_leads_to_the_loader_that_the_job_names(make_agent, tmp_path, loader):
    machine = FirmwareOf()
    document = DOCUMENT | ({"efiBootloaderPath": loader} if loader else {})
    async with make_agent() as agent:
        await agent.slot.post(document, parse_job(document), job_id=None, origin="ironic")
        (await agent.deploying()).succeed()
        await agent.until(lambda document: document["status"] == "done", "it is done")
        work = (
            Work(agent.slot, agent.publisher, Policy(), machine).abilities()["image.install_bootloader"].work
        )
        assert await work(Command("c1", "install_bootloader"), {"target_boot_mode": "uefi"}) == {
            "result": "made"
        }
    assert machine.made == [("/dev/sda", loader)]


def test_all_logs_are_gathered_while_the_conductor_waits():
    assert len(LOG_COMMANDS) * LOG_SECONDS < WAIT_SECONDS
