"""Many who ask for the inventory, and one thread that reads it."""

import asyncio
import threading

import pytest

from agent.aio import MAX_THREADS, run_blocking
from agent.service.api.inventory import Inventory, InventoryHangs


class Reader:
    """Reads when it may, and counts."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.readings = 0
        self.fault: Exception | None = None

    def __call__(self) -> dict[str, int]:
        self.readings += 1
        number = self.readings
        assert self.may.wait(30)
        if self.fault is not None:
            raise self.fault
        return {"reading": number}


@pytest.fixture
def reader():
    reader = Reader()
    yield reader
    reader.may.set()


async def test_all_who_ask_meanwhile_get_one_reading_and_leave_the_threads_of_a_deployment_alone(reader):
    inventory = Inventory(reader, keep_seconds=0)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(inventory.document()) for _ in range(10 * MAX_THREADS)]
        await asyncio.sleep(0.05)
        assert await run_blocking(lambda: 5) == 5
        asked[0].cancel()  # one who leaves takes nothing from the others
        await asyncio.sleep(0)
        reader.may.set()
    assert [task.result() for task in asked[1:]] == [{"reading": 1}] * (10 * MAX_THREADS - 1)
    assert await inventory.document() == {"reading": 2}


async def test_a_reading_is_kept_for_a_moment(reader):
    reader.may.set()
    inventory = Inventory(reader, keep_seconds=100)
    assert [await inventory.document() for _ in range(3)] == [{"reading": 1}] * 3


async def test_a_reading_that_hangs_is_told_and_no_second_one_begins(reader):
    inventory = Inventory(reader, wait_seconds=0.05)
    for _ in range(3):
        with pytest.raises(InventoryHangs):
            await inventory.document()
    assert reader.readings == 1
    reader.may.set()
    assert await Inventory(reader).document() == {"reading": 2}


async def test_a_fault_is_told_to_all_and_not_kept(reader):
    reader.may.set()
    reader.fault = OSError("sysfs is gone")
    inventory = Inventory(reader, keep_seconds=100)
    with pytest.raises(OSError, match="sysfs is gone"):
        await inventory.document()
    reader.fault = None
    assert await inventory.document() == {"reading": 2}
