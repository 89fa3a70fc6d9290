"""The daemon put together: slot, status, application, control plane and watchdog, under one TaskGroup."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from agent.aio import run_blocking
from agent.errors import Fault
from agent.model.events import DeployEvent, Finished, Listener, Noted, StageBegan, StageEnded
from agent.model.job import Job
from agent.model.seal import Seal
from agent.model.surroundings import configuration_member
from agent.service.api.app import Parts, make_app
from agent.service.api.auth import Authenticator
from agent.service.api.metrics import Metrics
from agent.service.config.model import Config, IronicConfig
from agent.service.http.request_body import BodyReader
from agent.service.http.server import Server, serve
from agent.service.http.sockets import ListeningSocket
from agent.service.jobs.audit import Failures
from agent.service.jobs.caller import AuthMethod
from agent.service.jobs.entry import JobEntry
from agent.service.jobs.journal import Journal, JournalState
from agent.service.jobs.lifecycle import Keep, Running
from agent.service.jobs.peer import Peer
from agent.service.jobs.publisher import StatusPublisher, event_teller
from agent.service.jobs.receipts import Receipts
from agent.service.jobs.slot import Slot
from agent.service.jobs.store import JobStore
from agent.service.jobs.view import idle_document
from agent.service.notify import Notifier, feed_watchdog, keep_status
from agent.service.rotation import Rotation
from agent.service.whereabouts import keep_agent, show_agent

if TYPE_CHECKING:
    from agent.service.control.poller import ControlClient
    from agent.service.ironic.front import IronicFront

log = structlog.get_logger(__name__)

RESTART_SECONDS = 5.0


class Daemon:
    """One daemon. `run` is called once."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        sockets: Sequence[ListeningSocket],
        stall_seconds: float,
        reread: Callable[[], Config],
        warnings: Sequence[Fault] = (),
    ) -> None:
        """Args:
        config: what is in force.
        journal: of this server, open.
        sockets: to be served on; closed at the end.
        stall_seconds: for how long a deployment may move nothing before the watchdog is no longer fed.
        reread: reads the configuration again, for `reload`; blocking. Raises ConfigInvalid.
        warnings: what is probably wrong with the configuration, to be shown.
        """
        self._warnings = tuple(warnings)
        self._reread = reread
        self._hangup = asyncio.Event()
        self._stall_seconds = stall_seconds
        self._config = config
        self._journal = journal
        self._sockets = tuple(sockets)
        self._notifier = Notifier()
        self._publisher = StatusPublisher(idle_document(config.service_name))
        self._metrics = Metrics()
        self._failures = Failures()
        self._bodies = BodyReader()
        self._receipts = Receipts(config.receipt.key)

    async def run(
        self,
        state: JournalState,
        note: str | None,
        stop: asyncio.Event,
        stop_seconds: float,
        abandon: Callable[[], NoReturn],
    ) -> None:
        """Serve until `stop` is set.

        Args:
            state: what the journal holds.
            note: what has to be told about a journal that was set aside.
            stop: is set by SIGTERM.
            stop_seconds: how long a deployment may take to stop.
            abandon: ends the process where a deployment hangs in the kernel and cannot be stopped.
        """
        if note:
            log.error("journal_set_aside", text=note)
        self._publisher = StatusPublisher(idle_document(self._config.service_name), state.revision)
        self._publisher.surround(controlPlane=None, ironic=None)
        self._show_configuration((), self._warnings)
        await show_agent(self._publisher, self._sockets)
        store = JobStore(self._journal, state, lambda: self._publisher.revision)
        async with asyncio.TaskGroup() as tasks:
            slot = self._make_slot(tasks, store)
            authenticator, client = self._make_authenticator(), self._make_client(slot)
            app = make_app(self._make_parts(slot, authenticator))
            app.on_shutdown.append(self._end_streams)
            await slot.resume(note)
            async with slot, serve(app, self._sockets, bad_certificate=self._bad_certificate) as server:
                rotation = Rotation(
                    self._config,
                    self._reread,
                    self._sockets,
                    authenticator,
                    client,
                    self._receipts,
                    self._show_configuration,
                )
                rotating = _always("reload", lambda: self._rotate(rotation, server))
                works = [*self._background(slot, store, client), rotating]
                background = [tasks.create_task(work) for work in works]
                self._notifier.send(READY="1")
                log.info("serving", on=[socket.name for socket in self._sockets])
                await stop.wait()
                self._notifier.send(STOPPING="1")
                log.info("stopping", deploying=slot.current.deploying)
                if not await slot.stop(stop_seconds):
                    for socket in self._sockets:
                        socket.close()
                    abandon()
                for task in background:
                    task.cancel()
        self._notifier.close()
        log.info("stopped")

    def _background(
        self, slot: Slot, store: JobStore, client: "ControlClient | None"
    ) -> Iterator[Coroutine[Any, Any, None]]:
        yield _always("status", lambda: keep_status(self._notifier, self._publisher))
        yield _always("watchdog", lambda: feed_watchdog(self._notifier, slot, self._stall_seconds))
        yield _always("warm-up", _warm_up)
        yield _always("journal", store.run)
        yield _always("audit", self._failures.run)
        yield _always("addresses", lambda: keep_agent(self._publisher, self._sockets))
        if client is not None:
            yield _always("control plane", client.run)
        if self._config.ironic is not None:
            yield _always("ironic", self._make_front(self._config.ironic, slot, store).run)

    def _show_configuration(self, faults: Sequence[Fault], warnings: Sequence[Fault]) -> None:
        self._publisher.surround(configuration=configuration_member(faults, warnings))

    def reload(self) -> None:
        """SIGHUP: take up certificates, tokens and secrets as they are now."""
        self._hangup.set()

    async def _rotate(self, rotation: Rotation, server: Server) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            await rotation.reload(server)

    def _bad_certificate(self, peer: Peer, reason: str) -> None:
        self._failures.failed(peer, AuthMethod.CERTIFICATE.value, reason)

    async def _end_streams(self, _: object) -> None:
        self._publisher.close()

    def _make_slot(self, tasks: asyncio.TaskGroup, store: JobStore) -> Slot:
        observers = (log_event, event_teller(self._publisher), self._metrics.listen)
        return Slot(
            server_name=self._config.service_name,
            store=store,
            publisher=self._publisher,
            deployer=_Deployer(self._config, observers),
            tasks=tasks,
            boot_id=_boot_id(),
            receipts=self._receipts,
        )

    def _make_authenticator(self) -> Authenticator:
        api = self._config.api
        return Authenticator(
            api.token,
            accept_client_certificates=api.client_ca is not None,
            ovh=api.ovh,
            bodies=self._bodies,
            failures=self._failures,
        )

    def _make_parts(self, slot: Slot, authenticator: Authenticator) -> Parts:
        return Parts(
            config=self._config,
            slot=slot,
            publisher=self._publisher,
            authenticator=authenticator,
            bodies=self._bodies,
            disks=self._disks,
            metrics=lambda: self._metrics.text(slot.current.last_status(), self._publisher.document),
            middlewares=(self._metrics.middleware,),
        )

    def _disks(self, contents: bool) -> dict[str, Any]:
        from agent.deploy.disks import inventory_document  # noqa: PLC0415 - pyudev and libparted are not light

        return inventory_document(self._config.disk_groups, contents=contents)

    def _make_client(self, slot: Slot) -> "ControlClient | None":
        config = self._config
        if config.control_plane is None:
            return None
        from agent.service.control.poller import ControlClient  # noqa: PLC0415 - only where one is configured

        return ControlClient(
            config.control_plane,
            config.service_name,
            slot,
            self._publisher,
            config.policy,
            outcome_refused=self._metrics.refuse_outcome,
            show_contact=lambda member: self._publisher.surround(controlPlane=member),
        )

    def _make_front(self, ironic: IronicConfig, slot: Slot, store: JobStore) -> "IronicFront":
        from agent.service.ironic.front import IronicFront  # noqa: PLC0415 - only where one is configured

        return IronicFront(self._config, ironic, slot, store, self._publisher, self._failures)


def log_event(event: DeployEvent) -> None:
    """One line for each stage, note and outcome."""
    match event:
        case StageBegan(stage):
            log.info("stage_began", stage=stage.value)
        case StageEnded(stage, seconds, failed):
            log.info("stage_ended", stage=stage.value, seconds=round(seconds, 3), failed=failed)
        case Noted(text):
            log.info("noted", text=text)
        case Finished(status):
            error = status.error or {}
            log.info(
                "finished",
                status=status.status,
                code=error.get("code"),
                message=status.message,
                detail=error.get("detail"),
                disk_state=error.get("diskState"),
                disk=status.disk["path"] if status.disk else None,
                bytes_downloaded=status.progress.bytes_downloaded,
            )


async def _always(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Keep something going: a fault in what only accompanies deployments must not end one."""
    while True:
        try:
            await work()
        except Exception as error:
            log.error("task_failed", task=what, exc_info=error)  # noqa: TRY400
            await asyncio.sleep(RESTART_SECONDS)
        else:
            return


async def _warm_up() -> None:
    for module in ("agent.deploy.runner", "agent.deploy.disks", "agent.transfer.http.source"):
        await run_blocking(importlib.import_module, module)


class _Deployer:
    """Makes deployments as the configuration has it. What they need is imported for the first of them."""

    def __init__(self, config: Config, observers: Sequence[Listener]) -> None:
        self._config = config
        self._observers = observers
        self.reboot = config.reboot

    async def launch(self, job: Job, listener: Listener, keep: Keep, entry: JobEntry) -> Running:
        """A deployment of this job; `entry` tells what the attempts before it have come to."""

        def make() -> Running:
            from agent.deploy.runner import Deployment  # noqa: PLC0415
            from agent.deploy.target import Options  # noqa: PLC0415

            options = Options(
                ca_file=self._config.download.ca_file,
                connections=self._config.download.connections,
                server_name=self._config.service_name,
                policy=self._config.policy,
                groups=self._config.disk_groups,
                trusted_keys=self._config.trust.keys,
            )
            return Deployment(
                job,
                options,
                listener,
                keep=keep,
                attempt=entry.attempt,
                min_percent=entry.percent,
                disk_state=entry.disk_state,
            )

        return await run_blocking(make)

    async def is_committed(self, seal: Seal) -> bool:
        """Whether the disk is as the seal says."""

        def look() -> bool:
            from agent.stages.commit import is_committed  # noqa: PLC0415 - only after a crash in the commit

            return is_committed(seal)

        return await run_blocking(look)

    def observe(self, event: DeployEvent) -> None:
        """Tell the log, the subscribers and the metrics."""
        for observer in self._observers:
            observer(event)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
