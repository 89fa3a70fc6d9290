"""SIGHUP: certificates, revocation lists, tokens and secrets are taken up anew, while everything else goes on.

All of it or nothing: where a file has a fault, what was in force stays in force, and the log says why. Whoever came in
by a credential that is gone is out when it is done. What else has changed in the configuration waits for a restart.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from agent.aio import run_blocking
from agent.errors import ConfigInvalid
from agent.service.api.auth import Authenticator
from agent.service.api.server import Server
from agent.service.api.sockets import Listener, ListenError, tls_files
from agent.service.config.check import explain
from agent.service.config.model import Config
from agent.service.config.options import OPTIONS

if TYPE_CHECKING:
    from agent.service.control.poller import ControlClient  # only where one is configured

log = structlog.get_logger(__name__)

_TAKEN_UP = {key for key, option in OPTIONS.items() if option.secret} | {
    "api.tls_cert",
    "api.tls_key",
    "api.client_ca",
    "api.client_crl",
    "api.ovh.application_key",
    "control_plane.ca_file",
}


class Rotation:
    """What can be exchanged of a running daemon."""

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config],
        listeners: Sequence[Listener],
        authenticator: Authenticator,
        client: "ControlClient | None",
    ) -> None:
        """Args:
        config: that the daemon was started with.
        reread: reads it again, and looks at its files; blocking. Raises ConfigInvalid.
        listeners: whose certificates are renewed.
        authenticator: takes the new credentials.
        client: shows the new token.
        """
        self._config = config
        self._reread = reread
        self._listeners = listeners
        self._authenticator = authenticator
        self._client = client

    async def turn(self, server: Server) -> None:
        """Take up what there is now, and close the connections of those who would not be let in any more."""
        try:
            config = await run_blocking(self._reread)
            await self._renew_certificates(config)
        except (ConfigInvalid, ListenError) as error:
            faults = (
                [str(fault) for fault in error.faults] if isinstance(error, ConfigInvalid) else [str(error)]
            )
            log.error("reload_refused", faults=faults)  # noqa: TRY400 - the text says all
            return
        api = config.api
        self._authenticator.take(api.token, accept_client_certificates=api.client_ca is not None, ovh=api.ovh)
        if self._client is not None and config.control_plane is not None:
            await self._client.renew(config.control_plane)
        dropped = server.drop_outdated(self._authenticator.is_current)
        log.info("reloaded", connections_dropped=dropped, needs_restart=changed(self._config, config))

    async def _renew_certificates(self, config: Config) -> None:
        files = tls_files(config.api)
        for listener in self._listeners:
            if listener.certificates is not None and files is not None:
                await run_blocking(listener.certificates.load, files)


def changed(old: Config, new: Config) -> list[str]:
    """The options whose new value is not taken up without a restart."""
    before, after = ({row.key: row.value for row in explain(config)} for config in (old, new))
    keys = sorted((before.keys() | after.keys()) - _TAKEN_UP)
    return [key for key in keys if before.get(key) != after.get(key)]
