"""Handing the server over: after `done`, wait until the control plane knows, then reboot into the user's system.

The order is the contract: the outcome is durable first, then it is known to whoever gave the job, or the time for that
is over, then everything is synced, then the journal says that the reboot is ordered, then the reboot command runs. A
server that reboots before its `done` was known looks like one that vanished; one whose agent died while it went down is
not rebooted a second time on its way up.

Who posted a job may have gone away, so nobody is waited for long. A control plane that gave one is: what it has not
been told it will never know, for the journal lies in memory as a rule and goes with the rescue system.

Owned by a `JobRun`, one for each deployment that is done. Cancelled while it waits, it leaves nothing behind and can be
run again; the command itself is never cut.
"""

import asyncio
import contextlib
import errno
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any

import structlog

from agent.aio import run_blocking
from agent.model.status import timestamp
from agent.service.config.model import RebootConfig
from agent.service.jobs.phases import RebootEvent, RebootState, advance_reboot

log = structlog.get_logger(__name__)

# The answer that told a client of `done` has left the socket by then, and a second client may ask meanwhile.
SETTLE_SECONDS = 1.0
# Each disk that was written has been flushed already; another one that hangs must not keep the server.
SYNC_SECONDS = 30.0
COMMAND_SECONDS = 60.0
# How long a server may take to go down.
REBOOT_SECONDS = 300.0

Run = Callable[[Sequence[str]], Awaitable[None]]
Mark = Callable[[float | None], Awaitable[bool]]
"""Makes durable when the reboot was ordered (seconds since the epoch), or with None that it was not after all; False
where the journal cannot be written."""


class Awaited(StrEnum):
    """What a hand-over waits for."""

    CLIENT = "client"
    """Somebody who asks for the outcome."""
    CONTROL_PLANE = "controlPlane"
    """The answer to the push of the outcome."""
    SHUTDOWN = "shutdown"


def reboot_document(
    state: RebootState,
    *,
    at: float | None = None,
    reason: str | None = None,
    awaited: Awaited | None = None,
    since: float | None = None,
) -> dict[str, Any]:
    """The member `reboot` of the status document. Times are seconds since the epoch."""
    return {
        "state": state.value,
        "at": None if at is None else timestamp(at),
        "reason": reason,
        "waitingFor": None if awaited is None else awaited.value,
        "since": None if since is None else timestamp(since),
    }


async def run_command(command: Sequence[str]) -> None:
    """Run the reboot command.

    Raises:
        OSError, ToolMissing: it failed.
    """
    from agent.host import process  # noqa: PLC0415 - not needed to serve the socket

    await run_blocking(process.run, command, timeout=COMMAND_SECONDS)


async def sync_all() -> None:
    """Sync all filesystems, for as long as that is worth waiting for."""
    from agent.host import process  # noqa: PLC0415

    with contextlib.suppress(Exception):
        await run_blocking(process.run, ("sync",), timeout=SYNC_SECONDS)


class HandOver:
    """One hand-over."""

    def __init__(
        self,
        reboot: RebootConfig,
        changed: Callable[[], object],
        mark: Mark,
        *,
        pulled: bool = False,
        ordered_at: float | None = None,
        run: Run = run_command,
        down_seconds: float = REBOOT_SECONDS,
    ) -> None:
        """Nothing happens yet.

        Args:
            reboot: whether, how and when.
            changed: is called whenever the document changes.
            mark: tells the next agent that the reboot is ordered.
            pulled: whether the job came from the control plane, which then has to know of its outcome.
            ordered_at: when an agent before this one ordered the reboot, in this boot of the server; None: it did not.
            run: runs the reboot command.
            down_seconds: how long the server may take to go down.
        """
        self._reboot = reboot
        self._changed = changed
        self._mark = mark
        self._run = run
        self._down_seconds = down_seconds
        self._pulled = pulled
        self._inherited = ordered_at is not None
        self._is_known = False
        self._known: asyncio.Future[None] | None = None
        """Is done when the outcome is known; made by whoever waits for it."""
        self._deadline: float | None = None
        self._since = ordered_at
        self.state = RebootState.WAITING if reboot.enabled else RebootState.DISABLED
        if self._inherited:
            self.state = RebootState.ORDERED
        self.reason: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether no reboot is to come."""
        return self.state.is_settled

    @property
    def is_ordered(self) -> bool:
        """Whether the reboot has been ordered and cannot be called off any more."""
        return self.state is RebootState.ORDERED

    def confirm(self) -> None:
        """Whoever gave the job knows its outcome."""
        self._is_known = True
        if self._known is not None and not self._known.done():
            self._known.set_result(None)

    def explain(self, reason: str) -> None:
        """Why the outcome is not known yet."""
        if self.state is RebootState.WAITING and reason != self.reason:
            self.reason = reason
            self._changed()

    def call_off(self) -> None:
        """The reboot will not be; the server stays in rescue. Nothing where that is settled already."""
        if self.state is RebootState.WAITING:
            self._take(RebootEvent.CALL_OFF)

    def document(self) -> dict[str, Any]:
        """The member `reboot` of the status document."""
        awaited, at = None, None
        if self.state is RebootState.WAITING:
            awaited, at = (Awaited.CONTROL_PLANE if self._pulled else Awaited.CLIENT), self._deadline
        elif self.is_ordered:
            awaited = Awaited.SHUTDOWN
        return reboot_document(self.state, at=at, reason=self.reason, awaited=awaited, since=self._since)

    async def run(self) -> None:
        """Wait, sync, reboot; returns when no reboot is to come, at once where there is none.

        After a cancellation it can be run again, and goes on where it was.
        """
        if self.state is RebootState.WAITING:
            await self._until_known()
            await sync_all()
            await self._order()
        if self.is_ordered:
            await asyncio.sleep(self._down_seconds)  # from here on this process waits for its end
            self._fail(self._still_up())

    async def _until_known(self) -> None:
        seconds = self._reboot.untold_seconds if self._pulled else self._reboot.grace_seconds
        self._since = self._since or time.time()
        self._deadline = time.time() + seconds
        self._changed()
        if not self._is_known:
            self._known = asyncio.get_running_loop().create_future()
            # Not asyncio.timeout: where a cancellation of long ago is still counted in the task, it ends in another.
            await asyncio.wait((self._known,), timeout=seconds)
        if self._is_known:
            await asyncio.sleep(SETTLE_SECONDS)
        else:
            log.warning("handover_untold" if self._pulled else "handover_unseen", seconds=seconds)

    async def _order(self) -> None:
        if self.state is not RebootState.WAITING:
            return  # it was called off meanwhile
        self._take(RebootEvent.ORDER)
        if not await self._mark_ordered():
            # An agent that starts after the reboot would take the job for one that was interrupted.
            self._fail("the outcome cannot be written to the journal")
            return
        command = self._reboot.command
        log.info("rebooting", program=command[0])
        try:
            await self._run(command)
        except Exception as error:  # noqa: BLE001 - whatever it is, the deployment is done
            if getattr(error, "errno", None) == errno.ETIMEDOUT:
                log.warning("reboot_command_slow", program=command[0], seconds=COMMAND_SECONDS)
                return  # nobody knows whether the server goes down: it is waited for
            self._fail(_reason(command[0], error))

    async def _mark_ordered(self) -> bool:
        try:
            return await self._mark(time.time())
        except asyncio.CancelledError:
            # The command has not begun: the next agent, or the next run, may order the reboot.
            await self._mark(None)
            self._take(RebootEvent.WITHDRAW)
            raise

    def _still_up(self) -> str:
        program = self._reboot.command[0]
        if self._inherited:
            return f"the server is still up; an agent before this one ran {program}, which is not run twice in one boot"
        return f"the server is still up {self._down_seconds:.0f} s after {program}"

    def _fail(self, reason: str) -> None:
        log.error("reboot_failed", reason=reason)
        self._take(RebootEvent.FAIL, reason)

    def _take(self, event: RebootEvent, reason: str | None = None) -> None:
        self.state, self.reason, self._since = advance_reboot(self.state, event), reason, time.time()
        self._changed()


def _reason(program: str, error: Exception) -> str:
    """Why a command failed, without its arguments: a password may be among them."""
    said = getattr(error, "stderr_tail", "")
    if said or hasattr(error, "argv"):
        return f"{program} failed{f': {said}' if said else ''}"
    return f"{program}: {getattr(error, 'strerror', None) or error}"
