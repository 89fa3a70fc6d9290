"""The front's state in the journal: changed by one hand, and always after the journal."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from agent.errors import StateUnusable
from agent.service.ironic.state import FrontState
from agent.service.jobs.journal import JournalState
from agent.service.jobs.store import RETRY_SECONDS, JobStore

log = structlog.get_logger(__name__)


class FrontStore:
    """The state of one front. All methods belong to the event loop."""

    def __init__(self, store: JobStore, *, retry_seconds: float = RETRY_SECONDS) -> None:
        """Begin with what the journal holds, and with nothing where that makes no sense.

        Args:
            store: of the journal.
            retry_seconds: between two tries of `settle`.
        """
        self._store = store
        self._retry_seconds = retry_seconds
        self._lock = asyncio.Lock()
        self.state = FrontState()
        kept = store.state.ironic
        if kept is not None:
            try:
                self.state = FrontState.parse(kept)
            except ValueError as error:
                log.error("ironic_state_dropped", reason=str(error))  # noqa: TRY400 - the text says all

    async def change(self, change: Callable[[FrontState], FrontState]) -> None:
        """Change what is to happen only if the next agent knows of it.

        Raises:
            StateUnusable: the journal could not be written, and nothing has changed.
        """
        async with self._lock:
            state = change(self.state)
            document = state.document()
            try:
                await self._store.change(_holding(document))
            finally:
                if self._store.state.ironic is document:  # also where a cancellation has come meanwhile
                    self.state = state

    async def settle(self, change: Callable[[FrontState], FrontState]) -> None:
        """Change what may be told to nobody before the next agent knows of it, however long the journal takes."""
        while True:
            try:
                return await self.change(change)
            except StateUnusable as error:
                log.error("journal_failed", reason=str(error), hint=error.hint)  # noqa: TRY400 - the text says all
            await asyncio.sleep(self._retry_seconds)

    async def record(self, change: Callable[[FrontState], FrontState]) -> None:
        """Change what has happened, be it that the journal cannot be written: it is tried again then."""
        async with self._lock:
            state = change(self.state)
            await self._store.impose(_holding(state.document()))
            self.state = state


def _holding(document: dict[str, Any]) -> Callable[[JournalState], JournalState]:
    return lambda journal: replace(journal, ironic=document)
