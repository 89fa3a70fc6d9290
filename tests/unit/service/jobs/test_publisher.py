"""The publisher of the status: revisions, those who wait, and those who listen too slowly."""

import asyncio
import json

from agent.service.jobs.publisher import MAX_QUEUED, REVISION_GAP, StatusPublisher


def test_only_what_says_anything_new_is_a_revision():
    publisher = StatusPublisher({"status": None})
    first = publisher.revision
    assert not publisher.show({"status": None, "updatedAt": "later"})
    assert publisher.revision == first
    assert publisher.show({"status": "doing", "updatedAt": "later"})
    assert publisher.revision == first + 1
    assert json.loads(publisher.encoded()) == {"status": "doing", "updatedAt": "later", "revision": first + 1}


def test_what_surrounds_the_deployment_is_in_every_document_from_then_on():
    publisher = StatusPublisher({"status": None})
    first = publisher.revision
    publisher.surround(agent={"version": "1"})
    publisher.surround(agent={"version": "1"})
    assert publisher.document == {"status": None, "agent": {"version": "1"}, "revision": first + 1}
    with publisher.subscribe() as subscription:
        publisher.show({"status": "doing"})
        publisher.surround(controlPlane=None)
        assert [json.loads(subscription.get_nowait().payload.partition(b"data: ")[2]) for _ in range(2)] == [
            {"status": None, "agent": {"version": "1"}, "revision": first + 1},
            {"status": "doing", "agent": {"version": "1"}, "controlPlane": None, "revision": first + 3},
        ]


def test_a_revision_is_encoded_once():
    publisher = StatusPublisher({"status": None})
    assert publisher.encoded() is publisher.encoded()


def test_revisions_begin_above_the_last_one_that_was_kept():
    ahead = 2**45
    assert StatusPublisher({}, ahead).revision == ahead + REVISION_GAP
    assert StatusPublisher({}, 5).revision > 1_600_000_000_000


async def test_who_waits_is_woken_by_the_next_revision_and_by_no_other():
    publisher = StatusPublisher({"status": None})
    woken = []

    async def wait(since):
        woken.append(await publisher.wait(since, 30))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait(publisher.revision))
        tasks.create_task(wait(publisher.revision - 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert woken == [True]
        publisher.show({"status": "doing"})
    assert woken == [True, True]
    assert not await publisher.wait(publisher.revision, 0)


async def test_who_waits_is_let_go_when_the_daemon_stops_and_nobody_waits_after_that():
    publisher = StatusPublisher({"status": None})
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(publisher.wait(publisher.revision, 3600))
        await asyncio.sleep(0)
        publisher.close()
    assert waiting.result() is False
    assert not await publisher.wait(publisher.revision, 3600)
    assert await publisher.wait(publisher.revision - 1, 3600), "what is new is told all the same"


async def test_a_subscriber_is_told_what_is_there_first_and_a_slow_one_is_let_go():
    publisher = StatusPublisher({"status": None})
    with publisher.subscribe() as quick, publisher.subscribe() as slow:
        assert (await quick.get()).event == "status"
        for number in range(MAX_QUEUED + 1):
            publisher.tell("note", {"text": str(number)})
            told = await quick.get()
            assert told.payload.endswith(b'event: note\ndata: {"text": "%d"}\n\n' % number)
        while (told := slow.get_nowait()) is not None:
            pass
        assert slow.empty()
    publisher.close()
