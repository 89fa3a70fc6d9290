"""The inventory for many askers: read once at a time, in a thread of its own, and kept for a moment.

Reading it opens nothing and yet may take long: a disk that is dying, a udev that is busy. However many ask, one thread
is at it, and it is none of those that a deployment needs.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from agent.aio import run_apart

KEEP_SECONDS = 1.5
WAIT_SECONDS = 15.0


class InventoryHangs(Exception):
    """It has not come in time; whoever asks again waits for the same reading."""


class Inventory:
    """One inventory. Belongs to the event loop's thread."""

    def __init__(
        self,
        read: Callable[[], dict[str, Any]],
        *,
        keep_seconds: float = KEEP_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """Nothing is read yet.

        Args:
            read: makes the document; blocking.
            keep_seconds: for so long the last one is good enough.
            wait_seconds: for so long one is waited for.
        """
        self._read = read
        self._keep_seconds = keep_seconds
        self._wait_seconds = wait_seconds
        self._reading: asyncio.Future[tuple[dict[str, Any], float]] | None = None

    async def document(self) -> dict[str, Any]:
        """The inventory, from the last moments.

        Raises:
            InventoryHangs: it did not come in time.
            Exception: whatever reading it raised.
        """
        if self._reading is None or self._is_stale(self._reading):
            loop = asyncio.get_running_loop()
            self._reading = run_apart(lambda: (self._read(), loop.time()))
        # `wait` and not `wait_for`: the reading is of all who wait, and goes on if one of them leaves.
        done, _ = await asyncio.wait({self._reading}, timeout=self._wait_seconds)
        if not done:
            raise InventoryHangs
        document, _ = done.pop().result()
        return document

    def _is_stale(self, reading: "asyncio.Future[tuple[dict[str, Any], float]]") -> bool:
        if not reading.done():
            return False
        if reading.exception() is not None:
            return True
        _, read_at = reading.result()
        return asyncio.get_running_loop().time() - read_at >= self._keep_seconds
