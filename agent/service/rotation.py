"""SIGHUP: certificates, revocation lists, tokens and secrets are read again, while everything else goes on.

The whole configuration and its files are checked before anything is exchanged: where one has a fault, all that was in
force stays in force, and the log says why. Then every connection is closed that came in by a credential which is not
taken any more. Other options that have changed wait for a restart; the log names them.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from agent.aio import run_blocking
from agent.errors import ConfigInvalid, Fault
from agent.service.api.auth import Authenticator
from agent.service.config.check import explain, find_warnings
from agent.service.config.model import Config
from agent.service.config.options import OPTIONS
from agent.service.http.server import Server
from agent.service.http.sockets import Certificates, ListenError, ListeningSocket, tls_files
from agent.service.jobs.receipts import Receipts

if TYPE_CHECKING:
    from agent.service.control.poller import ControlClient  # only where one is configured

log = structlog.get_logger(__name__)

# The options whose new values are taken up at SIGHUP.
_TAKEN_UP = {key for key, option in OPTIONS.items() if option.secret} | {
    "api.tls_cert",
    "api.tls_key",
    "api.client_ca",
    "api.client_crl",
    "api.ovh.application_key",
    "control_plane.ca_file",
}


class Rotation:
    """Exchanges the credentials of a running daemon."""

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config],
        listeners: Sequence[ListeningSocket],
        authenticator: Authenticator,
        client: "ControlClient | None",
        receipts: Receipts,
        show: Callable[[Sequence[Fault], Sequence[Fault]], None],
    ) -> None:
        """Args:
        config: that the daemon was started with.
        reread: reads it again, and checks the files that it names; blocking. Raises ConfigInvalid.
        listeners: those with TLS get the new certificates.
        authenticator: checks callers by the new credentials.
        client: shows the control plane the new token; None where no control plane is configured.
        receipts: are signed by the new key.
        show: is told the faults that kept a configuration from being taken up, and the warnings of one that was.
        """
        self._config = config
        self._reread = reread
        self._listeners = listeners
        self._authenticator = authenticator
        self._client = client
        self._receipts = receipts
        self._show = show

    async def reload(self, server: Server) -> None:
        """Take up what there is now, and close the server's connections of callers who would be refused now."""
        try:
            config = await run_blocking(self._reread)
            await self._renew_certificates(config)
        except (ConfigInvalid, ListenError) as error:
            faults = (
                error.faults
                if isinstance(error, ConfigInvalid)
                else (Fault("api", str(error), ConfigInvalid.code),)
            )
            log.error("reload_refused", faults=[str(fault) for fault in faults])  # noqa: TRY400 - the text says all
            self._show(faults, ())
            return
        self._show((), await run_blocking(find_warnings, config))
        api = config.api
        self._authenticator.take(api.token, accept_client_certificates=api.client_ca is not None, ovh=api.ovh)
        self._receipts.renew(config.receipt.key)
        if self._client is not None and config.control_plane is not None:
            await self._client.renew(config.control_plane)
        dropped = server.drop_outdated(self._authenticator.is_current)
        log.info("reloaded", connections_dropped=dropped, needs_restart=changed(self._config, config))

    async def _renew_certificates(self, config: Config) -> None:
        files = tls_files(config.api)
        for listener in self._listeners:
            if isinstance(listener.certificates, Certificates) and files is not None:
                await run_blocking(listener.certificates.load, files)


def changed(old: Config, new: Config) -> list[str]:
    """The options whose new value is not taken up without a restart."""
    before, after = ({row.key: row.value for row in explain(config)} for config in (old, new))
    keys = sorted((before.keys() | after.keys()) - _TAKEN_UP)
    return [key for key in keys if before.get(key) != after.get(key)]
