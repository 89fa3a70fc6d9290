"""Disks that Ironic has erased, and jobs from elsewhere: whichever is first has the disks, the other is told so."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest

from agent.aio import run_blocking
from agent.model.policy import Policy
from agent.service.api.app import Parts, make_app
from agent.service.api.auth import Authenticator
from agent.service.config.model import Config
from agent.service.http.request_body import BodyReader
from agent.service.http.server import serve
from agent.service.http.sockets import listen_unix
from agent.service.ironic.orders import OrderFailed
from agent.service.ironic.state import Command
from agent.service.ironic.work import Work
from agent.service.jobs.audit import Failures
from tests.unit.service.jobs.conftest import DOCUMENT, NAME

ROUTE = f"/dedicated/server/{NAME}/bringYourOwnImage"
CLEAN = {"step": {"interface": "deploy", "step": "erase_devices"}, "node": {}}


class SlowMachine:
    """Its disks are erased when the test says so."""

    def __init__(self):
        self.begun, self.over = asyncio.Event(), asyncio.Event()

    async def erase(self, step, how):
        self.begun.set()
        await self.over.wait()
        return [{"path": "/dev/sda", "method": "overwritten"}]


@asynccontextmanager
async def api(agent, directory):
    """The API of this agent; a function that posts a job: status and document of the answer."""
    bodies = BodyReader()
    parts = Parts(
        config=Config(service_name=NAME),
        slot=agent.slot,
        publisher=agent.publisher,
        authenticator=Authenticator(
            None, accept_client_certificates=False, ovh=None, bodies=bodies, failures=Failures()
        ),
        bodies=bodies,
        disks=lambda _: {},
    )
    path = str(directory / "socket")
    async with (
        serve(make_app(parts), [await run_blocking(listen_unix, path)], shutdown_seconds=0.1),
        aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(path)) as session,
    ):

        async def post():
            async with session.post(ROUTE, json=DOCUMENT) as answer:
                return answer.status, await answer.json()

        yield post


def erase(agent, machine):
    """Order the disks erased, as the conductor does."""
    ability = Work(agent.slot, agent.publisher, Policy(), machine).abilities()["clean.execute_clean_step"]
    return ability.work(Command("c1", "execute_clean_step", step=CLEAN["step"]), CLEAN)


async def test_a_job_is_refused_at_once_while_disks_are_erased_and_taken_afterwards(make_agent, tmp_path):
    machine = SlowMachine()
    async with make_agent() as agent, api(agent, tmp_path) as post, asyncio.TaskGroup() as tasks:
        erasing = tasks.create_task(erase(agent, machine))
        await machine.begun.wait()
        status, document = await post()
        assert (status, document["errorCode"]) == (409, "TASK_ALREADY_EXISTS")
        assert document["message"].startswith("Ironic has the disks of this server erased (erase_devices)")
        assert not agent.slot.is_free  # so the control plane is not asked for a job
        assert "erase_devices" in agent.document["notes"][-1]
        machine.over.set()
        assert (await erasing)["clean_result"] == [{"path": "/dev/sda", "method": "overwritten"}]
        assert await post() == (200, None)


async def test_no_disk_is_erased_while_a_job_runs_and_the_conductor_is_told_what_runs(make_agent, tmp_path):
    machine = SlowMachine()
    async with make_agent() as agent, api(agent, tmp_path) as post:
        assert await post() == (200, None)
        with pytest.raises(OrderFailed) as failed:
            await erase(agent, machine)
        assert failed.value.error["type"] == "slot.taken"
        assert "A deployment is under way on this server" in failed.value.error["details"]
        assert not machine.begun.is_set()


async def test_the_slot_is_kept_until_an_erasure_that_was_aborted_has_left_the_disks(make_agent, tmp_path):
    machine = SlowMachine()

    async def leave_when_told(step, how):
        machine.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await machine.over.wait()  # as run_blocking waits for its thread

    machine.erase = leave_when_told
    async with make_agent() as agent, asyncio.TaskGroup() as tasks:
        erasing = tasks.create_task(erase(agent, machine))
        await machine.begun.wait()
        erasing.cancel()
        await asyncio.sleep(0)
        assert not agent.slot.is_free
        machine.over.set()
        await asyncio.wait({erasing})
        assert agent.slot.is_free
