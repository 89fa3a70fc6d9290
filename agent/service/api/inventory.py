"""The inventory of the disks for any number of requests: one reading at a time, whose result is kept for a moment.

A reading opens no disk, unless it has to tell what is on them, but may take long: udev may be busy, or a disk dying. It
runs in a thread of its own, which no deployment needs, and which nobody waits for at the end of the daemon.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from agent.aio import run_apart

KEEP_SECONDS = 1.5
"""For which a result is given to further requests."""
WAIT_SECONDS = 15.0
"""For which a request waits for a reading."""


class InventoryHangs(Exception):
    """The reading has not ended in time. It goes on: the next request waits for the same one."""


class Inventory:
    """The inventory of one daemon. Used on the event loop."""

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
            keep_seconds: see KEEP_SECONDS.
            wait_seconds: see WAIT_SECONDS.
        """
        self._read = read
        self._keep_seconds = keep_seconds
        self._wait_seconds = wait_seconds
        self._reading: asyncio.Future[tuple[dict[str, Any], float]] | None = None

    async def document(self) -> dict[str, Any]:
        """The inventory, at most `keep_seconds` old.

        Raises:
            InventoryHangs: `wait_seconds` are over.
            Exception: whatever the reading raised.
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
