"""The hand-over: what it waits for, what ends it and what does not, and that the reboot is ordered once in a boot."""

import asyncio

import pytest

from agent.errors import StateUnusable
from agent.service.config.model import Reboot
from agent.service.jobs.journal import Journal
from agent.service.jobs.lifecycle import Crew
from agent.service.jobs.publisher import Board
from agent.service.jobs.slot import Slot, SlotTaken, idle_document
from agent.service.jobs.store import Ledger
from tests.unit.service.jobs.test_reboot import (
    SOON,
    Record,
    is_committed,
    launch,
    leave_a_cancellation_counted,
    post,
    running,
    until,
)

# -- by itself ---------------------------------------------------------------------------------------------------


async def test_a_task_with_a_cancellation_still_counted_hands_over_all_the_same():
    await leave_a_cancellation_counted()
    record = Record()
    await record.hand_over(SOON).run()
    asyncio.current_task().uncancel()
    assert record.acts == ["marked", SOON.command]


# -- in its slot -------------------------------------------------------------------------------------------------


@pytest.fixture
def rebooted(tmp_path):
    return tmp_path / "rebooted"


@pytest.fixture
async def make_slot(tmp_path, rebooted):
    """A function `make(tasks, **reboot)`: a slot with a journal; its reboot command adds a line to `rebooted`."""
    journals = []

    async def make(tasks, **reboot):
        for journal in journals:
            journal.close()
        journals.append(Journal(tmp_path / "state", "ns1"))
        book, _ = await journals[-1].open()
        board = Board(idle_document("ns1"))
        ledger = Ledger(journals[-1], book, lambda: board.revision)
        command = ("sh", "-c", f"echo ordered >> {rebooted}")
        crew = Crew(tasks, launch, Reboot(command=command, **reboot), is_committed)
        slot = Slot(server_name="ns1", ledger=ledger, board=board, crew=crew, boot_id="this boot")
        await slot.resume()
        return slot

    yield make
    for journal in journals:
        journal.close()


async def until_run(rebooted):
    """Wait until the reboot command has run."""
    async with asyncio.timeout(30):
        while not rebooted.exists():  # noqa: ASYNC110 - a file tells nobody of itself
            await asyncio.sleep(0.01)


async def test_the_reboot_comes_though_the_deployment_left_a_cancellation_counted(make_slot, rebooted):
    async with running(make_slot, grace_seconds=0.01) as slot:
        await post(slot)
        await until_run(rebooted)
        await slot.stop(30)
    assert rebooted.read_text() == "ordered\n"


async def test_a_cancellation_that_nobody_asked_for_ends_no_hand_over_and_lets_no_job_in(make_slot, rebooted):
    async with running(make_slot, grace_seconds=3600) as slot:
        job_id = await post(slot)
        await until(slot, "waiting")
        for _ in range(3):
            slot._life.task.cancel()
            await asyncio.sleep(0.01)
            with pytest.raises(SlotTaken):
                await post(slot)
            assert not slot._life.task.done()
        await slot.see(job_id)
        await until_run(rebooted)
        with pytest.raises(SlotTaken):
            await post(slot)
        await slot.stop(30)
    assert rebooted.read_text() == "ordered\n"


async def test_the_next_agent_of_the_same_boot_does_not_order_the_reboot_again(make_slot, rebooted):
    for _ in range(2):
        async with running(make_slot, grace_seconds=0) as slot:
            if slot.entry is None:
                await post(slot)
            await until(slot, "due")
            await until_run(rebooted)
            with pytest.raises(SlotTaken):
                await post(slot)
            await slot.stop(30)
        assert slot.entry.ordered_at is not None
    assert rebooted.read_text() == "ordered\n"


async def test_a_deletion_while_the_outcome_is_being_recorded_calls_the_reboot_off(make_slot, rebooted):
    """The hand-over begins after the deletion has looked for one, and before the deletion is in the journal."""
    async with running(make_slot, grace_seconds=0) as slot:
        await post(slot)
        async with slot._accepting:  # the deletion waits for this
            deletion = slot._crew.tasks.create_task(slot.erase())
            await until(slot, "calledOff")
        await deletion
        assert slot.entry is None
    assert not rebooted.exists()


async def test_the_reboot_comes_though_the_journal_cannot_take_the_mark_any_more(
    make_slot, tmp_path, rebooted
):
    """The outcome is in the journal: a server that stays in rescue for good would be the greater harm."""
    async with running(make_slot, grace_seconds=3600) as slot:
        job_id = await post(slot)
        await until(slot, "waiting")
        await slot.see(job_id)
        (tmp_path / "state").rename(tmp_path / "moved")
        await until(slot, "due")
        with pytest.raises(StateUnusable):
            await slot._ledger.change(lambda book: book)
        (tmp_path / "moved").rename(tmp_path / "state")
        async with asyncio.timeout(60):
            while not rebooted.exists():  # noqa: ASYNC110 - a process makes it
                await asyncio.sleep(0.05)
