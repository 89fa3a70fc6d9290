"""The front for Ironic: looks its node up, listens for commands, and tells by heartbeats that it is here.

One after the other: the certificate and the listener, for a conductor calls back as soon as it is told where; then the
node is looked up until there is one; then heartbeats, until Ironic says that the token is void. That is the only way in
which an agent learns that its node was undeployed or aborted: what runs is stopped, the commands are forgotten, and the
node is looked up anew.

A heartbeat is a nudge: Ironic looks at the commands because of it, and drops it where it is busy with the node. So
after a command has ended it is repeated until the conductor is heard.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog

from agent.aio import run_blocking
from agent.errors import StateUnusable
from agent.host.addresses import address_towards
from agent.model.surroundings import Trouble
from agent.service.config.model import Config, IronicConfig
from agent.service.contact import Contact
from agent.service.http.server import serve
from agent.service.http.sockets import ListenError, ListeningSocket, listen_tcp
from agent.service.ironic.activity import activity
from agent.service.ironic.certificate import OwnCertificate, make_certificate
from agent.service.ironic.conductor import Conductor, NotYet, make_context
from agent.service.ironic.listener import LIMITS, make_app
from agent.service.ironic.machine import Machine
from agent.service.ironic.messages import ConductorFault, Lookup, TokenRefused
from agent.service.ironic.orders import Orders
from agent.service.ironic.state import FrontState
from agent.service.ironic.store import FrontStore
from agent.service.ironic.work import Work
from agent.service.jobs.audit import Failures
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.slot import RebootOrdered, Slot, StillCancelling
from agent.service.jobs.store import JobStore
from agent.transfer.retry import Backoff, BackoffLimits

log = structlog.get_logger(__name__)

BACKOFF = BackoffLimits(backoff_base=1.0, backoff_cap=10.0)
DEPLOYING_SECONDS = 30.0
"""Between two heartbeats while a command runs: so often an operator sees the percentage move."""
NEWS_SECONDS = 1.5
"""Between two heartbeats when a command has ended and the conductor has not asked yet."""
MAX_NEWS = 40
CANCEL_SECONDS = 30.0


class IronicFront:
    """The front of one agent. `run` is called once, in one task."""

    def __init__(
        self,
        config: Config,
        ironic: IronicConfig,
        slot: Slot,
        store: JobStore,
        publisher: StatusPublisher,
        failures: Failures,
        *,
        rng: random.Random | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            config: policy, disk groups, and the reboot command.
            ironic: where Ironic is.
            slot: where deployments go.
            store: of the journal.
            publisher: of the slot's status.
            failures: is told of callers without a right.
            rng: for jitter.
        """
        self._config = ironic
        self._slot = slot
        self._publisher = publisher
        self._failures = failures
        self._store = FrontStore(store)
        self._machine = Machine(config, ironic)
        self._work = Work(slot, publisher, config.policy, self._machine)
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._backoff = Backoff(BACKOFF, self._rng)
        self._member: Mapping[str, Any] = {}
        self._contact = Contact(", ".join(ironic.url), self._show)
        self._hurry = asyncio.Event()
        """Set when the next heartbeat should not wait."""
        self._news = 0
        """How many heartbeats are still sent in quick succession, for the conductor to look at the commands."""

    def _show(self, member: Mapping[str, Any]) -> None:
        self._member = member
        self._publisher.surround(ironic={**member, "node": self._store.state.node or None})

    # -- the listener ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be there for the conductor until cancelled, or until it has locked the agent down."""
        entry = self._slot.entry
        await self._store.record(lambda state: state.after_restart(None if entry is None else entry.id))
        certificate = await self._identity()
        listener = await self._listen(certificate)
        async with asyncio.TaskGroup() as tasks:
            orders = Orders(self._store, self._work.abilities(), tasks, ended=self._tell)
            app = make_app(orders, lambda: self._store.state.token, self._heard, self._failures)
            async with serve(app, [listener], LIMITS):
                try:
                    orders.go_on(self._work.go_on)
                    await self._attend(orders)
                finally:
                    self._machine.stop_erasing()
                    await orders.end()
        log.info("ironic_front_ended")

    async def _identity(self) -> OwnCertificate:
        """The address that the conductor is told, and a certificate for it; those of the last agent in this boot."""
        state = self._store.state
        if not state.certificate:
            address = self._config.advertise or await self._own_address()
            certificate, key = await run_blocking(make_certificate, address)
            state = replace(state, address=address, certificate=certificate, key=key)
            await self._store.record(lambda _: state)
        return await run_blocking(OwnCertificate, state.certificate, state.key)

    async def _own_address(self) -> str:
        host = urlsplit(self._config.url[0]).hostname or ""
        while True:
            try:
                return await run_blocking(address_towards, host)
            except OSError as error:
                reason = f"there is no route to {host}: {error.strerror}"
                await self._wait_after(ConductorFault(reason, trouble=Trouble.CONNECTION))

    async def _listen(self, certificate: OwnCertificate) -> ListeningSocket:
        host, port = self._config.listen
        port = port or self._store.state.port  # a conductor takes an agent on another one for an impostor
        while True:
            try:
                listener = await run_blocking(listen_tcp, "ironic.listen", host, port, certificate)
            except ListenError as error:
                await self._wait_after(ConductorFault(str(error), trouble=Trouble.AGENT))
            else:
                return await self._remember(listener)

    async def _remember(self, listener: ListeningSocket) -> ListeningSocket:
        await self._store.record(lambda state: replace(state, port=listener.port or 0))
        return listener

    # -- the node --------------------------------------------------------------------------------------------

    async def _attend(self, orders: Orders) -> None:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
            conductor = Conductor(self._config, session, await make_context(self._config))
            while not self._work.is_locked_down:
                try:
                    await self._find_node(conductor)
                    await self._beat(conductor)
                except TokenRefused as refused:
                    log.warning("ironic_token_refused", node=self._store.state.node, reason=str(refused))
                    await self._give_up(orders)
                except (ConductorFault, StateUnusable) as fault:
                    await self._wait_after(fault)

    async def _find_node(self, conductor: Conductor) -> None:
        """Have a node: the last agent's, the one that is being inspected, or the one that a lookup finds."""
        if self._store.state.node:
            return
        await conductor.find_version()
        lookup = await self._inspect(conductor)
        if lookup is None:
            lookup = await conductor.look_up(await run_blocking(self._machine.mac_addresses))
        log.info("ironic_node", node=lookup.node, heartbeat_seconds=lookup.heartbeat_seconds)
        found = lookup
        await self._store.change(
            lambda state: replace(
                state, node=found.node, token=found.token, heartbeat_seconds=found.heartbeat_seconds
            )
        )
        self._answered()

    async def _inspect(self, conductor: Conductor) -> Lookup | None:
        if self._config.inspection_url is None or self._store.state.inspected:
            return None
        lookup = await conductor.inspect(await run_blocking(self._machine.inventory))
        await self._store.record(lambda state: replace(state, inspected=True))
        return lookup

    async def _give_up(self, orders: Orders) -> None:
        """The token is void: stop what runs, and forget all commands."""
        running = self._store.state.running
        if running is not None:
            with suppress(RebootOrdered, StillCancelling):
                await self._slot.cancel(running.id, CANCEL_SECONDS)
            self._machine.stop_erasing()
            await orders.end()
        await self._store.record(FrontState.without_node)
        self._show(self._member)

    # -- heartbeats ------------------------------------------------------------------------------------------

    async def _beat(self, conductor: Conductor) -> None:
        """Send one heartbeat, and wait until the next is due."""
        state = self._store.state
        lookup = Lookup(state.node, state.token, state.heartbeat_seconds)
        doing = activity(state.commands[-1] if state.commands else None, self._publisher.document)
        self._hurry.clear()
        await conductor.heartbeat(lookup, _callback_url(state), state.certificate, doing)
        self._answered()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause()):
                await self._hurry.wait()

    def _pause(self) -> float:
        """Seconds until the next heartbeat."""
        if self._news > 0:
            self._news -= 1
            return NEWS_SECONDS * self._rng.uniform(0.8, 1.2)
        seconds = self._store.state.heartbeat_seconds * self._rng.uniform(0.3, 0.6)
        return seconds if self._store.state.running is None else min(seconds, DEPLOYING_SECONDS)

    def _tell(self) -> None:
        """A command has ended: the conductor does not look by itself."""
        self._news = MAX_NEWS
        self._hurry.set()

    def _heard(self) -> None:
        """The conductor has asked."""
        self._news = 0

    # -- contact ---------------------------------------------------------------------------------------------

    def _answered(self) -> None:
        self._backoff.succeed()
        self._contact.succeeded()
        if self._publisher.document.get("ironic", {}).get("node") != (self._store.state.node or None):
            self._show(self._member)

    async def _wait_after(self, fault: ConductorFault | StateUnusable) -> None:
        delay = self._backoff.fail()
        if not isinstance(fault, NotYet):
            trouble = fault.trouble if isinstance(fault, ConductorFault) else Trouble.AGENT
            if self._backoff.failures in (1, 10) or self._backoff.failures % 100 == 0:
                log.warning("ironic_fault", reason=str(fault), failures=self._backoff.failures)
            self._contact.failed(str(fault), trouble, delay)
        else:
            self._contact.succeeded()
        self._hurry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._hurry.wait()


def _callback_url(state: FrontState) -> str:
    host = f"[{state.address}]" if ":" in state.address else state.address
    return f"https://{host}:{state.port}"
