"""The control-plane client: asks for jobs where nobody can reach the server, and reports what becomes of them.

Two loops that do not know of each other. One asks for a job whenever the slot is free. The other looks at the status
and pushes the newest document of the job that came from the control plane: at each change of stage, else every few
seconds, until the outcome has been taken. Documents in between are dropped, never queued, so a control plane that is
down for an hour is told the last state when it is back. Neither loop ever slows a deployment or fails one; all they do
to the slot is post, cancel and erase.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog

from agent.aio import run_blocking, run_together
from agent.errors import DeployError, JobInvalid, JobTaken, StateUnusable
from agent.model.disk_state import DiskState, with_disk_state
from agent.model.job import Job, parse_job
from agent.model.job_text import shortened
from agent.model.policy import Policy, require_allowed
from agent.model.status import DOING, timestamp
from agent.model.surroundings import Trouble
from agent.service.config.model import ControlPlaneConfig
from agent.service.contact import Contact, Show
from agent.service.control.answers import Action, ControlFault, Offer
from agent.service.control.client import ControlPlaneApi, tls_context
from agent.service.jobs.audit import Act, acted
from agent.service.jobs.caller import AuthMethod, Caller
from agent.service.jobs.outcomes import with_receipt
from agent.service.jobs.peer import Peer
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.refusals import RebootOrdered, SlotClosing, SlotTaken, StillCancelling
from agent.service.jobs.slot import Slot
from agent.transfer.retry import Backoff, BackoffLimits

log = structlog.get_logger(__name__)

# The longest back-off is short: a customer waits for what is told here.
BACKOFF = BackoffLimits(backoff_base=1.0, backoff_cap=30.0)
# How often an outcome is pushed that is refused for good, before the next job is asked for.
MAX_REFUSALS = 5
# A deployment that is slow to stop is reported on meanwhile.
CANCEL_SECONDS = 5.0

Sleep = Callable[[float], Awaitable[None]]


class _Backoff:
    """Waits between failures in a row: longer each time, with full jitter."""

    def __init__(self, what: str, rng: random.Random, sleep: Sleep, contact: Contact) -> None:
        self._what = what
        self._contact = contact
        self._sleep = sleep
        self._backoff = Backoff(BACKOFF, rng)

    def succeed(self) -> None:
        if self._backoff.failures:
            log.info("control_plane_back", what=self._what, failures=self._backoff.failures)
        self._backoff.succeed()
        self._contact.succeeded()

    async def wait(self, fault: ControlFault) -> None:
        delay = self._backoff.fail(fault.retry_after)
        failures = self._backoff.failures
        if failures in (1, 10) or failures % 100 == 0:
            log.warning("control_plane_fault", what=self._what, reason=str(fault), failures=failures)
        self._contact.failed(str(fault), fault.trouble, delay)
        await self._sleep(delay)


class ControlClient:
    """Asks and reports until it is cancelled."""

    def __init__(
        self,
        config: ControlPlaneConfig,
        service_name: str,
        slot: Slot,
        publisher: StatusPublisher,
        policy: Policy,
        *,
        outcome_refused: Callable[[], None],
        show_contact: Show,
        rng: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Nothing is asked yet.

        Args:
            config: the control plane.
            service_name: of this server.
            slot: where jobs go.
            publisher: where their statuses are.
            policy: what a job may ask for.
            outcome_refused: is called for each outcome that is set aside.
            show_contact: is told whenever the control plane begins or ceases to answer.
            rng: for jitter.
            sleep: waits so many seconds.
        """
        self._outcome_refused = outcome_refused
        self._refusals: Counter[str] = Counter()
        """Of outcomes, by the id of the job."""
        self._set_aside: set[str] = set()
        """Ids of jobs whose outcome the control plane will not take."""
        self._config = config
        self._contact = Contact(config.url, show_contact)
        self._caller = _caller_of(config)
        self._api: ControlPlaneApi | None = None
        self._noted: tuple[str, str] | None = None
        self._service_name = service_name
        self._slot = slot
        self._publisher = publisher
        self._policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._sleep = sleep

    async def run(self) -> None:
        """Ask for jobs and push statuses, for ever."""
        context = await run_blocking(tls_context, self._config)
        connector = aiohttp.TCPConnector(limit=4)
        async with aiohttp.ClientSession(connector=connector, trust_env=True) as session:
            self._api = api = ControlPlaneApi(self._config, self._service_name, session, context)
            await run_together(self._ask_for_jobs(api), self._report(api))

    async def renew(self, config: ControlPlaneConfig) -> None:
        """Go on with the token and the CA of this configuration; its URL and its times are not taken up."""
        context = await run_blocking(tls_context, config)
        self._config = replace(self._config, token=config.token, ca_file=config.ca_file)
        if self._api is not None:
            self._api.take(config.token, context)

    # -- asking ------------------------------------------------------------------------------------------

    async def _ask_for_jobs(self, api: ControlPlaneApi) -> None:
        backoff = _Backoff("asking for a job", self._rng, self._sleep, self._contact)
        while True:
            await self._until_free()
            began = time.monotonic()
            try:
                offer = await api.ask(self._config.poll_seconds)
                if offer is not None:
                    await self._take(api, offer)
            except ControlFault as fault:
                await backoff.wait(fault)
                continue
            backoff.succeed()
            # An answer that came at once is no reason to ask at once.
            rest = self._config.poll_seconds - (time.monotonic() - began)
            if rest > 0:
                await self._sleep(rest * self._rng.uniform(0.9, 1.1))

    async def _until_free(self) -> None:
        while not self._may_ask():
            await self._publisher.wait(self._publisher.revision, 1.0)

    def _may_ask(self) -> bool:
        """A next job would replace the last one's outcome: not before the control plane has that."""
        return self._slot.is_free and not self._has_news() and not self._slot.outcomes.undelivered

    async def _take(self, api: ControlPlaneApi, offer: Offer) -> None:
        if self._slot.was_taken(offer.id):
            await self._remind(api, offer)
            return
        try:
            job = await run_blocking(_read, offer, self._policy)
            await self._slot.post(offer.job, job, job_id=offer.id, origin="control")
            acted("accepted", self._caller, offer.id)
        except JobInvalid as error:
            await self._refuse(api, offer, error)
        except (SlotTaken, SlotClosing):
            pass  # somebody posted meanwhile: asked again when the slot is free
        except StateUnusable as error:
            raise ControlFault(str(error), trouble=Trouble.AGENT) from error

    async def _remind(self, api: ControlPlaneApi, offer: Offer) -> None:
        """A job is given again: the control plane has lost what it was told, or never knew that it had given it."""
        entry = self._slot.entry
        if entry is not None and entry.id == offer.id:
            await self._tell(api, self._publisher.document)
        else:
            await self._refuse(api, offer, JobTaken(id=offer.id))

    async def _refuse(self, api: ControlPlaneApi, offer: Offer, error: DeployError) -> None:
        """Tell the control plane why a job was not begun."""
        log.warning("job_refused", id=offer.id, code=error.code, message=shortened(error.message, 1000))
        told = error.document()
        if not isinstance(error, JobTaken):  # what that job did to the disk was told when it was over
            told = with_disk_state(told, DiskState.UNTOUCHED)
        now = timestamp(time.time())
        document: dict[str, Any] = {
            "servername": self._service_name,
            "status": "error",
            "message": error.message,
            "checksum": None,
            "id": offer.id,
            "percent": 0.0,
            "startedAt": now,
            "updatedAt": now,
            "finishedAt": now,
            "stages": [],
            "error": told,
        }
        await api.report(offer.id, document)

    # -- reporting ---------------------------------------------------------------------------------------

    async def _report(self, api: ControlPlaneApi) -> None:
        backoff = _Backoff("reporting a status", self._rng, self._sleep, self._contact)
        undelivered: Mapping[str, Any] | None = None
        while True:
            revision = self._publisher.revision
            # By turns, where there are both: neither keeps the control plane from hearing of the other.
            turn = undelivered is not None and self._has_news()
            undelivered = None if turn else next(iter(self._slot.outcomes.undelivered), None)
            document = undelivered or (self._publisher.document if self._has_news() else None)
            if document is None:
                await self._publisher.wait(revision, 3600)
                continue
            try:
                action = await self._tell(api, document)
            except ControlFault as fault:
                if undelivered is not None or document["status"] != DOING:
                    await self._note_not_taken(document, fault, undelivered)
                await backoff.wait(fault)
                continue
            backoff.succeed()
            if undelivered is not None:
                await self._slot.outcomes.delivered(undelivered)
                continue
            await self._obey(action, str(document["id"]), over=document["status"] != DOING)
            await self._pause(_milestone(document))

    async def _note_not_taken(
        self, outcome: Mapping[str, Any], fault: ControlFault, undelivered: Mapping[str, Any] | None
    ) -> None:
        """An outcome was not taken. One that never will be does not keep the next job waiting for ever."""
        job_id = str(outcome["id"])
        if undelivered is None:
            self._slot.outcomes.explain_unacknowledged(job_id, str(fault))
        if not fault.is_final:
            return
        self._refusals[job_id] += 1
        if self._refusals[job_id] < MAX_REFUSALS or (undelivered is None and self._slot.reboot_is_to_come):
            return  # where a reboot waits for it there is no next job
        log.error("outcome_refused", id=job_id, reason=str(fault), refusals=self._refusals[job_id])
        self._outcome_refused()
        if undelivered is not None:
            await self._slot.outcomes.delivered(undelivered)
            return
        text = f"The control plane does not take the outcome, it is set aside: {fault}."
        await self._slot.outcomes.note(job_id, text)
        self._set_aside.add(job_id)

    async def _tell(self, api: ControlPlaneApi, document: Mapping[str, Any]) -> Action:
        entry = self._slot.entry
        if document.get("status") != DOING and entry is not None and entry.id == document.get("id"):
            document = with_receipt(document, self._slot.receipt)
        try:
            return await api.report(str(document["id"]), document)
        except (ValueError, RecursionError) as error:
            reason = f"the status could not be sent: {type(error).__name__}"
            raise ControlFault(reason, trouble=Trouble.AGENT) from None

    def _has_news(self) -> bool:
        """Whether the control plane does not know yet how its job is."""
        entry = self._slot.entry
        if entry is None or entry.origin != "control":
            return False
        return not entry.acknowledged and entry.id not in self._set_aside

    async def _pause(self, told: tuple[object, ...]) -> None:
        """Until the next milestone, or for some seconds."""
        deadline = time.monotonic() + self._config.push_seconds
        while _milestone(self._publisher.document) == told and self._has_news():
            rest = deadline - time.monotonic()
            if rest <= 0 or not await self._publisher.wait(self._publisher.revision, rest):
                return

    def _note(self, act: Act, job_id: str) -> None:
        """Tell the log once, however often the control plane says it."""
        if self._noted != (act, job_id):
            self._noted = (act, job_id)
            acted(act, self._caller, job_id)

    async def _obey(self, action: Action, job_id: str, *, over: bool) -> None:
        try:
            match action:
                case Action.CONTINUE if over:
                    await self._slot.outcomes.acknowledge(job_id)
                case Action.CANCEL:
                    self._note("cancelled", job_id)
                    await self._slot.cancel(job_id, CANCEL_SECONDS)
                    if over:
                        await self._slot.outcomes.acknowledge(job_id)
                case Action.GONE:
                    self._note("erased", job_id)
                    await self._slot.erase(CANCEL_SECONDS, job_id=job_id, deliver=False)
                case _:
                    pass
        except RebootOrdered:
            log.warning("reboot_not_called_off", id=job_id, reason="the reboot had been ordered already")
            if over and action is Action.CANCEL:
                await self._slot.outcomes.acknowledge(job_id)
        except StillCancelling as waiting:
            log.warning("cancel_waits", reason=str(waiting))
        except StateUnusable as error:
            log.error("journal_failed", reason=str(error))  # noqa: TRY400 - the text says all


def _caller_of(config: ControlPlaneConfig) -> Caller:
    """The control plane, as the log names it."""
    url = urlsplit(config.url)
    peer = Peer(address=url.hostname or "", port=url.port or (443 if url.scheme == "https" else 80))
    return Caller(AuthMethod.CONTROL_PLANE, peer, "" if config.token is None else "control_plane.token")


def _milestone(document: Mapping[str, Any]) -> tuple[object, ...]:
    """What is told at once when it changes; all else can wait some seconds."""
    return tuple(document.get(key) for key in ("id", "status", "stage", "attempt", "message"))


def _read(offer: Offer, policy: Policy) -> Job:
    if offer.fault is not None:
        raise offer.fault
    job = parse_job(dict(offer.job))
    require_allowed(job, policy, remote=True)
    return job
