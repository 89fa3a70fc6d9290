"""Commands: one at a time, durable before they begin, at their end whoever waits, and known to the next agent."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from agent.errors import DiskUnknown
from agent.service.ironic.image_info import error_members
from agent.service.ironic.messages import Order, Refusal
from agent.service.ironic.orders import Ability, OrderFailed, Orders
from agent.service.ironic.state import Command, CommandStatus
from agent.service.ironic.store import FrontStore
from agent.service.jobs.journal import Journal
from agent.service.jobs.store import JobStore

STEP = {"step": {"interface": "deploy", "step": "write_image", "args": {"configdrive": "secret"}}}


class Bench:
    """Orders over a journal in a directory of the test. The command `slow` ends when it is told to."""

    def __init__(self, journal, state, tasks, wait_seconds=30):
        self.journal = journal
        self.store = FrontStore(JobStore(journal, state, lambda: 0), retry_seconds=0.01)
        self.told = 0
        self.over = asyncio.Event()
        self.go_on = asyncio.Event()
        self.orders = Orders(
            self.store,
            {
                "a.quick": Ability(self.quick, at_once=True),
                "a.slow": Ability(self.slow),
                "a.step": Ability(self.slow, is_step=True),
                "a.broken": Ability(self.broken, at_once=True),
                "a.refused": Ability(self.refused, at_once=True),
                "a.crashed": Ability(self.crashed, at_once=True),
                "a.large": Ability(self.quick, at_once=True, is_kept=False),
            },
            tasks,
            begun=lambda: None,
            ended=self.tell,
            wait_seconds=wait_seconds,
        )

    def tell(self):
        self.told += 1
        self.over.set()

    async def quick(self, command, params):
        return {"got": params.get("x")}

    async def slow(self, command, params):
        await self.go_on.wait()
        return {"step": command.step}

    async def broken(self, command, params):
        raise OrderFailed(error_members("x.y", "It broke.", None, "Mend it."))

    async def refused(self, command, params):
        raise DiskUnknown(path="/dev/sdx")

    async def crashed(self, command, params):
        raise RuntimeError("with a secret")

    async def last(self):
        async with asyncio.timeout(5):
            await self.over.wait()
        return self.orders.listed()[-1]


@asynccontextmanager
async def bench(directory, **options):
    journal = Journal(directory / "state", "ironic")
    state, _ = await journal.open()
    try:
        async with asyncio.TaskGroup() as tasks:
            made = Bench(journal, state, tasks, **options)
            yield made
            await made.orders.end()
    finally:
        journal.close()


async def take(bench, name, *, wait=False, **params):
    return await bench.orders.take(Order(name, params), wait=wait)


async def test_what_is_answered_at_once_has_its_result_in_the_answer(tmp_path):
    async with bench(tmp_path) as made:
        answer = await take(made, "a.quick", x=1)
        assert (answer["command_status"], answer["command_result"]) == ("SUCCEEDED", {"got": 1})
        assert answer == made.orders.listed()[-1]
        assert made.told == 0  # whoever waited knows


async def test_a_long_one_runs_beside_and_tells_its_end(tmp_path):
    async with bench(tmp_path) as made:
        answer = await take(made, "a.step", **STEP)
        assert answer["command_status"] == "RUNNING"
        assert "secret" not in str(made.store.state.document())
        made.go_on.set()
        last = await made.last()
        assert last["command_result"] == {"step": {"interface": "deploy", "step": "write_image"}}
        assert (last["id"], made.told) == (answer["id"], 1)


async def test_no_end_is_told_before_the_journal_knows_it(tmp_path):
    async with bench(tmp_path) as made:
        await take(made, "a.slow")
        (tmp_path / "state").rename(tmp_path / "moved")
        made.go_on.set()
        await asyncio.sleep(0.05)
        assert made.orders.listed()[-1]["command_status"] == "RUNNING"
        with pytest.raises(Refusal) as caught:
            await take(made, "a.quick")
        assert caught.value.status == 409
        (tmp_path / "moved").rename(tmp_path / "state")
        assert (await made.last())["command_status"] == "SUCCEEDED"
    async with bench(tmp_path) as again:
        assert [command.status for command in again.store.state.commands] == [CommandStatus.SUCCEEDED]


async def test_what_the_journal_cannot_take_is_refused_and_not_begun(tmp_path):
    async with bench(tmp_path) as made:
        (tmp_path / "state").rename(tmp_path / "moved")
        with pytest.raises(Refusal, match="Command execution failed") as caught:
            await take(made, "a.slow")
        assert caught.value.status == 500
        assert made.orders.listed() == []
        (tmp_path / "moved").rename(tmp_path / "state")
        assert (await take(made, "a.quick"))["command_status"] == "SUCCEEDED"


async def test_memory_holds_what_the_journal_holds_though_the_change_was_cancelled(tmp_path):
    async with bench(tmp_path) as made:
        known = Command("1", "sync", CommandStatus.SUCCEEDED)
        change = asyncio.ensure_future(made.store.change(lambda state: state.with_command(known)))  # noqa: TID251
        await asyncio.sleep(0)  # the journal is being written
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        assert made.store.state.commands == (known,)


async def test_a_conductor_that_waits_gets_the_end(tmp_path):
    async with bench(tmp_path) as made:
        made.go_on.set()
        assert (await take(made, "a.slow", wait=True))["command_status"] == "SUCCEEDED"


async def test_a_conductor_whose_patience_would_end_is_told_the_end_later(tmp_path):
    async with bench(tmp_path, wait_seconds=0.01) as made:
        assert (await take(made, "a.slow", wait=True))["command_status"] == "RUNNING"
        made.go_on.set()
        assert (await made.last())["command_status"] == "SUCCEEDED"
        assert made.told == 1


async def test_a_second_one_is_refused_while_one_runs(tmp_path):
    async with bench(tmp_path) as made:
        await take(made, "a.slow")
        with pytest.raises(Refusal, match="Agent is busy: executing command slow") as caught:
            await take(made, "a.quick")
        assert caught.value.status == 409
        assert len(made.orders.listed()) == 1


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("a.broken", "x.y", "It broke. Mend it."),
        ("a.refused", "disk.unknown", "/dev/sdx"),
        ("a.crashed", "agent.internal", "RuntimeError"),
    ],
)
async def test_a_failure_tells_what_and_why_and_no_secret(tmp_path, name, kind, text):
    async with bench(tmp_path) as made:
        answer = await take(made, name)
        assert answer["command_status"] == "FAILED"
        assert answer["command_error"]["type"] == kind
        assert text in answer["command_error"]["details"]
        assert "with a secret" not in str(answer)


async def test_a_large_result_is_in_the_first_answer_only(tmp_path):
    async with bench(tmp_path) as made:
        assert (await take(made, "a.large", x=2))["command_result"] == {"got": 2}
        assert made.orders.listed()[-1]["command_result"] is None


async def test_an_unknown_command_and_an_unknown_id(tmp_path):
    async with bench(tmp_path) as made:
        with pytest.raises(Refusal, match="does not know"):
            await take(made, "a.nothing")
        with pytest.raises(Refusal) as caught:
            made.orders.find("x")
        assert caught.value.status == 404
        assert made.orders.listed() == []


async def test_one_that_was_cut_is_known_to_the_next_agent_as_failed(tmp_path):
    async with bench(tmp_path) as made:
        await take(made, "a.slow")
    async with bench(tmp_path) as again:
        await again.store.record(lambda state: state.after_restart(None))
        [command] = again.store.state.commands
        assert command.status is CommandStatus.FAILED


async def test_one_that_goes_on_is_taken_up_by_the_next_agent(tmp_path):
    async with bench(tmp_path) as made:
        answer = await take(made, "a.step", **STEP)
    async with bench(tmp_path) as again:
        again.go_on.set()
        again.orders.go_on(again.slow)
        last = await again.last()
        assert (last["id"], last["command_status"]) == (answer["id"], "SUCCEEDED")
        assert last["command_result"]["step"]["step"] == "write_image"
        assert again.told == 1
