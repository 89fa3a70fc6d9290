"""Follows the daemon's deployment by long polls and shows it on a display. A daemon that restarts is waited for."""

import asyncio
import time
from collections.abc import Callable

from agent.cli.client import Client
from agent.cli.console import footer_lines
from agent.cli.display import Display
from agent.cli.failures import Unreachable
from agent.cli.report import Report, changes
from agent.model.status import Status
from agent.text import printable

POLL_SECONDS = 30.0
RETRY_SECONDS = 1.0
# How long a daemon that has answered before may be away (systemd starts it again) until that is an error.
PATIENCE_SECONDS = 60.0


class Watcher:
    """Follows one deployment, or one after another. `run` is called once.

    Args:
        client: asks the daemon.
        display: shows stage events, progress and the footer.
        forever: goes on after the end of a deployment, and waits for a daemon that does not run.
        clock: seconds since the epoch.
    """

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
        """The next report: at once after the start and after an outage, else once there is a new revision."""
        while True:
            since = None if self._report is None or self._lost_at is not None else self._report.revision
            began = self._clock()
            try:
                report = await self._client.report(since, POLL_SECONDS)
            except Unreachable as error:
                self._show_unreachable(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._lost_at = None
            if report.revision == since and self._clock() - began < RETRY_SECONDS:
                await asyncio.sleep(
                    RETRY_SECONDS
                )  # it answered without waiting: ask no more than once a second
            return report

    def _show_unreachable(self, error: Unreachable) -> None:
        """Show why the daemon does not answer, or raise the error where it is not waited for any longer."""
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
            return  # the command prints the end
        self._display.keep_footer(lambda: footer_lines(report, self._clock()))
