"""The front's state in the journal: changed by one hand, and always after the journal."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from agent.service.ironic.state import FrontState
from agent.service.jobs.journal import JournalState
from agent.service.jobs.store import JobStore

log = structlog.get_logger(__name__)


class FrontStore:
    """The state of one front. All methods belong to the event loop."""

    def __init__(self, store: JobStore) -> None:
        """Begin with what the journal holds, and with nothing where that makes no sense."""
        self._store = store
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
            await self._store.change(_holding(state.document()))
            self.state = state

    async def record(self, change: Callable[[FrontState], FrontState]) -> None:
        """Change what has happened, be it that the journal cannot be written: it is tried again then."""
        async with self._lock:
            state = change(self.state)
            await self._store.impose(_holding(state.document()))
            self.state = state


def _holding(document: dict[str, Any]) -> Callable[[JournalState], JournalState]:
    return lambda journal: replace(journal, ironic=document)
