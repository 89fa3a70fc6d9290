"""The hand-over: what it waits for, what ends it and what does not, and that the reboot is ordered once in a boot."""

import asyncio
import errno
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from agent.deploy.tracker import concluded, starting
from agent.errors import StateUnusable
from agent.model.disk_state import DiskState
from agent.model.job import parse_job
from agent.model.seal import Seal, SealedDisk
from agent.service.config.model import RebootConfig
from agent.service.jobs.entry import JobEntry, Phase
from agent.service.jobs.journal import Journal
from agent.service.jobs.phases import RebootState
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.reboot import HandOver
from agent.service.jobs.refusals import RebootOrdered, SlotTaken
from agent.service.jobs.slot import Slot
from agent.service.jobs.store import JobStore
from agent.service.jobs.view import idle_document

DOCUMENT = {"URL": "https://a.example/x", "type": "raw"}
JOB = parse_job(DOCUMENT)
SEAL = Seal((SealedDisk("/dev/sda", 100, 1, "0" * 64, 1, "0" * 64),), f"sha256:{'1' * 64}")


async def leave_a_cancellation_counted():
    """What a TaskGroup of Python 3.11.2 can leave behind: a cancellation that was caught and is still counted."""
    task = asyncio.current_task()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert task.cancelling() == 1


# -- by itself ---------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What a hand-over does to the world, in order."""

    acts: list[object] = field(default_factory=list)
    durable: bool = True
    exit: Exception | None = None

    async def mark(self, when):
        self.acts.append("unmarked" if when is None else "marked")
        return self.durable

    async def run(self, command):
        self.acts.append(command)
        if self.exit is not None:
            raise self.exit

    def hand_over(self, reboot, **more):
        return HandOver(reboot, lambda: None, self.mark, run=self.run, down_seconds=0.01, **more)


SOON = RebootConfig(command=("reboot-it", "--now"), grace_seconds=0.01)


async def test_the_reboot_is_marked_before_it_is_ordered_and_is_said_to_have_failed_where_the_server_stays():
    record = Record()
    hand_over = record.hand_over(SOON)
    await hand_over.run()
    assert record.acts == ["marked", SOON.command]
    assert hand_over.state is RebootState.FAILED
    assert hand_over.reason == "the server is still up 0 s after reboot-it"


async def test_a_reboot_that_cannot_be_marked_is_not_ordered():
    record = Record(durable=False)
    hand_over = record.hand_over(SOON)
    await hand_over.run()
    assert record.acts == ["marked"]
    assert (hand_over.state, hand_over.reason) == (
        RebootState.FAILED,
        "the outcome cannot be written to the journal",
    )


@pytest.mark.parametrize(
    ("exit_", "reason"),
    [
        (OSError(errno.ENOENT, "No such file or directory"), "reboot-it: No such file or directory"),
        (OSError(errno.ETIMEDOUT, "took longer than 60 s"), "the server is still up 0 s after reboot-it"),
    ],
)
async def test_a_command_that_was_too_slow_may_have_had_its_effect(exit_, reason):
    """The server may go down all the same: it is waited for, as after one that ended well."""
    record = Record(exit=exit_)
    hand_over = record.hand_over(SOON)
    await hand_over.run()
    assert (hand_over.state, hand_over.reason) == (RebootState.FAILED, reason)


async def test_a_reboot_that_an_agent_before_this_one_ordered_is_waited_for_and_not_ordered_again():
    record = Record()
    hand_over = record.hand_over(SOON, ordered_at=1.0)
    assert hand_over.is_ordered
    hand_over.call_off()
    assert hand_over.is_ordered, "it is too late for that"
    await hand_over.run()
    assert record.acts == []
    assert hand_over.state is RebootState.FAILED
    assert "before this one" in hand_over.reason


async def test_a_pulled_job_waits_for_its_control_plane_and_says_so_until_a_bound_of_its_own():
    record = Record()
    hand_over = record.hand_over(replace(SOON, grace_seconds=0, untold_seconds=3600), pulled=True)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hand_over.run())
        await asyncio.sleep(0.05)
        hand_over.explain("it cannot be reached")
        document = hand_over.document()
        assert (document["state"], document["waitingFor"]) == ("waiting", "controlPlane")
        assert document["reason"] == "it cannot be reached"
        assert document["since"] < document["at"]
        assert record.acts == []
        hand_over.confirm()
    assert record.acts == ["marked", SOON.command]
    record = Record()
    await record.hand_over(replace(SOON, grace_seconds=3600, untold_seconds=0.01), pulled=True).run()
    assert record.acts == ["marked", SOON.command]


async def test_one_that_is_cancelled_before_its_command_has_begun_takes_the_mark_back_and_can_be_run_again():
    record = Record()
    begun, go_on = asyncio.Event(), asyncio.Event()
    hand_over = record.hand_over(SOON)

    async def slow_mark(when):
        await record.mark(when)
        begun.set()
        await go_on.wait()
        return True

    hand_over._mark = slow_mark
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(hand_over.run())
        await begun.wait()
        task.cancel()
        go_on.set()
    assert record.acts == ["marked", "unmarked"]
    assert hand_over.state is RebootState.WAITING
    await hand_over.run()
    assert record.acts[2:] == ["marked", SOON.command]


async def test_a_task_with_a_cancellation_still_counted_hands_over_all_the_same():
    await leave_a_cancellation_counted()
    record = Record()
    await record.hand_over(SOON).run()
    asyncio.current_task().uncancel()
    assert record.acts == ["marked", SOON.command]


# -- in its slot -------------------------------------------------------------------------------------------------


class Deployed:
    """A deployment that is done at once, in a task that it leaves with a cancellation counted."""

    def __init__(self, keep):
        self._keep = keep
        self._status = starting(JOB, "ns1", attempt=1)

    def snapshot(self):
        return self._status

    def activity(self):
        return ()

    async def run(self):
        await leave_a_cancellation_counted()
        await self._keep(SEAL)
        self._status = concluded(JOB, "ns1", attempt=1, outcome=SEAL, disk_state=DiskState.COMMITTED)
        return self._status


class Deployer:
    """Makes such deployments, and reboots as `reboot` says."""

    def __init__(self, reboot):
        self.reboot = reboot

    async def launch(self, job, listener, keep, entry):
        return Deployed(keep)

    async def count_committed(self, seal):
        return len(seal.disks)

    def observe(self, event):
        pass


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
        state, _ = await journals[-1].open()
        publisher = StatusPublisher(idle_document("ns1"))
        store = JobStore(journals[-1], state, lambda: publisher.revision)
        command = ("sh", "-c", f"echo ordered >> {rebooted}")
        slot = Slot(
            server_name="ns1",
            store=store,
            publisher=publisher,
            deployer=Deployer(RebootConfig(command=command, **reboot)),
            tasks=tasks,
            boot_id="this boot",
        )
        await slot.resume()
        return slot

    yield make
    for journal in journals:
        journal.close()


async def until(slot, state):
    """Wait until the document has this state of the reboot."""
    async with asyncio.timeout(30):
        publisher = slot._view._publisher
        while (publisher.document["reboot"] or {}).get("state") != state:
            await publisher.wait(publisher.revision, 30)
    return publisher.document["reboot"]


async def until_run(rebooted):
    """Wait until the reboot command has run."""
    async with asyncio.timeout(30):
        while not rebooted.exists():  # noqa: ASYNC110 - a file tells nobody of itself
            await asyncio.sleep(0.01)


async def post(slot):
    return await slot.post(DOCUMENT, JOB, job_id=None, origin="api")


@asynccontextmanager
async def running(make_slot, **reboot):
    """A slot as the daemon has it, until the end of the daemon."""
    async with asyncio.TaskGroup() as tasks:
        slot = await make_slot(tasks, **reboot)
        async with slot:
            yield slot


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
            slot.current._task.cancel()
            await asyncio.sleep(0.01)
            with pytest.raises(SlotTaken):
                await post(slot)
            assert not slot.current._task.done()
        await slot.outcomes.see(job_id)
        await until_run(rebooted)
        with pytest.raises(SlotTaken):
            await post(slot)
        await slot.stop(30)
    assert rebooted.read_text() == "ordered\n"


async def test_the_life_ends_with_the_daemon_however_that_ends(make_slot):
    async def fail(slots):
        async with running(make_slot, grace_seconds=3600) as slot:
            slots.append(slot)
            await post(slot)
            await until(slot, "waiting")
            raise OSError("the daemon fails")

    with pytest.raises(ExceptionGroup):
        await fail(slots := [])
    (slot,) = slots
    assert slot.current._task.done()
    assert slot.entry.phase is Phase.DONE, "the next agent hands over"


async def test_a_deletion_or_a_cancellation_is_refused_once_the_reboot_is_ordered(make_slot):
    async with running(make_slot, grace_seconds=0) as slot:
        job_id = await post(slot)
        await until(slot, "due")
        before = slot.entry
        with pytest.raises(RebootOrdered):
            await slot.erase()
        with pytest.raises(RebootOrdered):
            await slot.cancel(job_id)
        assert slot.entry == replace(before, ordered_at=slot.entry.ordered_at)
        await slot.stop(30)


async def test_a_deletion_while_the_outcome_is_being_recorded_calls_the_reboot_off(make_slot, rebooted):
    """The hand-over begins after the deletion has looked for one, and before the deletion is in the journal."""
    async with running(make_slot, grace_seconds=0) as slot:
        await post(slot)
        async with slot._accepting:  # the deletion waits for this
            deletion = slot.current._tasks.create_task(slot.erase())
            await until(slot, "calledOff")
        await deletion
        assert slot.entry is None
    assert not rebooted.exists()


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


async def test_the_reboot_comes_though_the_journal_cannot_take_the_mark_any_more(
    make_slot, tmp_path, rebooted
):
    """The outcome is in the journal: a server that stays in rescue for good would be the greater harm."""
    async with running(make_slot, grace_seconds=3600) as slot:
        job_id = await post(slot)
        await until(slot, "waiting")
        await slot.outcomes.see(job_id)
        (tmp_path / "state").rename(tmp_path / "moved")
        await until(slot, "due")
        with pytest.raises(StateUnusable):
            await slot._store.change(lambda state: replace(state, taken=("another",)))
        (tmp_path / "moved").rename(tmp_path / "state")
        async with asyncio.timeout(60):
            while not rebooted.exists():  # noqa: ASYNC110 - a process makes it
                await asyncio.sleep(0.05)


def test_a_journal_without_the_mark_is_read():
    """One that an agent before this version wrote."""
    entry = JobEntry(id="1", origin="api", job=DOCUMENT, accepted_at=1.0)
    old = entry.document()
    del old["orderedAt"]
    assert JobEntry.parse(old) == entry
    assert JobEntry.parse(replace(entry, ordered_at=2.5).document()).ordered_at == 2.5
