"""A slot without a process: a journal in a directory of the test, and deployments that do what the test says."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agent.deploy.tracker import concluded, starting
from agent.errors import DeployError, JobCancelled
from agent.model.disk_state import DiskState
from agent.model.job import parse_job
from agent.model.seal import Seal
from agent.model.status import DOING
from agent.service.config.model import RebootConfig
from agent.service.jobs.journal import Journal
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.slot import Slot
from agent.service.jobs.store import JobStore
from agent.service.jobs.view import idle_document

DOCUMENT = {
    "URL": "https://a.example/x",
    "type": "raw",
    "httpHeader": [{"key": "Authorization", "value": "secret-value"}],
}
JOB = parse_job(DOCUMENT)
SEAL = Seal("/dev/sda", 100, 1, "0" * 64, 1, "0" * 64, f"sha256:{'1' * 64}")
NAME = "ns1"


class Deployment:
    """Claims its disk, waits until the test says how it goes on, seals, and is done or fails."""

    def __init__(self, listener, keep, entry):
        self.attempt = entry.attempt
        self._listener = listener
        self._keep = keep
        self._disk_state = entry.disk_state
        self._status = starting(JOB, NAME, attempt=entry.attempt, min_percent=entry.percent)
        self.claimed, self.over = asyncio.Event(), asyncio.Event()
        self._go_on: asyncio.Future[DeployError | None] = asyncio.get_running_loop().create_future()
        self.hangs = False
        """Does not stop when it is cancelled, until it is released."""
        self.lingers = False
        """Does not return when it has its outcome, until it is released."""
        self.released = asyncio.Event()

    def snapshot(self):
        return self._status

    def activity(self):
        return (self._status.status,)

    def succeed(self):
        self._go_on.set_result(None)

    def fail(self, error):
        """`error` ends it; one that is no DeployError is a fault of ours."""
        if isinstance(error, DeployError):
            self._go_on.set_result(error)
        else:
            self._go_on.set_exception(error)

    async def run(self):
        try:
            await self._claim()
            error = await self._go_on
            if error is None:
                await self._keep(SEAL)
                self._conclude(SEAL, DiskState.COMMITTED)
            else:
                self._conclude(error, DiskState.EMPTY)
            if self.lingers:
                await self.released.wait()
        except asyncio.CancelledError:
            if self.hangs:
                await self.released.wait()
            if self._status.status == DOING:
                self._conclude(JobCancelled(), self._disk_state)
            raise
        return self._status

    async def _claim(self):
        await self._keep(DiskState.UNKNOWN)
        self._disk_state = DiskState.UNKNOWN
        await self._keep(DiskState.EMPTY)
        self._disk_state = DiskState.EMPTY
        self.claimed.set()

    def _conclude(self, outcome, disk_state):
        self._status = concluded(JOB, NAME, attempt=self.attempt, outcome=outcome, disk_state=disk_state)
        self.over.set()


@dataclass
class Deployer:
    """Makes such deployments, and knows what the disk holds."""

    reboot: RebootConfig
    committed: bool | OSError = False
    launched: asyncio.Queue[Deployment] = field(default_factory=asyncio.Queue)
    prepare: Callable[[Deployment], None] = lambda _: None

    async def launch(self, job, listener, keep, entry):
        deployment = Deployment(listener, keep, entry)
        self.prepare(deployment)
        self.launched.put_nowait(deployment)
        return deployment

    async def is_committed(self, seal):
        if isinstance(self.committed, OSError):
            raise self.committed
        return self.committed

    def observe(self, event):
        pass


@dataclass
class Agent:
    """One agent on its journal."""

    slot: Slot
    publisher: StatusPublisher
    store: JobStore
    deployer: Deployer

    @property
    def document(self):
        """What clients see."""
        return self.publisher.document

    async def post(self, job_id=None, origin="api"):
        return await self.slot.post(DOCUMENT, JOB, job_id=job_id, origin=origin)

    async def until(self, holds, what):
        """Wait until what clients see is as wanted."""
        async with asyncio.timeout(20):
            while not holds(self.document):
                await self.publisher.wait(self.publisher.revision, 20)
        return self.document

    async def deploying(self):
        """Wait until the deployment has its disk."""
        async with asyncio.timeout(20):
            deployment = await self.deployer.launched.get()
            await deployment.claimed.wait()
        return deployment


@pytest.fixture
async def make_agent(tmp_path):
    """A function `make(committed=, prepare=, boot=, receipts=, **reboot)`: a context with an agent. It dies, as by a
    SIGKILL as far as the journal knows, where the block is left without a stop.
    """

    @asynccontextmanager
    async def make(*, committed=False, prepare=lambda _: None, boot="this boot", receipts=None, **reboot):
        journal = Journal(tmp_path / "state", NAME)
        state, note = await journal.open()
        publisher = StatusPublisher(idle_document(NAME), state.revision)
        store = JobStore(journal, state, lambda: publisher.revision)
        deployer = Deployer(RebootConfig(**({"enabled": False} | reboot)), committed, prepare=prepare)
        try:
            async with asyncio.TaskGroup() as tasks:
                slot = Slot(
                    server_name=NAME,
                    store=store,
                    publisher=publisher,
                    deployer=deployer,
                    tasks=tasks,
                    boot_id=boot,
                    receipts=receipts,
                )
                await slot.resume(note)
                async with slot:
                    yield Agent(slot, publisher, store, deployer)
        finally:
            journal.close()

    return make
