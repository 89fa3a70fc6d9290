"""The front for Ironic: looks its node up, listens for commands, and tells by heartbeats that it is here.

One after the other: the certificate and the listener, for a conductor calls back as soon as it is told where; then the
node is looked up until there is one; then heartbeats, until Ironic says that the token is void. That is the only way in
which an agent learns that its node was undeployed or aborted: what runs is stopped, the commands are forgotten, and all
begins anew.

A heartbeat is a nudge: Ironic looks at the commands because of it, and drops it where it is busy with the node. So
after a command has ended it is repeated until the conductor is heard.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import structlog

from agent.aio import run_blocking
from agent.errors import DeployError, StateUnusable
from agent.host.addresses import address_towards
from agent.model.surroundings import Trouble
from agent.service.config.model import Config, IronicConfig
from agent.service.contact import Contact
from agent.service.http.server import serve
from agent.service.http.sockets import ListenError, ListeningSocket, listen_tcp
from agent.service.ironic.activity import activity, news_pause
from agent.service.ironic.certificate import OwnCertificate, make_certificate
from agent.service.ironic.conductor import (
    Conductor,
    InspectionRefused,
    NobodyInspects,
    NotYet,
    make_context,
)
from agent.service.ironic.listener import LIMITS, make_app
from agent.service.ironic.machine import Machine
from agent.service.ironic.messages import ConductorFault, Lookup, TokenRefused
from agent.service.ironic.orders import Orders
from agent.service.ironic.state import FrontState
from agent.service.ironic.store import FrontStore
from agent.service.ironic.work import Work
from agent.service.jobs.audit import Failures
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.refusals import RebootOrdered, StillCancelling
from agent.service.jobs.slot import Slot
from agent.service.jobs.store import JobStore
from agent.transfer.retry import Backoff, BackoffLimits

T = TypeVar("T")

log = structlog.get_logger(__name__)

EVERY_IPV4, EVERY_ADDRESS = "0.0.0.0", "::"  # noqa: S104 - the second takes IPv4 too
BACKOFF = BackoffLimits(backoff_base=1.0, backoff_cap=10.0)
DEPLOYING_SECONDS = 30.0
"""Between two heartbeats while a command runs: so often an operator sees the percentage move."""
BEGUN_SECONDS = 5.0
"""From a command's beginning to the next heartbeat, if the pause between two would not end sooner."""
MAX_NEWS = 40
REFUSED_SECONDS = 2.0
"""Between a refused token and the next lookup."""
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
        self._faults = 0
        """So many in a row; that a node is not known yet is none."""
        self._awaited = ""
        """Why Ironic had nothing for this machine when it was asked last."""
        self._member: Mapping[str, Any] = {}
        self._contact = Contact(", ".join(ironic.url), self._show)
        self._found: Lookup | None = None
        """A node that the journal does not know yet."""
        self._hurry = asyncio.Event()
        """Set when the next heartbeat should not wait."""
        self._patience: asyncio.Timeout | None = None
        """Of the pause between two heartbeats, while there is one."""
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
        while not self._work.is_locked_down:
            await self._serve()
        log.info("ironic_front_ended")

    async def _serve(self) -> None:
        """Be there for one node: without one the address may be another, and the certificate with it."""
        certificate = await self._until(self._identity)
        listener = await self._until(lambda: self._listen(certificate))
        async with asyncio.TaskGroup() as tasks:
            orders = Orders(self._store, self._work.abilities(), tasks, begun=self._begin, ended=self._tell)
            app = make_app(orders, lambda: self._store.state.token, self._heard, self._failures)
            async with serve(app, [listener], LIMITS):
                try:
                    orders.go_on(self._work.go_on)
                    await self._attend(orders)
                finally:
                    self._machine.stop_erasing()
                    await orders.end()

    async def _identity(self) -> OwnCertificate:
        """The address that the conductor is told, and a certificate for it; where there is a node, those that it knows.

        Raises:
            ConductorFault: there is no route to Ironic.
        """
        state = self._store.state
        if not state.node:
            address = self._config.advertise or await self._own_address()
            if address != state.address:
                certificate, key = await run_blocking(make_certificate, address)
                state = replace(state, address=address, certificate=certificate, key=key)
                await self._store.record(lambda _: state)
        return await run_blocking(OwnCertificate, state.certificate, state.key)

    async def _own_address(self) -> str:
        reasons = []
        for url in self._config.url:
            host = urlsplit(url).hostname or ""
            try:
                return await run_blocking(address_towards, host)
            except OSError as error:
                reasons.append(f"there is no route to {host}: {error.strerror or error}")
        raise ConductorFault("; ".join(reasons), trouble=Trouble.CONNECTION)

    async def _listen(self, certificate: OwnCertificate) -> ListeningSocket:
        """Listen, on the port of the last agent if the kernel has chosen it: another one is an impostor's.

        Raises:
            ConductorFault: the address is taken, or is not there yet.
        """
        host, port = self._config.listen
        if host == EVERY_IPV4 and ":" in self._store.state.address:
            host = EVERY_ADDRESS
        try:
            listener = await run_blocking(
                listen_tcp, "ironic.listen", host, port or self._store.state.port, certificate
            )
        except ListenError as error:
            raise ConductorFault(str(error), trouble=Trouble.AGENT) from error
        await self._store.record(lambda state: replace(state, port=listener.port or 0))
        return listener

    # -- the node --------------------------------------------------------------------------------------------

    async def _attend(self, orders: Orders) -> None:
        """Until the token is void, or the agent locked down."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
            context = await self._until(lambda: make_context(self._config))
            conductor = Conductor(self._config, session, context)
            while not self._work.is_locked_down:
                try:
                    await conductor.find_version()
                    await self._find_node(conductor)
                    await self._beat(conductor)
                except TokenRefused as refused:
                    log.warning("ironic_token_refused", node=self._store.state.node, reason=str(refused))
                    await self._give_up(orders)
                    # Ironic may give a node's token away and refuse it all the same.
                    await asyncio.sleep(REFUSED_SECONDS * self._rng.uniform(0.8, 1.2))
                    return
                except (ConductorFault, StateUnusable) as fault:
                    await self._wait_after(fault)

    async def _find_node(self, conductor: Conductor) -> None:
        """Have a node: the last agent's, the one that is being inspected, or the one that a lookup finds."""
        if self._store.state.node:
            return
        if self._found is None:
            self._found = await self._look_up(conductor)
            log.info("ironic_node", node=self._found.node, heartbeat_seconds=self._found.heartbeat_seconds)
        found = self._found
        # Before the conductor is told of an agent, the next one has to know the token: Ironic gives it away once.
        await self._store.change(
            lambda state: replace(
                state, node=found.node, token=found.token, heartbeat_seconds=found.heartbeat_seconds
            )
        )
        self._found = None
        self._answered()

    async def _look_up(self, conductor: Conductor) -> Lookup:
        try:
            found, refused = await self._inspect(conductor), None
        except (NobodyInspects, InspectionRefused) as fault:  # it may be about to be deployed all the same
            found, refused = None, fault
        if found is not None:
            return found
        try:
            return await conductor.look_up(await self._examined(self._machine.mac_addresses))
        except NotYet as unknown:
            if refused is None:
                raise
            if isinstance(refused, NobodyInspects):
                raise NotYet(f"{refused}. And {unknown}", trouble=unknown.trouble) from None
            raise refused from None

    async def _inspect(self, conductor: Conductor) -> Lookup | None:
        if self._config.inspection_url is None or self._store.state.inspected:
            return None
        lookup = await conductor.inspect(await self._examined(self._machine.inventory))
        await self._store.record(lambda state: replace(state, inspected=True))
        return lookup

    async def _examined(self, look: Callable[[], T]) -> T:
        try:
            return await run_blocking(look)
        except (OSError, DeployError) as error:
            raise ConductorFault(
                f"this machine cannot be looked at: {error}", trouble=Trouble.AGENT
            ) from error

    async def _give_up(self, orders: Orders) -> None:
        """The token is void: stop what runs, and forget all commands."""
        running = self._store.state.running
        self._machine.stop_erasing()
        await orders.end()  # first: it could still post its job
        if running is not None:
            with suppress(RebootOrdered, StillCancelling):
                await self._slot.cancel(running.id, CANCEL_SECONDS)
        self._news = 0
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
        try:
            async with asyncio.timeout(self._pause()) as self._patience:
                await self._hurry.wait()
        except TimeoutError:
            pass
        finally:
            self._patience = None

    def _pause(self) -> float:
        """Seconds until the next heartbeat."""
        if self._news > 0:
            self._news -= 1
            return news_pause(MAX_NEWS - self._news) * self._rng.uniform(0.8, 1.2)
        seconds = self._store.state.heartbeat_seconds * self._rng.uniform(0.3, 0.6)
        return seconds if self._store.state.running is None else min(seconds, DEPLOYING_SECONDS)

    def _begin(self) -> None:
        """A command has begun: the pause was chosen while there was nothing to tell, and may be minutes."""
        soon = asyncio.get_running_loop().time() + BEGUN_SECONDS
        if self._patience is not None and soon < (self._patience.when() or soon):
            self._patience.reschedule(soon)

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
        self._faults = 0
        self._awaited = ""
        self._contact.succeeded()
        if self._publisher.document.get("ironic", {}).get("node") != (self._store.state.node or None):
            self._show(self._member)

    async def _until(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that needs the network or a file, which may come later."""
        while True:
            try:
                return await work()
            except ConductorFault as fault:
                await self._wait_after(fault)

    async def _wait_after(self, fault: ConductorFault | StateUnusable) -> None:
        delay = self._backoff.fail()
        if isinstance(fault, NotYet):
            self._faults = 0
            if self._awaited != str(fault):
                log.info("ironic_waits", reason=str(fault))
            self._awaited = str(fault)
            self._contact.waits(str(fault), delay)
        else:
            trouble = fault.trouble if isinstance(fault, ConductorFault) else Trouble.AGENT
            self._faults += 1
            if self._faults in (1, 10) or self._faults % 100 == 0:
                log.warning("ironic_fault", reason=str(fault), failures=self._faults)
            self._contact.failed(str(fault), trouble, delay)
        self._hurry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._hurry.wait()


def _callback_url(state: FrontState) -> str:
    host = f"[{state.address}]" if ":" in state.address else state.address
    return f"https://{host}:{state.port}"
