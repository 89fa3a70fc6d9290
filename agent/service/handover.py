"""Handing the server over: after `done`, wait until the control plane knows, then reboot into the user's system.

The order is the contract: the outcome is durable first, then it is seen (polled, or pushed and acknowledged) or the
grace time is over, then everything is synced, then the reboot command runs. A server that reboots before its `done` was
seen looks like one that vanished.

Owned by the slot, one for each deployment that is done. Cancelled while it waits, it leaves nothing behind; the
command itself is never cut.
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
# After which a server that was ordered to reboot would have told this process to end.
ORDER_SECONDS = 5.0

Run = Callable[[Sequence[str]], Awaitable[None]]


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
        durable: Callable[[], Awaitable[bool]],
        run: Run = run_command,
    ) -> None:
        """Nothing happens yet.

        Args:
            reboot: whether, how and when.
            changed: is called whenever the document changes.
            durable: makes sure that the outcome would be known to the next agent; False where it cannot.
            run: runs the reboot command.
        """
        self._reboot = reboot
        self._changed = changed
        self._durable = durable
        self._run = run
        self._seen = asyncio.Event()
        self._deadline: float | None = None
        self.state = HandOverState.WAITING if reboot.enabled else HandOverState.DISABLED
        self.reason: str | None = None
        self.ordered_at: float | None = None
        """When the command was begun (time.monotonic): a reboot cannot be called off any more."""

    @property
    def is_over(self) -> bool:
        """Whether no reboot is to come."""
        return self.state not in (HandOverState.WAITING, HandOverState.DUE)

    @property
    def is_due(self) -> bool:
        """Whether the reboot has been ordered and the server is about to go down."""
        return self.state is HandOverState.DUE

    def see(self) -> None:
        """The control plane knows the outcome."""
        self._seen.set()

    def call_off(self) -> None:
        """The reboot will not be; the server stays in rescue. Nothing where that is settled already."""
        if self.state is HandOverState.WAITING:
            self.state = HandOverState.CALLED_OFF
            self._changed()

    async def settle(self) -> None:
        """Return at once, or, if the reboot has been ordered, when the server would be going down by now."""
        if self.ordered_at is not None and self.is_due:
            await asyncio.sleep(max(0.0, self.ordered_at + ORDER_SECONDS - time.monotonic()))

    def document(self) -> dict[str, Any]:
        """The member `reboot` of the status document."""
        waiting = self.state is HandOverState.WAITING and self._deadline is not None
        return {
            "state": self.state.value,
            "at": timestamp(self._deadline) if waiting and self._deadline is not None else None,
            "reason": self.reason,
        }

    async def run(self) -> None:
        """Wait, sync, reboot; returns at once where rebooting is disabled."""
        if self.state is not HandOverState.WAITING:
            return
        self._deadline = time.time() + self._reboot.grace_seconds
        self._changed()
        try:
            async with asyncio.timeout(self._reboot.grace_seconds):
                await self._seen.wait()
            await asyncio.sleep(SETTLE_SECONDS)
        except TimeoutError:
            log.warning("handover_unseen", grace_seconds=self._reboot.grace_seconds)
        await sync_all()
        if not await self._durable():
            # An agent that starts after the reboot would take the job for one that was interrupted.
            self._fail("the outcome cannot be written to the journal")
        await self._order()

    async def _order(self) -> None:
        if self.state is not HandOverState.WAITING:
            return
        command = self._reboot.command
        self.state, self.ordered_at = HandOverState.DUE, time.monotonic()
        self._changed()
        log.info("rebooting", program=command[0])
        try:
            await self._run(command)
        except Exception as error:  # noqa: BLE001 - whatever it is, the deployment is done and the server is not rebooted
            self._fail(_reason(command[0], error))
        else:
            await asyncio.sleep(REBOOT_SECONDS)  # from here on this process waits for its end
            self._fail(f"the server is still up {REBOOT_SECONDS:.0f} s after {command[0]}")

    def _fail(self, reason: str) -> None:
        log.error("reboot_failed", reason=reason)
        self.state, self.reason = HandOverState.FAILED, reason
        self._changed()


def _reason(program: str, error: Exception) -> str:
    """Why a command failed, without its arguments: a password may be among them."""
    said = getattr(error, "stderr_tail", "")
    if said or hasattr(error, "argv"):
        return f"{program} failed{f': {said}' if said else ''}"
    return f"{program}: {getattr(error, 'strerror', None) or error}"
