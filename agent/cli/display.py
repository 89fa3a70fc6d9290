"""What a display of progress is. The displays are in `lines` and `bar`; `progress` picks the one that fits stderr."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from agent.aio import alongside
from agent.model.events import DeployEvent
from agent.model.status import Status

Snapshot = Callable[[], Status | None]
"""Gives the status as it is now; None where there is no deployment."""
Footer = Callable[[], tuple[str, ...]]
"""Gives the lines, printable, that stay on the screen as they are now: what is waited for, or an error."""


class Display(Protocol):
    """Shows a deployment: stage events as they come, progress by pulling snapshots."""

    def listen(self, event: DeployEvent) -> None:
        """Take an event of the deployment."""

    def keep_footer(self, footer: Footer) -> None:
        """Show these lines from now on in place of the ones before. They are asked for again at every refresh."""

    def following(self, snapshot: Snapshot) -> AbstractAsyncContextManager[None]:
        """Show progress while the block runs."""


def no_footer() -> tuple[str, ...]:
    """The footer of a display that was given none."""
    return ()


class Follower:
    """The base of displays that refresh themselves: calls `tick` every `interval_seconds` while a block runs."""

    interval_seconds: float

    def tick(self, snapshot: Snapshot) -> None:
        """Show the progress now."""
        raise NotImplementedError

    @asynccontextmanager
    async def following(self, snapshot: Snapshot) -> AsyncIterator[None]:
        """Tick while the block runs."""

        async def follow() -> None:
            while True:
                await asyncio.sleep(self.interval_seconds)
                self.tick(snapshot)

        async with alongside(follow()):
            yield
