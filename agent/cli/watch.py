"""Following the daemon's deployment: long polls in, stage events and lines out, through restarts of the daemon."""

import asyncio
import time
from collections.abc import Callable

from agent.cli.client import Client
from agent.cli.display import Display
from agent.cli.failures import Unreachable
from agent.cli.report import Report, changes
from agent.cli.words import footer_lines
from agent.model.disks import printable
from agent.model.status import Status

POLL_SECONDS = 30.0
RETRY_SECONDS = 1.0
# How long a daemon may be away, that systemd starts again, before somebody who waits for the end is told.
PATIENCE_SECONDS = 60.0


class Watcher:
    """Shows what the daemon does on a display. `run` is called once."""

    def __init__(
        self,
        client: Client,
        display: Display,
        *,
        forever: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._display = display
        self._forever = forever
        self._clock = clock
        self._report: Report | None = None
        self._lost_at: float | None = None

    async def run(self) -> Report:
        """Follow one deployment to its end, or all of them.

        Returns:
            The last report: of a deployment that is over, or of none where its state was erased while it was watched.

        Raises:
            ClientError: the daemon cannot be asked, or went away and did not come back.
        """
        async with self._display.following(self._status):
            while True:
                watched = self._report is not None and self._report.status is not None
                report = await self._next()
                self._show(report)
                over = watched if report.status is None else report.status.is_over
                if over and not self._forever:
                    return report

    def _status(self) -> Status | None:
        return None if self._report is None else self._report.status

    async def _next(self) -> Report:
        while True:
            since = None if self._report is None or self._lost_at is not None else self._report.revision
            began = self._clock()
            try:
                report = await self._client.report(since, POLL_SECONDS)
            except Unreachable as error:
                self._lose(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._lost_at = None
            if report.revision == since and self._clock() - began < RETRY_SECONDS:
                await asyncio.sleep(RETRY_SECONDS)  # a daemon that does not wait must not keep us busy
            return report

    def _lose(self, error: Unreachable) -> None:
        if self._lost_at is None:
            self._lost_at = self._clock()
        gone = self._clock() - self._lost_at
        if not self._forever and (self._report is None or gone > PATIENCE_SECONDS):
            raise error
        lines = (printable(error.message), *([printable(f"hint: {error.hint}")] if error.hint else []))
        self._display.keep_footer(lambda: lines)

    def _show(self, report: Report) -> None:
        before, self._report = self._report, report
        if report.status is not None:
            known = before.status if before is not None and before.id == report.id else None
            for event in changes(known, report.status):
                self._display.listen(event)
        if report.status is not None and not self._forever and report.status.is_over:
            return  # the command tells the end
        self._display.keep_footer(lambda: footer_lines(report, self._clock()))
