"""The board: revisions, those who wait, and those who listen too slowly."""

import asyncio
import json

from agent.service.jobs.publisher import MAX_QUEUED, REVISION_GAP, StatusPublisher


def test_only_what_says_anything_new_is_a_revision():
    board = StatusPublisher({"status": None})
    first = board.revision
    assert not board.show({"status": None, "updatedAt": "later"})
    assert board.revision == first
    assert board.show({"status": "doing", "updatedAt": "later"})
    assert board.revision == first + 1
    assert json.loads(board.encoded()) == {"status": "doing", "updatedAt": "later", "revision": first + 1}


def test_a_revision_is_encoded_once():
    board = StatusPublisher({"status": None})
    assert board.encoded() is board.encoded()


def test_revisions_begin_above_the_last_one_that_was_kept():
    ahead = 2**45
    assert StatusPublisher({}, ahead).revision == ahead + REVISION_GAP
    assert StatusPublisher({}, 5).revision > 1_600_000_000_000


async def test_who_waits_is_woken_by_the_next_revision_and_by_no_other():
    board = StatusPublisher({"status": None})
    woken = []

    async def wait(since):
        woken.append(await board.wait(since, 30))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait(board.revision))
        tasks.create_task(wait(board.revision - 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert woken == [True]
        board.show({"status": "doing"})
    assert woken == [True, True]
    assert not await board.wait(board.revision, 0)


async def test_who_waits_is_let_go_when_the_daemon_stops_and_nobody_waits_after_that():
    board = StatusPublisher({"status": None})
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(board.wait(board.revision, 3600))
        await asyncio.sleep(0)
        board.close()
    assert waiting.result() is False
    assert not await board.wait(board.revision, 3600)
    assert await board.wait(board.revision - 1, 3600), "what is new is told all the same"


async def test_a_subscriber_is_told_what_is_there_first_and_a_slow_one_is_let_go():
    board = StatusPublisher({"status": None})
    with board.subscribe() as quick, board.subscribe() as slow:
        assert (await quick.get()).event == "status"
        for number in range(MAX_QUEUED + 1):
            board.tell("note", {"text": str(number)})
            told = await quick.get()
            assert told.payload.endswith(b'event: note\ndata: {"text": "%d"}\n\n' % number)
        while (told := slow.get_nowait()) is not None:
            pass
        assert slow.empty()
    board.close()
