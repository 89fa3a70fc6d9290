"""An agent that cannot start, because its configuration has faults, and stays to tell them.

Nobody sees the log of a rescue that has no network yet, or the wrong one. So the faults are served where the console
and `byoi status` look: on the Unix socket. Nothing else is: no job is taken, none is begun again, the journal is left
alone, and the network is not listened on.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence

import structlog

from agent.aio import alongside, run_blocking
from agent.errors import ConfigInvalid, Fault
from agent.model.surroundings import configuration_member
from agent.service.api.unconfigured import make_unconfigured_app
from agent.service.config.model import Config
from agent.service.http.server import serve
from agent.service.http.sockets import ListeningSocket
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.view import idle_document
from agent.service.notify import Notifier, keep_alive, keep_status
from agent.service.whereabouts import keep_agent, show_agent

log = structlog.get_logger(__name__)


class Unconfigured:
    """One such agent. `run` is called once."""

    def __init__(
        self,
        server_name: str | None,
        faults: Sequence[Fault],
        socket: ListeningSocket,
        reread: Callable[[], Config],
    ) -> None:
        """Nothing is told yet.

        Args:
            server_name: where that at least is known.
            faults: of the configuration.
            socket: the Unix socket; closed at the end.
            reread: reads the configuration again, at SIGHUP; blocking. Raises ConfigInvalid.
        """
        self._socket = socket
        self._reread = reread
        self._publisher = StatusPublisher(idle_document(server_name))
        self._publisher.surround(controlPlane=None)
        self._show(faults)
        self._event = asyncio.Event()
        self._stopped = False

    async def run(self) -> Config | None:
        """Tell the faults until there are none any more, or SIGTERM or SIGINT comes.

        Returns:
            The configuration, once it has no fault; None where the agent is to end.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._event.set)
        notifier = Notifier()
        await show_agent(self._publisher, [self._socket])
        async with (
            serve(make_unconfigured_app(self._publisher), [self._socket]),
            alongside(keep_status(notifier, self._publisher)),
            alongside(keep_alive(notifier)),
            alongside(keep_agent(self._publisher, [self._socket])),
        ):
            notifier.send(READY="1")
            config = await self._mended()
        if config is None:
            notifier.send(STOPPING="1")
        notifier.close()
        return config

    def _stop(self) -> None:
        self._stopped = True
        self._event.set()

    async def _mended(self) -> Config | None:
        while True:
            await self._event.wait()
            self._event.clear()
            if self._stopped:
                return None
            try:
                return await run_blocking(self._reread)
            except ConfigInvalid as error:
                log.error("reload_refused", faults=[str(fault) for fault in error.faults])  # noqa: TRY400
                self._show(error.faults)

    def _show(self, faults: Sequence[Fault]) -> None:
        self._publisher.surround(configuration=configuration_member(faults, in_force=False))
