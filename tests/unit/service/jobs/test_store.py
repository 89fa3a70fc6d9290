"""The ledger: memory follows the journal, whatever happens while a thread writes."""

import asyncio
from dataclasses import replace

import pytest

from agent.errors import StateUnusable
from agent.service.jobs.journal import Book, Entry, Journal, Phase
from agent.service.jobs.store import Ledger

JOB = {"URL": "https://a.example/x", "type": "raw"}
ENTRY = Entry(id="1", origin="api", job=JOB, accepted_at=1.0)


@pytest.fixture
async def journal(tmp_path):
    journal = Journal(tmp_path / "state", "ns1")
    await journal.open()
    yield journal
    journal.close()


@pytest.fixture
def ledger(journal):
    return Ledger(journal, Book(), lambda: 7)


async def read(journal):
    """The book as the next agent finds it."""
    text = await journal._read()
    return None if text is None else journal._parse(text)


async def test_what_is_stored_is_read_again(journal, ledger):
    await ledger.change(lambda book: replace(book, entry=ENTRY, taken=("1",), boot_id="b"))
    found = await read(journal)
    assert found == replace(ledger.book, revision=7)
    assert found.entry == ENTRY


async def test_changes_at_once_are_all_there(journal, ledger):
    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(
                ledger.change(lambda book, name=str(number): replace(book, taken=(*book.taken, name)))
            )
    assert sorted(ledger.book.taken, key=int) == [str(number) for number in range(30)]
    assert await read(journal) == ledger.book


async def test_a_change_whose_caller_was_cancelled_is_true_in_memory_too(journal, ledger):
    task = asyncio.ensure_future(ledger.change(lambda book: replace(book, entry=ENTRY)))  # noqa: TID251
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await read(journal) in (None, ledger.book)
    assert (ledger.entry is None) == (await read(journal) is None)


def _break(journal):
    """Take away where the journal is written to."""
    journal._directory.rename(journal._directory.with_name("moved"))


def _mend(journal):
    journal._directory.with_name("moved").rename(journal._directory)


async def test_what_cannot_be_written_is_not_changed(journal, ledger):
    await ledger.change(lambda book: replace(book, entry=ENTRY))
    _break(journal)
    with pytest.raises(StateUnusable):
        await ledger.change(lambda book: replace(book, entry=None))
    assert ledger.entry == ENTRY


async def test_a_fact_is_kept_in_memory_and_written_once_that_is_possible(journal, ledger):
    await ledger.change(lambda book: replace(book, entry=ENTRY))
    _break(journal)
    await ledger.keep("1", lambda entry: replace(entry, phase=Phase.SEALED, percent=90.0))
    assert ledger.entry is not None
    assert ledger.entry.percent == 90.0
    assert not await ledger.flush()
    _mend(journal)
    assert (await read(journal)).entry == ENTRY
    assert await ledger.flush()
    assert ledger.is_durable
    book = journal._directory / "journal.json"
    assert b"90.0" in book.read_bytes()


async def test_a_fact_about_another_job_changes_nothing(ledger):
    await ledger.change(lambda book: replace(book, entry=ENTRY))
    await ledger.keep("2", lambda entry: replace(entry, phase=Phase.FAILED))
    assert ledger.entry == ENTRY
