"""Handing the server over: after `done`, wait until the control plane knows, then reboot into the user's system.

The order is the contract: the outcome is durable first, then it is seen (polled, or pushed and acknowledged) or the
grace time is over, then everything is synced, then the journal says that the reboot is ordered, then the reboot command
runs. A server that reboots before its `done` was seen looks like one that vanished; one whose agent died while it went
down is not rebooted a second time on its way up.

Owned by a life, one for each deployment that is done. Cancelled while it waits, it leaves nothing behind and can be run
again; the command itself is never cut.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any

from agent.aio import run_blocking
from agent.lean import structlog
from agent.model.status import timestamp
from agent.service.config import Reboot

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


class HandOverState(StrEnum):
    """How far a hand-over is."""

    DISABLED = "disabled"
    WAITING = "waiting"
    DUE = "due"
    CALLED_OFF = "calledOff"
    FAILED = "failed"


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
        reboot: Reboot,
        changed: Callable[[], object],
        mark: Mark,
        *,
        ordered_at: float | None = None,
        run: Run = run_command,
        down_seconds: float = REBOOT_SECONDS,
    ) -> None:
        """Nothing happens yet.

        Args:
            reboot: whether, how and when.
            changed: is called whenever the document changes.
            mark: tells the next agent that the reboot is ordered.
            ordered_at: when an agent before this one ordered the reboot, in this boot of the server; None: it did not.
            run: runs the reboot command.
            down_seconds: how long the server may take to go down.
        """
        self._reboot = reboot
        self._changed = changed
        self._mark = mark
        self._run = run
        self._down_seconds = down_seconds
        self._inherited = ordered_at is not None
        self._is_seen = False
        self._seen: asyncio.Future[None] | None = None
        """Is done when the outcome has been seen; made by whoever waits for it."""
        self._deadline: float | None = None
        self.state = HandOverState.WAITING if reboot.enabled else HandOverState.DISABLED
        if self._inherited:
            self.state = HandOverState.DUE
        self.reason: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether no reboot is to come."""
        return self.state not in (HandOverState.WAITING, HandOverState.DUE)

    @property
    def is_due(self) -> bool:
        """Whether the reboot has been ordered and cannot be called off any more."""
        return self.state is HandOverState.DUE

    def see(self) -> None:
        """The control plane knows the outcome."""
        self._is_seen = True
        if self._seen is not None and not self._seen.done():
            self._seen.set_result(None)

    def call_off(self) -> None:
        """The reboot will not be; the server stays in rescue. Nothing where that is settled already."""
        if self.state is HandOverState.WAITING:
            self._enter(HandOverState.CALLED_OFF)

    def document(self) -> dict[str, Any]:
        """The member `reboot` of the status document."""
        waiting = self.state is HandOverState.WAITING and self._deadline is not None
        return {
            "state": self.state.value,
            "at": timestamp(self._deadline) if waiting and self._deadline is not None else None,
            "reason": self.reason,
        }

    async def run(self) -> None:
        """Wait, sync, reboot; returns when no reboot is to come, at once where there is none.

        After a cancellation it can be run again, and goes on where it was.
        """
        if self.state is HandOverState.WAITING:
            await self._until_seen(self._reboot.grace_seconds)
            await sync_all()
            await self._order()
        if self.is_due:
            await asyncio.sleep(self._down_seconds)  # from here on this process waits for its end
            self._fail(self._still_up())

    async def _until_seen(self, seconds: float) -> None:
        self._deadline = time.time() + seconds
        self._changed()
        if not self._is_seen:
            self._seen = asyncio.get_running_loop().create_future()
            # Not asyncio.timeout: where a cancellation of long ago is still counted in the task, it ends in another.
            await asyncio.wait((self._seen,), timeout=seconds)
        if self._is_seen:
            await asyncio.sleep(SETTLE_SECONDS)
        else:
            log.warning("handover_unseen", seconds=seconds)

    async def _order(self) -> None:
        if self.state is not HandOverState.WAITING:
            return  # it was called off meanwhile
        self._enter(HandOverState.DUE)
        if not await self._mark_ordered():
            # An agent that starts after the reboot would take the job for one that was interrupted.
            self._fail("the outcome cannot be written to the journal")
            return
        command = self._reboot.command
        log.info("rebooting", program=command[0])
        try:
            await self._run(command)
        except Exception as error:  # noqa: BLE001 - whatever it is, the deployment is done and the server is not rebooted
            self._fail(_reason(command[0], error))

    async def _mark_ordered(self) -> bool:
        try:
            return await self._mark(time.time())
        except asyncio.CancelledError:
            # The command has not begun: the next agent, or the next run, may order the reboot.
            await self._mark(None)
            self._enter(HandOverState.WAITING)
            raise

    def _still_up(self) -> str:
        program = self._reboot.command[0]
        if self._inherited:
            return f"the server is still up; an agent before this one ran {program}, which is not run twice in one boot"
        return f"the server is still up {self._down_seconds:.0f} s after {program}"

    def _fail(self, reason: str) -> None:
        log.error("reboot_failed", reason=reason)
        self.reason = reason
        self._enter(HandOverState.FAILED)

    def _enter(self, state: HandOverState) -> None:
        self.state = state
        self._changed()


def _reason(program: str, error: Exception) -> str:
    """Why a command failed, without its arguments: a password may be among them."""
    said = getattr(error, "stderr_tail", "")
    if said or hasattr(error, "argv"):
        return f"{program} failed{f': {said}' if said else ''}"
    return f"{program}: {getattr(error, 'strerror', None) or error}"
