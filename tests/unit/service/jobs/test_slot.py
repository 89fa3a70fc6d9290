"""The slot and the run of a job, without a process: every end in every order, and what the next agent makes of it."""

import asyncio
import base64
import json
from contextlib import suppress
from dataclasses import replace

import pytest

from agent.errors import ImageDownload, StateUnusable
from agent.model.seal import Seal, SealedDisk
from agent.service.jobs.entry import Phase
from agent.service.jobs.phases import MAX_ATTEMPTS
from agent.service.jobs.receipts import Receipts
from agent.service.jobs.refusals import SlotClosing, SlotTaken, StillCancelling

WAITING = {"enabled": True, "command": ("true",), "grace_seconds": 3600, "untold_seconds": 3600}


def is_over(document):
    return document["status"] in ("done", "error")


def stored(tmp_path):
    """The entry as the next agent finds it."""
    path = tmp_path / "state/journal.json"
    for _ in range(10):
        # The agent alone holds the lock. Whoever reads without it may have opened what became the spare file meanwhile.
        with suppress(ValueError):
            return json.loads(path.read_text())["entry"]
    return json.loads(path.read_text())["entry"]


def linger(deployment):
    deployment.lingers = True


def hang(deployment):
    deployment.hangs = True


async def has_outcome(deployment):
    """Let it be done, and wait until it is, though its task does not know yet."""
    deployment.succeed()
    await deployment.over.wait()


# -- a job ---------------------------------------------------------------------------------------------------


async def test_a_job_is_in_the_journal_when_it_is_accepted_and_its_outcome_when_it_is_told(
    make_agent, tmp_path
):
    async with make_agent() as agent:
        job_id = await agent.post()
        assert stored(tmp_path)["id"] == job_id
        assert (agent.document["id"], agent.document["status"]) == (job_id, "doing")
        (await agent.deploying()).succeed()
        await agent.until(is_over, "it is over")
        assert agent.document["status"] == "done"
        entry = stored(tmp_path)
        assert entry["status"]["status"] == "done"
        assert "secret-value" not in (tmp_path / "state/journal.json").read_text()


async def test_one_job_at_a_time_and_the_next_one_when_it_is_over(make_agent):
    async with make_agent() as agent:
        await agent.post()
        assert not agent.slot.is_free
        with pytest.raises(SlotTaken):
            await agent.post()
        (await agent.deploying()).fail(ImageDownload(url="https://a.example/x", detail="no"))
        await agent.until(is_over, "it is over")
        second = await agent.post()
        assert agent.document["id"] == second


async def test_of_many_posts_at_once_one_is_accepted(make_agent):
    async with make_agent() as agent:
        outcomes = []

        async def post():
            try:
                outcomes.append(await agent.post())
            except SlotTaken:
                outcomes.append(None)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(10):
                tasks.create_task(post())
        assert sum(outcome is not None for outcome in outcomes) == 1


async def test_a_fault_of_ours_is_the_job_s_error_and_the_slot_goes_on(make_agent):
    async with make_agent() as agent:
        await agent.post()
        (await agent.deploying()).fail(KeyError("secret"))
        await agent.until(is_over, "it is over")
        assert agent.document["error"]["code"] == "agent.internal"
        assert "secret" not in json.dumps(dict(agent.document))
        await agent.post()


# -- something else is done to the disks ---------------------------------------------------------------------

ERASING = ("Ironic has the disks erased", "wait for its end")


async def test_no_job_is_taken_while_something_else_is_done_to_the_disks_and_one_is_afterwards(make_agent):
    async with make_agent() as agent:
        async with agent.slot.occupied(*ERASING):
            assert not agent.slot.is_free
            assert "Ironic has the disks erased" in agent.document["notes"][-1]
            with pytest.raises(SlotTaken, match=r"^Ironic has the disks erased: wait for its end\.$"):
                await agent.post()
            with pytest.raises(SlotTaken, match="Ironic has the disks erased"):
                async with agent.slot.occupied("Another erasure", "wait"):
                    pass
            assert not agent.slot.is_free, "the one that was refused has freed nothing"
        assert agent.document["notes"] == []
        await agent.post()


async def test_nothing_else_is_done_to_the_disks_while_a_job_has_the_slot(make_agent):
    async with make_agent(**WAITING) as agent:
        await agent.post()
        with pytest.raises(SlotTaken, match="A deployment is under way"):
            async with agent.slot.occupied(*ERASING):
                pytest.fail("the disks are a deployment's")
        (await agent.deploying()).succeed()
        await agent.until(lambda document: document["reboot"] is not None, "it waits")
        with pytest.raises(SlotTaken, match="about to reboot"):
            async with agent.slot.occupied(*ERASING):
                pytest.fail("the server is about to reboot")


async def test_a_job_that_is_being_accepted_is_not_overtaken(make_agent):
    async with make_agent() as agent:
        posting = asyncio.ensure_future(agent.post())  # noqa: TID251
        await asyncio.sleep(0)  # the journal is being written
        with pytest.raises(SlotTaken):
            async with agent.slot.occupied(*ERASING):
                pytest.fail("a job is being accepted")
        await posting


async def test_the_slot_is_free_again_whatever_ends_what_was_done(make_agent):
    async with make_agent() as agent:
        with pytest.raises(OSError, match="it failed"):
            async with agent.slot.occupied(*ERASING):
                raise OSError("it failed")
        assert agent.slot.is_free
        assert await agent.slot.stop(10)
        with pytest.raises(SlotClosing):
            async with agent.slot.occupied(*ERASING):
                pytest.fail("the daemon stops")


async def test_an_outcome_is_told_and_its_job_erased_while_the_disks_are(make_agent):
    async with make_agent() as agent:
        await agent.post()
        (await agent.deploying()).succeed()
        await agent.until(is_over, "it is over")
        async with agent.slot.occupied(*ERASING):
            assert agent.document["status"] == "done"
            await agent.slot.erase()
            assert agent.document["status"] is None
            assert not agent.slot.is_free


# -- erase ---------------------------------------------------------------------------------------------------


async def test_an_erasure_stops_what_runs_and_says_what_is_left_of_the_disk(make_agent, tmp_path):
    async with make_agent() as agent:
        await agent.post()
        await agent.deploying()
        await agent.slot.erase()
        assert agent.slot.entry is None
        assert stored(tmp_path) is None
        assert agent.document["status"] is None
        assert "The disk is empty" in agent.document["notes"][0]
        await agent.post()


async def test_an_erasure_before_the_task_has_begun_erases_too(make_agent, tmp_path):
    async with make_agent() as agent:
        await agent.post()
        await agent.slot.erase()
        assert stored(tmp_path) is None
        assert "Nothing was written" in agent.document["notes"][0]


async def test_an_erasure_that_waits_for_a_disk_says_so_and_is_kept_when_the_disk_answers(
    make_agent, tmp_path
):
    async with make_agent(prepare=hang) as agent:
        await agent.post()
        deployment = await agent.deploying()
        with pytest.raises(StillCancelling, match="the disk has not finished an operation"):
            await agent.slot.erase(0.01)
        assert stored(tmp_path)["ending"] == "erase"
        assert agent.document["message"].startswith("Cancelling: ")
        assert not agent.slot.is_free
        deployment.released.set()
        await agent.until(lambda document: document["status"] is None, "it is erased")
        assert stored(tmp_path) is None


async def test_an_erasure_that_was_promised_is_kept_by_the_next_agent(make_agent):
    with suppress(ExceptionGroup):
        async with make_agent(prepare=hang) as agent:
            await agent.post()
            deployment = await agent.deploying()
            with pytest.raises(StillCancelling):
                await agent.slot.erase(0.01)
            agent.store._journal.close()  # from here on nothing it writes counts
            agent.store._journal.store = _refuse
            deployment.released.set()
    async with make_agent() as agent:
        assert agent.slot.entry is None
        assert agent.deployer.launched.empty()


async def _refuse(*_, **__):
    raise StateUnusable(path="/gone", reason="the agent is dead")


@pytest.mark.parametrize("end", ["erase", "cancel"])
async def test_an_end_that_the_journal_cannot_take_stops_the_deployment_all_the_same(
    make_agent, tmp_path, end
):
    async with make_agent() as agent:
        job_id = await agent.post()
        await agent.deploying()
        (tmp_path / "state").rename(tmp_path / "moved")
        if end == "erase":
            with pytest.raises(StateUnusable):
                await agent.slot.erase()
        else:
            await agent.slot.cancel(job_id)
        await agent.until(lambda document: "cannot be stored" in document["message"], "it has stopped")
        assert not agent.slot.current.deploying
        assert agent.document["status"] == "doing", "an outcome that is not stored is told to nobody"
        with pytest.raises(SlotTaken):
            await agent.post()
        (tmp_path / "moved").rename(tmp_path / "state")
        assert await agent.store.flush()
        assert agent.document["error"]["code"] == "job.cancelled"
        assert agent.document["error"]["diskState"] == "empty"


# -- cancel --------------------------------------------------------------------------------------------------


async def test_a_cancelled_job_says_so_and_what_is_left_of_the_disk(make_agent, tmp_path):
    async with make_agent() as agent:
        job_id = await agent.post(job_id="7", origin="control")
        await agent.deploying()
        await agent.slot.cancel(job_id)
        assert agent.document["error"]["code"] == "job.cancelled"
        assert agent.document["error"]["diskState"] == "empty"
        assert stored(tmp_path)["phase"] == "failed"


async def test_a_cancellation_before_the_task_has_begun_is_an_outcome_too(make_agent):
    async with make_agent() as agent:
        job_id = await agent.post()
        await agent.slot.cancel(job_id)
        assert agent.document["error"]["code"] == "job.cancelled"
        assert agent.document["error"]["diskState"] == "untouched"
        await agent.post()


async def test_a_job_whose_poster_was_cancelled_is_there_as_a_whole_and_can_be_cancelled(make_agent):
    async with make_agent() as agent:
        posting = asyncio.ensure_future(agent.post(job_id="7", origin="ironic"))  # noqa: TID251
        await asyncio.sleep(0)  # the journal is being written
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        assert agent.slot.entry is not None
        await agent.slot.cancel("7")
        assert agent.document["error"]["code"] == "job.cancelled"
        await agent.post()  # and the slot is free


async def test_what_ironic_ordered_before_a_reboot_is_not_begun_again(make_agent):
    async with make_agent(boot="before") as agent:
        await agent.post(job_id="7", origin="ironic")
        await agent.deploying()
    async with make_agent(boot="after") as agent:
        assert agent.document["error"]["code"] == "job.interrupted"
        assert "rebooted" in str(agent.document["error"])
        assert agent.document["error"]["diskState"] == "empty"
        await agent.post()  # the slot is free


async def test_what_ironic_ordered_goes_on_in_the_same_boot(make_agent):
    async with make_agent() as agent:
        await agent.post(job_id="7", origin="ironic")
        await agent.deploying()
    async with make_agent() as agent:
        assert (await agent.deploying()).attempt == 2


async def test_a_cancellation_of_another_job_does_nothing(make_agent):
    async with make_agent() as agent:
        await agent.post()
        deployment = await agent.deploying()
        await agent.slot.cancel("another")
        deployment.succeed()
        await agent.until(is_over, "it is over")
        assert agent.document["status"] == "done"


async def test_an_outcome_outranks_a_cancellation_that_comes_with_it(make_agent):
    async with make_agent(prepare=linger, **WAITING) as agent:
        job_id = await agent.post()
        await has_outcome(await agent.deploying())
        await agent.slot.cancel(job_id)
        assert agent.document["status"] == "done"
        assert agent.document["reboot"]["state"] == "calledOff"


async def test_a_job_that_is_done_and_cancelled_is_not_rebooted(make_agent, tmp_path):
    async with make_agent(**WAITING) as agent:
        job_id = await agent.post()
        (await agent.deploying()).succeed()
        await agent.until(lambda document: document["reboot"] is not None, "it waits")
        with pytest.raises(SlotTaken):
            await agent.post()
        await agent.slot.cancel(job_id)
        assert agent.document["status"] == "done"
        assert agent.document["reboot"]["state"] == "calledOff"
        assert stored(tmp_path)["phase"] == "closed"
        await agent.post()


# -- stop, and the next agent --------------------------------------------------------------------------------


async def test_a_stop_leaves_the_job_to_the_next_agent_which_begins_it_again(make_agent):
    async with make_agent() as agent:
        job_id = await agent.post()
        await agent.deploying()
        assert await agent.slot.stop(10)
        with pytest.raises(SlotClosing):
            await agent.post()
    async with make_agent() as agent:
        deployment = await agent.deploying()
        assert deployment.attempt == 2
        assert agent.document["id"] == job_id
        deployment.succeed()
        await agent.until(is_over, "it is over")
        assert agent.document["status"] == "done"


async def test_a_stop_that_a_disk_keeps_from_ending_says_so(make_agent):
    async with make_agent(prepare=hang) as agent:
        await agent.post()
        deployment = await agent.deploying()
        assert not await agent.slot.stop(0.01)
        deployment.released.set()


async def test_an_outcome_that_comes_while_the_agent_stops_is_kept(make_agent):
    async with make_agent(prepare=linger) as agent:
        await agent.post()
        await has_outcome(await agent.deploying())
        assert await agent.slot.stop(10)
    async with make_agent() as agent:
        assert agent.document["status"] == "done"
        assert agent.deployer.launched.empty()


async def test_a_job_that_agents_always_die_over_is_given_up(make_agent):
    attempts = []
    for _ in range(MAX_ATTEMPTS + 1):
        async with make_agent() as agent:
            if agent.slot.entry is None:
                await agent.post()
            if not is_over(agent.document):
                await asyncio.sleep(0)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        attempts.append((await agent.deploying()).attempt)
            await agent.slot.stop(10)
    assert attempts == list(range(1, MAX_ATTEMPTS + 1))
    async with make_agent() as agent:
        await agent.until(is_over, "it is given up")
        assert agent.document["error"]["code"] == "job.interrupted"
        assert f"{MAX_ATTEMPTS} attempts" in agent.document["error"]["message"]


async def _die_in_the_commit(make_agent, tmp_path, **members):
    """An agent whose journal says that the commit had begun."""
    async with make_agent(**WAITING) as agent:
        await agent.post()
        (await agent.deploying()).succeed()
        await agent.until(lambda document: document["reboot"] is not None, "it is done")
        await agent.slot.stop(10)
    path = tmp_path / "state/journal.json"
    state = json.loads(path.read_text())
    state["entry"] |= {"phase": "sealed", "status": None, **members}
    path.write_text(json.dumps(state))


async def test_a_commit_for_ironic_before_a_reboot_is_not_done_again_and_may_be_complete(
    make_agent, tmp_path
):
    await _die_in_the_commit(make_agent, tmp_path, origin="ironic")
    async with make_agent(boot="after") as agent:
        assert agent.document["error"]["code"] == "job.interrupted"
        assert agent.document["error"]["diskState"] == "unknown"


async def test_a_commit_that_was_complete_is_known_by_its_seal_and_not_done_again(make_agent, tmp_path):
    await _die_in_the_commit(make_agent, tmp_path)
    async with make_agent(committed=True, **WAITING) as agent:
        await agent.until(is_over, "it is known")
        assert agent.document["status"] == "done"
        assert any("found it complete" in note for note in agent.document["notes"])
        assert agent.document["reboot"]["state"] == "waiting"
        assert agent.deployer.launched.empty()


@pytest.mark.parametrize("found", [False, OSError(5, "Input/output error")])
async def test_a_commit_that_was_not_complete_or_cannot_be_looked_at_is_done_again(
    make_agent, tmp_path, found
):
    await _die_in_the_commit(make_agent, tmp_path)
    async with make_agent(committed=found) as agent:
        assert (await agent.deploying()).attempt == 2
        assert agent.slot.entry.phase is Phase.RUNNING


async def test_where_one_of_two_disks_was_committed_the_job_is_not_done_and_what_is_there_not_promised(
    make_agent, tmp_path
):
    disk = SealedDisk("/dev/sda", 100, 1, "0" * 64, 1, "0" * 64)
    two = Seal((disk, replace(disk, path="/dev/sdb")), "md5:x")
    await _die_in_the_commit(make_agent, tmp_path, seal=two.document(), ending="cancel")
    async with make_agent(committed=1, **WAITING) as agent:
        await agent.until(is_over, "it is over")
        assert agent.document["error"]["code"] == "job.cancelled"
        assert agent.document["error"]["diskState"] == "unknown"


@pytest.mark.parametrize(("committed", "status"), [(True, "done"), (False, "error")])
async def test_a_cancellation_that_was_promised_in_the_commit_is_kept_where_there_was_none(
    make_agent, tmp_path, committed, status
):
    await _die_in_the_commit(make_agent, tmp_path, ending="cancel")
    async with make_agent(committed=committed, **WAITING) as agent:
        await agent.until(is_over, "it is over")
        assert agent.document["status"] == status
        assert (agent.document["reboot"] or {}).get("state") == ("calledOff" if committed else None)
        assert agent.deployer.launched.empty()


async def test_an_erasure_that_was_promised_in_the_commit_is_kept_and_the_outcome_told(make_agent, tmp_path):
    await _die_in_the_commit(make_agent, tmp_path, ending="erase", origin="control")
    async with make_agent(committed=True) as agent:
        await agent.until(lambda document: document["status"] is None, "it is erased")
        (told,) = agent.slot.outcomes.undelivered
        assert told["status"] == "done"


async def test_the_boot_after_the_reboot_has_nothing_to_do(make_agent, tmp_path):
    await _die_in_the_commit(make_agent, tmp_path, phase="done", status={"status": "done", "notes": []})
    async with make_agent(boot="another boot", **WAITING) as agent:
        assert agent.slot.entry.phase is Phase.CLOSED
        assert agent.document["status"] == "done"
        assert agent.slot.is_free


# -- the control plane ---------------------------------------------------------------------------------------


async def test_what_the_control_plane_was_not_told_outlives_the_job(make_agent):
    async with make_agent() as agent:
        job_id = await agent.post(job_id="7", origin="control")
        await agent.deploying()
        await agent.slot.erase(job_id=job_id)
        assert agent.slot.was_taken("7")
    async with make_agent() as agent:
        assert agent.slot.was_taken("7")
        (status,) = agent.slot.outcomes.undelivered
        assert (status["id"], status["error"]["code"]) == ("7", "job.cancelled")
        await agent.slot.outcomes.delivered(status)
        assert agent.slot.outcomes.undelivered == ()


@pytest.mark.parametrize("how", ["acknowledged", "not to be told", "of the API"])
async def test_what_it_knows_or_need_not_know_is_not_kept(make_agent, how):
    async with make_agent() as agent:
        job_id = await agent.post(job_id="7", origin="api" if how == "of the API" else "control")
        (await agent.deploying()).fail(ImageDownload(url="https://a.example/x", detail="no"))
        await agent.until(is_over, "it is over")
        if how == "acknowledged":
            await agent.slot.outcomes.acknowledge(job_id)
        await agent.slot.erase(deliver=how != "not to be told")
        assert agent.slot.outcomes.undelivered == ()


async def test_a_note_is_added_to_an_outcome_once_and_to_nothing_else(make_agent, tmp_path):
    async with make_agent() as agent:
        job_id = await agent.post()
        deployment = await agent.deploying()
        await agent.slot.outcomes.note(job_id, "too early")
        deployment.succeed()
        await agent.until(is_over, "it is over")
        for _ in range(2):
            await agent.slot.outcomes.note(job_id, "set aside")
        assert agent.document["notes"] == stored(tmp_path)["status"]["notes"] == ["set aside"]


# -- receipts ------------------------------------------------------------------------------------------------


def statement_of(receipt):
    return json.loads(base64.b64decode(receipt["payload"]))


async def test_every_outcome_has_its_receipt_which_the_next_agent_has_too(make_agent, tmp_path):
    async with make_agent() as agent:
        assert agent.slot.receipt is None
        job_id = await agent.post()
        deployment = await agent.deploying()
        assert agent.slot.receipt is None
        deployment.succeed()
        await agent.until(is_over, "it is over")
        kept = agent.slot.receipt
        told = statement_of(kept)["predicate"]
        assert (told["jobId"], told["outcome"]["status"], told["readBack"]) == (job_id, "done", "commit")
        assert stored(tmp_path)["receipt"] == kept
    async with make_agent() as agent:
        assert agent.slot.receipt == kept
        await agent.post()
        assert agent.slot.receipt is None
        (await agent.deploying()).fail(ImageDownload(url="https://a.example/x"))
        await agent.until(is_over, "it is over")
        told = statement_of(agent.slot.receipt)["predicate"]
        assert told["outcome"]["error"]["code"] == "image.download"
        await agent.slot.erase()
        assert agent.slot.receipt is None
        assert "payload" not in (tmp_path / "state/journal.json").read_text()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_job_that_was_cancelled_has_a_receipt_as_well(make_agent, begun):
    async with make_agent() as agent:
        job_id = await agent.post()
        if begun:
            await agent.deploying()
        await agent.slot.cancel(job_id)
        told = statement_of(agent.slot.receipt)["predicate"]
        assert told["outcome"]["error"]["code"] == "job.cancelled"


async def test_a_commit_that_the_last_agent_died_in_has_a_receipt_by_the_next_one(make_agent, tmp_path):
    await _die_in_the_commit(make_agent, tmp_path, receipt=None)
    async with make_agent(committed=True) as agent:
        await agent.until(is_over, "it is over")
        statement = statement_of(agent.slot.receipt)
        assert statement["subject"][0]["digest"] == {"sha256": "1" * 64}
        assert statement["predicate"]["outcome"]["diskState"] == "committed"


async def test_an_outcome_that_an_agent_without_receipts_has_left_gets_one(make_agent, tmp_path):
    async with make_agent() as agent:
        await agent.post()
        (await agent.deploying()).succeed()
        await agent.until(is_over, "it is over")
    path = tmp_path / "state/journal.json"
    book = json.loads(path.read_text())
    del book["entry"]["receipt"]
    path.write_text(json.dumps(book))
    async with make_agent() as agent:
        assert statement_of(agent.slot.receipt)["predicate"]["outcome"]["status"] == "done"


async def test_a_key_that_cannot_be_used_costs_the_signature_and_a_note_and_nothing_else(make_agent):
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIE\n-----END PRIVATE KEY-----\n"
    async with make_agent(receipts=Receipts(pem)) as agent:
        await agent.post()
        (await agent.deploying()).succeed()
        done = await agent.until(is_over, "it is over")
        assert done["status"] == "done"
        assert "the receipt is not signed" in done["notes"][-1]
        assert agent.slot.receipt["signatures"] == []


async def test_what_the_control_plane_was_not_told_keeps_its_receipt(make_agent):
    async with make_agent() as agent:
        await agent.post("pulled", "control")
        (await agent.deploying()).succeed()
        await agent.until(is_over, "it is over")
        receipt = agent.slot.receipt
        await agent.slot.erase()
        assert [left["receipt"] for left in agent.slot.outcomes.undelivered] == [receipt]
