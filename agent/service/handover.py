"""Handing the server over: after `done`, wait until the control plane knows, then reboot into the user's system.

The order is the contract: the outcome is durable first, then it is seen (polled, or pushed and acknowledged) or the
grace time is over, then everything is synced, then the reboot command runs. A server that reboots before its `done` was
seen looks like one that vanished.

Owned by the slot, one for each deployment that is done. Cancelled while it waits, it leaves nothing behind; the
command itself is never cut.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any

import structlog

from agent.aio import run_blocking
from agent.errors import ToolMissing
from agent.model.status import timestamp
from agent.service.config import Reboot

log = structlog.get_logger(__name__)

# The answer that told a client of `done` has left the socket by then, and a second client may ask meanwhile.
SETTLE_SECONDS = 1.0
COMMAND_SECONDS = 60.0
# How long a server may take to go down.
REBOOT_SECONDS = 300.0

Run = Callable[[Sequence[str]], Awaitable[None]]


class HandOverState(StrEnum):
    """How far a hand-over is."""

    DISABLED = "disabled"
    WAITING = "waiting"
    DUE = "due"
    CALLED_OFF = "calledOff"
    FAILED = "failed"


async def run_command(command: Sequence[str]) -> None:
    """Sync all filesystems, then run the reboot command.

    Raises:
        OSError, ToolMissing: it failed.
    """
    from agent.host import process  # noqa: PLC0415 - not needed to serve the socket

    await run_blocking(os.sync)
    await run_blocking(process.run, command, timeout=COMMAND_SECONDS)


class HandOver:
    """One hand-over. `changed` is called whenever its document changes."""

    def __init__(self, reboot: Reboot, changed: Callable[[], object], run: Run = run_command) -> None:
        self._reboot = reboot
        self._changed = changed
        self._run = run
        self._seen = asyncio.Event()
        self._deadline: float | None = None
        self.state = HandOverState.WAITING if reboot.enabled else HandOverState.DISABLED
        self.reason: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether no reboot is to come."""
        return self.state not in (HandOverState.WAITING, HandOverState.DUE)

    def see(self) -> None:
        """The control plane knows the outcome."""
        self._seen.set()

    def call_off(self) -> None:
        """The reboot will not be; the server stays in rescue."""
        self.state = HandOverState.CALLED_OFF
        self._changed()

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
        if self.state is HandOverState.DISABLED:
            return
        self._deadline = time.time() + self._reboot.grace_seconds
        self._changed()
        try:
            async with asyncio.timeout(self._reboot.grace_seconds):
                await self._seen.wait()
            await asyncio.sleep(SETTLE_SECONDS)
        except TimeoutError:
            log.warning("handover_unseen", grace_seconds=self._reboot.grace_seconds)
        self.state = HandOverState.DUE
        self._changed()
        log.info("rebooting", command=list(self._reboot.command))
        try:
            await self._run(self._reboot.command)
        except (OSError, ToolMissing) as error:
            self._fail(str(error))
        else:
            await asyncio.sleep(REBOOT_SECONDS)  # from here on this process waits for its end
            self._fail(f"the server is still up {REBOOT_SECONDS:.0f} s after the reboot command")

    def _fail(self, reason: str) -> None:
        log.error("reboot_failed", reason=reason)
        self.state, self.reason = HandOverState.FAILED, reason
        self._changed()
