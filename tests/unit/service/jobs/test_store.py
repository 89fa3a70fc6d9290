"""The store: memory follows the journal, whatever happens while a thread writes."""

import asyncio
from dataclasses import replace

import pytest

from agent.errors import StateUnusable
from agent.service.jobs.entry import JobEntry
from agent.service.jobs.journal import Journal, JournalState
from agent.service.jobs.phases import PercentPromised
from agent.service.jobs.store import JobStore

JOB = {"URL": "https://a.example/x", "type": "raw"}
ENTRY = JobEntry(id="1", origin="api", job=JOB, accepted_at=1.0)


@pytest.fixture
async def journal(tmp_path):
    journal = Journal(tmp_path / "state", "ns1")
    await journal.open()
    yield journal
    journal.close()


@pytest.fixture
def store(journal):
    return JobStore(journal, JournalState(), lambda: 7)


async def read(journal):
    """The state as the next agent finds it."""
    text = await journal._read()
    return None if text is None else journal._parse(text)


async def test_what_is_stored_is_read_again(journal, store):
    await store.change(lambda state: replace(state, entry=ENTRY, taken=("1",), boot_id="b"))
    found = await read(journal)
    assert found == replace(store.state, revision=7)
    assert found.entry == ENTRY


async def test_changes_at_once_are_all_there(journal, store):
    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(
                store.change(lambda state, name=str(number): replace(state, taken=(*state.taken, name)))
            )
    assert sorted(store.state.taken, key=int) == [str(number) for number in range(30)]
    assert await read(journal) == store.state


async def test_a_change_whose_caller_was_cancelled_is_true_in_memory_too(journal, store):
    task = asyncio.ensure_future(store.change(lambda state: replace(state, entry=ENTRY)))  # noqa: TID251
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await read(journal) in (None, store.state)
    assert (store.entry is None) == (await read(journal) is None)


def _break(journal):
    """Take away where the journal is written to."""
    journal._directory.rename(journal._directory.with_name("moved"))


def _mend(journal):
    journal._directory.with_name("moved").rename(journal._directory)


async def test_what_cannot_be_written_is_not_changed(journal, store):
    await store.change(lambda state: replace(state, entry=ENTRY))
    _break(journal)
    with pytest.raises(StateUnusable):
        await store.change(lambda state: replace(state, entry=None))
    assert store.entry == ENTRY


async def test_a_fact_is_kept_in_memory_and_written_once_that_is_possible(journal, store):
    await store.change(lambda state: replace(state, entry=ENTRY))
    _break(journal)
    await store.record("1", PercentPromised(90.0))
    assert store.entry is not None
    assert store.entry.percent == 90.0
    assert not await store.flush()
    _mend(journal)
    assert (await read(journal)).entry == ENTRY
    assert await store.flush()
    assert store.is_durable
    state = journal._directory / "journal.json"
    assert b"90.0" in state.read_bytes()


async def test_a_fact_about_another_job_changes_nothing(store):
    await store.change(lambda state: replace(state, entry=ENTRY))
    await store.record("2", PercentPromised(90.0))
    assert store.entry == ENTRY
